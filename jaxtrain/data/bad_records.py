"""Records that cannot be used: refused, or skipped, counted and listed."""

from pathlib import Path

from jaxtrain.config import ConfigError
from jaxtrain.files import atomic

_LIST = "skipped.jsonl"


class Skips:
    """The bad records of a source, by --on_bad_record: `raise` refuses the first, `skip` lists them."""

    def __init__(self, policy: str):
        self._policy = policy
        self.lines: list[dict[str, str]] = []

    def bad(self, where: str, reason: str) -> None:
        """Lists the record at `where`. Raises ConfigError under `raise`."""
        if self._policy == "raise":
            raise ConfigError(
                f"{where}: {reason}; mend it, or skip and count such records: --on_bad_record=skip"
            )
        self.lines.append({"where": where, "reason": reason})

    def save(self, folder: Path) -> None:
        """Writes them to `skipped.jsonl`, one a line; an empty file means that there were none."""
        with (folder / _LIST).open("w", encoding="utf-8") as file:
            for line in self.lines:
                file.write(atomic.json_line(line))


def skipped(folder: Path) -> int:
    """How many bad records the cached folder left out."""
    with (folder / _LIST).open("rb") as file:
        return sum(1 for _ in file)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode the text; JSON's escapes can name half a surrogate pair, which it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
