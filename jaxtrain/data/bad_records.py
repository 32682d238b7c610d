"""Records that cannot be used: refused, or skipped, counted and listed."""

import base64
import codecs
import json
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.files import atomic, cache

LISTED = "skipped.jsonl"
_MEMORY = 1 << 20  # bytes of the list that are held in memory; more are on the disk
_CUT = 1 << 20  # bytes of a record that are listed; of a longer one their number too


class Skips:
    """The bad records of a source, by --on_bad_record: `raise` refuses the first, `skip` lists them."""

    def __init__(self, policy: str):
        self._policy = policy
        self._file = tempfile.SpooledTemporaryFile(_MEMORY)  # noqa: SIM115 (closed with this object)
        weakref.finalize(self, self._file.close)
        self.count = 0
        self.first: dict[str, Any] = {}  # {"where", "reason"} of the first, once there is one

    def __len__(self) -> int:
        return self.count

    def bad(self, where: str, reason: str, raw: bytes | None = None) -> None:
        """Lists the record at `where`, with its bytes where `raw` has them. Raises ConfigError under `raise`."""
        if self._policy == "raise":
            raise ConfigError(
                f"{where}: {reason}; correct it, or skip and count such records: --on_bad_record=skip"
            )
        one = {"where": where, "reason": reason}
        self.first = self.first or one
        self.count += 1
        # Paths and reasons may hold half a surrogate pair, which UTF-8 has not.
        line = json.dumps(one | ({} if raw is None else raw_fields(raw)))
        self._file.write(line.encode() + b"\n")

    def bad_file(self, path: Path, reason: str) -> None:
        """Lists a whole file. Raises ConfigError under `raise`, and advises no skipping."""
        if self._policy == "raise":
            raise ConfigError(f"{path}: {reason}")
        self.bad(str(path), reason)

    def save(self, folder: Path, name: str = LISTED) -> Path:
        """Writes them to a file, one a line, and returns its path; an empty file means that there were none."""
        self._file.seek(0)
        with atomic.replacing(folder / name) as file:
            shutil.copyfileobj(self._file, file)
        self._file.seek(0, 2)
        return folder / name

    def content(self) -> bytes:
        """The list, JSON lines."""
        self._file.seek(0)
        content = self._file.read()
        self._file.seek(0, 2)
        return content

    def in_words(self, cache_dir: Path) -> str:
        """Their number and the first, and the file in the cache that lists them all, which is written."""
        name = cache.digest(self.count, self.first)
        path = cache_dir / "bad_records" / f"{name}.jsonl"
        with cache.full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.save(path.parent, path.name)
        first = f"{self.first['where']}: {self.first['reason']}"
        return f"{self.count:,} bad records skipped, the first {first}; listed in {path}"


def raw_fields(raw: bytes) -> dict[str, Any]:
    """{"line": text}, or {"line_base64": …} where the bytes are no UTF-8; with `listed_bytes` where it is cut."""
    first = raw[:_CUT]
    cut = {} if first == raw else {"listed_bytes": f"the first {_CUT:,}"}
    try:
        # A character that the cut divides is left out.
        return {"line": codecs.getincrementaldecoder("utf-8")().decode(first, final=not cut)} | cut
    except UnicodeDecodeError:
        return {"line_base64": base64.b64encode(first).decode()} | cut


def skipped(folder: Path) -> int:
    """How many bad records the cached folder left out."""
    with (folder / LISTED).open("rb") as file:
        return sum(1 for _ in file)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode the text; JSON's escapes can name half a surrogate pair, which it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
