r"""Rewards of texts of a wanted form: a named structure such as <think>...</think><answer>...</answer>, or a pattern.

A regular expression can take exponential time on a text that a policy wrote, inside one call that nothing interrupts.
So patterns are matched in processes of their own (checker_processes). The named structures are searched without one.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence

from jaxtrain.rewards import checker_processes
from jaxtrain.rewards.math_answers import final_answer
from jaxtrain.rewards.verifier import FAILED, TIMED_OUT, Options, Verification, Verifier

NO_PATTERN, BAD_PATTERN = "no_pattern", "bad_pattern"
MODES: Mapping[str, Callable[[re.Pattern, str], re.Match | None]] = {
    "search": re.Pattern.search,
    "match": re.Pattern.match,
    "fullmatch": re.Pattern.fullmatch,
}


def _tagged(text: str, *tags: str) -> list[str] | None:
    """The texts between <tag> and </tag> of `tags`, in order, and what follows; None unless each stands just once."""
    parts, rest = [], text.strip()
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1 or not rest.startswith(opening):
            return None
        inside, found, rest = rest[len(opening) :].partition(closing)
        if not found or not inside.strip():
            return None
        parts.append(inside)
        rest = rest.lstrip()
    return [*parts, rest]


def _thinks(text: str) -> bool:
    parts = _tagged(text, "think")
    return parts is not None and bool(parts[-1])


def _thinks_and_answers(text: str) -> bool:
    parts = _tagged(text, "think", "answer")
    return parts is not None and not parts[-1]


def _answers(text: str) -> bool:
    parts = _tagged(text, "answer")
    return parts is not None and not parts[-1]


def _has_box(text: str) -> bool:
    answer = final_answer(text)
    return answer.place == "box" and bool(answer.text)


STRUCTURES: Mapping[str, Callable[[str], bool]] = {
    "think_answer": _thinks_and_answers,  # <think>...</think> <answer>...</answer> and nothing else
    "think": _thinks,  # <think>...</think>, then an answer
    "answer": _answers,  # <answer>...</answer> and nothing else
    "boxed": _has_box,  # \boxed{...}, after any thinking
}


def _structured(
    completions: Sequence[str], columns: Mapping[str, list], options: Options
) -> list[Verification]:
    has = STRUCTURES[options["structure"]]
    return [Verification(float(has(text))) for text in completions]


def _no_structure(options: Options) -> str:
    name = options["structure"]
    return "" if name in STRUCTURES else f"structure={name}: write one of {', '.join(STRUCTURES)}"


FORMAT = Verifier(check=_structured, options={"structure": "think_answer"}, refuse=_no_structure)


def check(pattern: str, text: str, mode: str) -> bool | None:
    """Whether a text matches; None for what is no pattern. Runs in the process of a checker_worker."""
    try:
        compiled = _compiled(pattern)
    except (re.error, RecursionError, OverflowError):
        return None
    return MODES[mode](compiled, text) is not None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern:
    return re.compile(pattern)


def _matched(completions: Sequence[str], columns: Mapping[str, list], options: Options) -> list[Verification]:
    """1 for a completion that matches the option's pattern, or its record's, else 0; None without a pattern."""
    patterns = columns["column"] if options["column"] != UNUSED else [options["pattern"]] * len(completions)
    verified = {
        row: Verification(None, NO_PATTERN, f"the record's {options['column']} is not the text of a pattern")
        for row, pattern in enumerate(patterns)
        if not isinstance(pattern, str) or not pattern
    }
    left = [row for row in range(len(completions)) if row not in verified]
    requests = [{"pattern": patterns[row], "text": completions[row], "mode": options["mode"]} for row in left]
    results = checker_processes.run(__name__, requests, options["seconds"])
    for row, result in zip(left, results, strict=True):
        if result.fault:
            verified[row] = Verification(0.0, result.fault, f"{result.detail}, by {patterns[row]!r}")
        elif result.value is None:
            verified[row] = Verification(None, BAD_PATTERN, f"{patterns[row]!r} is not a regular expression")
        else:
            verified[row] = Verification(float(result.value))
    return [verified[row] for row in range(len(completions))]


UNUSED = "_"  # a column that no record has


def _no_pattern(options: Options) -> str:
    if options["mode"] not in MODES:
        return f"mode={options['mode']}: write one of {', '.join(MODES)}"
    if bool(options["pattern"]) == (options["column"] != UNUSED):
        return 'write regex?pattern="..." or regex?column=COLUMN, which has a pattern for each record'
    try:
        re.compile(options["pattern"])
    except (re.error, RecursionError, OverflowError) as error:
        return f"pattern={options['pattern']}: no regular expression: {error}"
    return ""


REGEX = Verifier(
    check=_matched,
    options={"pattern": "", "column": UNUSED, "mode": "search", "seconds": 2.0},
    optional=("column",),
    faults=(TIMED_OUT, FAILED, NO_PATTERN, BAD_PATTERN),
    refuse=_no_pattern,
    lacks=lambda options, names: "" if options["column"] in {UNUSED, *names} else options["column"],
)
