"""The words of the filtering stage: a check reads a text and returns what it found; a step names a check and acts."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple


class Finding(NamedTuple):
    """One thing that a check found in a text."""

    rule: str  # such as "gopher_word_count", "email", "card"
    score: float  # what was measured (a count, a share, a probability)
    span: tuple[int, int] | None = None  # characters of the text that it is about; None: all of it
    replacement: str | None = None  # what the span becomes where the step masks; None: nothing is changed


def lowered(text: str) -> str:
    """The text in small letters, each in its place: İ alone would become two."""
    return text.replace("İ", "I").lower()


Check = Callable[[str], Sequence[Finding]]  # pure; nothing found = the text is fine


class FilterStep(NamedTuple):
    """A named check of the pipeline and what becomes of a document in which it finds something."""

    name: str
    make: Callable[[Any], Check]  # builds the check from the step's settings, inside a worker process
    action: Literal["drop", "mask"] = "drop"
