"""The types of the filters: a check maps a text to findings; a step is a named check and its action."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple


class Finding(NamedTuple):
    """A finding of a check in a text."""

    rule: str  # such as "gopher_word_count", "email", "card"
    score: float  # what the rule measured (a count, a share, a probability)
    span: tuple[int, int] | None = None  # characters of the text; None: all of it
    replacement: str | None = None  # of the span, where the step masks; None: no change


class Findings(list[Finding]):
    """The findings of a check in a text, and the rules that would have found something but do not hold for it."""

    def __init__(self, findings: Iterable[Finding] = (), unfit: Iterable[tuple[str, str]] = ()):
        super().__init__(findings)
        self.unfit = [
            *unfit
        ]  # (rule, why it does not hold), such as ("gopher_stop_words", "no words for sw")


def lowercase(text: str) -> str:
    """The text in lower case with every character in its place: lower() makes two of İ."""
    return text.replace("İ", "I").lower()


Check = Callable[[str], Sequence[Finding]]  # pure; no findings: the text passes


class FilterStep(NamedTuple):
    """A step of the pipeline: a check, and the action on a document with findings."""

    name: str
    build_check: Callable[[Any], Check]  # from the flags, in a worker process
    action: Literal["drop", "mask"] = "drop"
