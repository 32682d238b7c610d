r"""Rewards of final answers that equal the reference by math-verify: \boxed{1/2} is 0.5.

The final answer of a text is the last \boxed{...}, else what follows the last ####, else the last expression or number.
Comparisons run in processes of their own (checker_processes), as sympy can take forever.
"""

import functools
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.rewards import checker_processes
from jaxtrain.rewards.verifier import FAILED, TIMED_OUT, Options, Verification, Verifier

EXTRA = "needs the package math-verify; pip install 'jaxtrain[math]'"
NO_ANSWER, NO_REFERENCE = "no_answer", "no_reference"
LONGEST = 2000  # characters of a final answer: no exercise has a longer one

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([^\s{$]+)")
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


class FinalAnswer(NamedTuple):
    """The part of a text that answers, and where it stood: "box", "mark" (after ####) or "text", which is all of it."""

    text: str
    place: str


def final_answer(text: str) -> FinalAnswer:
    r"""The final answer of a text that may think first: in \boxed{}, after ####, or all that follows the thinking."""
    text = text.rpartition("</think>")[2]
    if (content := _last_box(text)) is not None:
        return FinalAnswer(content, "box")
    _, marker, after = text.rpartition("####")
    if marker:
        return FinalAnswer(after.strip().partition("\n")[0].strip(), "mark")
    return FinalAnswer(text.strip(), "text")


def _last_box(text: str) -> str | None:
    r"""What stands in the last \boxed{...} whose braces close; None where there is none."""
    opened: list[tuple[int, int] | None] = []  # for each open brace: where its box starts, and its content
    last = (-1, "")
    for match in _BRACES.finditer(text):
        token = match[0]
        if token == "{":
            opened.append(None)
        elif token == "}":
            box = opened.pop() if opened else None
            if box and box[0] > last[0]:
                last = (box[0], text[box[1] : match.start()].strip())
        elif token.startswith(("\\boxed", "\\fbox")):
            opened.append((match.start(), match.end()))
    for match in _BARE_BOX.finditer(text):
        if match.start() > last[0]:
            last = (match.start(), match[1].rstrip(".,;"))
    return last[1] if last[0] >= 0 else None


def prepare() -> None:
    """Imports math-verify and has it build its grammars, in the process of a checker_worker."""
    check("\\boxed{1}", "$1$")


def check(answer: str, reference: str) -> str:
    """ "equal", "different", or which of the two cannot be read. Runs in the process of a checker_worker."""
    from math_verify import verify

    try:
        gold = _parsed(reference, True)
    except (
        Exception
    ):  # of the parser, which has many: whatever it is, the record has no answer to compare with
        gold = []
    if not gold:
        return NO_REFERENCE
    given = _parsed(answer, False)
    if not given:
        return NO_ANSWER
    same = verify(gold, given, timeout_seconds=None, raise_on_error=True)
    return "equal" if same else "different"


@functools.lru_cache(maxsize=256)
def _parsed(text: str, is_reference: bool) -> list[Any]:
    """What math-verify reads in a text; without its own timeouts, which would undo those of the process."""
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no timeout
    read = functools.partial(parse, parsing_timeout=None, raise_on_error=True)
    answer, place = final_answer(text)
    if not answer:
        return []
    has_words = bool(_WORD.search(answer))
    if place == "box" or (not has_words and (is_reference or place == "mark")):
        return read(f"\\boxed{{{answer}}}")  # all of it is one expression
    if result := read(answer):
        return result
    if numbers := NUMBER.findall(answer):
        return read(numbers[-1])
    return read(f"\\boxed{{{answer}}}") if is_reference or place == "mark" else []


def _verified(
    completions: Sequence[str], columns: Mapping[str, list], options: Options
) -> list[Verification]:
    """1 for an answer that equals its record's reference, else 0; None for a record without a reference."""
    references = [None if value is None else str(value).strip() for value in columns["answer"]]
    verified: dict[int, Verification] = {}
    for row, (text, reference) in enumerate(zip(completions, references, strict=True)):
        if not reference:
            verified[row] = Verification(None, NO_REFERENCE, f"the record's {options['answer']} is empty")
            continue
        answer = final_answer(text)
        if not answer.text or (answer.place != "text" and len(answer.text) > LONGEST):
            verified[row] = Verification(0.0, NO_ANSWER)
    left = [row for row in range(len(completions)) if row not in verified]
    requests = [{"answer": completions[row], "reference": references[row]} for row in left]
    results = checker_processes.run(__name__, requests, options["seconds"])
    for row, result in zip(left, results, strict=True):
        verified[row] = _verification(result, references[row])
    return [verified[row] for row in range(len(completions))]


def _verification(result: checker_processes.CheckResult, reference: str) -> Verification:
    if result.fault:
        return Verification(0.0, result.fault, result.detail)
    if result.value == NO_REFERENCE:
        return Verification(None, NO_REFERENCE, f"math-verify reads no answer in {reference[:80]!r}")
    return Verification(float(result.value == "equal"), NO_ANSWER if result.value == NO_ANSWER else "")


def _missing(options: Options) -> str:
    return "" if importlib.util.find_spec("math_verify") else EXTRA


REWARD = Verifier(
    check=_verified,
    options={"answer": "answer", "seconds": 5.0},
    columns=("answer",),
    faults=(TIMED_OUT, FAILED, NO_ANSWER, NO_REFERENCE),
    quiet=(NO_ANSWER,),
    refuse=_missing,
)
