"""--env=gsm8k:DATA: word problems with a calculator, the reward of which is the final answer.

A record has `question` and `answer`, at whose end the number stands behind ####, as in GSM8K (arXiv:2110.14168). DATA
is a source as --data has them. jax is not imported here.
"""

import functools
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import record_fields, record_formats, source_spec, sources, summary
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.messages import BadRecord, Message, text_of
from jaxtrain.data.record_fields import RecordFields
from jaxtrain.files import cache
from jaxtrain.rewards import math_answers
from jaxtrain.rl.calculator import calculate, number_text
from jaxtrain.rl.environments import Observation
from jaxtrain.rl.tool_environment import ToolEnvironment

PREFIX, MARK = "gsm8k:", "####"
INSTRUCTION = (
    "You may call calculator(expression), such as calculator(3 * (4 + 5)); its result comes as the next message. End "
    "with #### and the number."
)
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "The value of an arithmetic expression of numbers, + - * / and parentheses.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "Such as 3 * (4 + 5)"}},
            "required": ["expression"],
        },
    },
}
_PLAIN = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:/[0-9]+)?")
_LONGEST = 40  # characters of a number
_SECONDS = 5.0  # of a comparison by math-verify


class MathProblem(NamedTuple):
    question: str
    answer: Fraction


class Problems(NamedTuple):
    """The problems of a source, lines about what it left out, and the digest of all."""

    problems: tuple[MathProblem, ...]
    lines: tuple[str, ...]
    digest: str


def number_of(text: str) -> Fraction | None:
    """The number that a text is, with its $, %, commas and full stop or without; None where it is none."""
    plain = text.replace("$", "").replace(",", "").strip().rstrip(".%").strip()
    if len(plain) > _LONGEST or not _PLAIN.fullmatch(plain):
        return None
    try:
        return Fraction(plain)
    except ZeroDivisionError:
        return None


@functools.lru_cache(maxsize=8)
def read_problems(text: str, data: Dialogs) -> Problems:
    """The problems of the sources that `text` names. `data` says how records are read, and what becomes of bad ones.

    Raises ConfigError where there is no problem, and for a bad record that is not to be skipped.
    """
    label, skips, problems, lines = f"--env={PREFIX}{text}", Skips(data.on_bad_record), [], []
    columns = record_fields.columns_of(data.columns)
    try:
        for source in source_spec.parse(text, "env"):
            records = sources.whole(source, data, None)
            lines += summary.of_files(records)
            for start, block in records.blocks():
                for i, record in enumerate(block, start):
                    read = functools.partial(_problem, RecordFields(record, columns))
                    one = record_formats.attempt(read, skips, functools.partial(records.where, i))
                    problems += [] if one is record_formats.BAD else [one]
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from error
    lines += [skips.in_words(sources.cache_dir(data))] if skips else []
    if not problems:
        raise ConfigError("; ".join([f"{label}: no problem there", *lines]))
    return Problems(tuple(problems), tuple(lines), cache.digest(*(f"{q}\n{a}" for q, a in problems)))


def _problem(record: RecordFields) -> MathProblem:
    question, answer = (text_of(record.get(name), name).strip() for name in ("question", "answer"))
    if not question:
        raise BadRecord("no question: its question is empty")
    _, mark, end = answer.rpartition(MARK)
    number = number_of(end.strip().partition("\n")[0])
    if not mark or number is None:
        raise BadRecord(f"no answer: its answer does not end with {MARK} and a number")
    return MathProblem(question, number)


def open_problems(
    text: str, data: Dialogs, fits: Callable[[Sequence[Message], Mapping[str, Any]], bool]
) -> tuple[Callable[[], "Gsm8k"], list[str]]:
    """(what makes an environment of those problems whose first messages fit, lines about them, for people)."""
    read = read_problems(text, data)
    fitting = [one for one in read.problems if fits(first_messages(one), Gsm8k.template_kwargs)]
    if not fitting:
        raise ConfigError(
            f"--env={PREFIX}{text}: none of its {len(read.problems):,} problems leaves room for a completion: raise "
            "--seq_len"
        )
    lines, left = [f"{len(fitting):,} problems of {text}", *read.lines], len(read.problems) - len(fitting)
    if left:
        lines.append(f"{left:,} problems that leave no room for --max_new in --seq_len are left out")
    how = "math-verify, where they are no plain numbers" if _has_math_verify() else "their numbers alone"
    return functools.partial(Gsm8k, fitting), [*lines, f"final answers are compared by {how}"]


def first_messages(problem: MathProblem) -> list[Message]:
    """The messages that an episode of a problem begins with."""
    return [{"role": "user", "content": f"{problem.question}\n\n{INSTRUCTION}"}]


class Gsm8k(ToolEnvironment):
    """A problem that is drawn by the episode's seed. An answer without a call ends it: 1 where its number is right."""

    template_kwargs: Mapping[str, Any] = {"tools": [CALCULATOR]}

    def __init__(self, problems: Sequence[MathProblem] = ()):
        self._problems = problems
        self.tools = {"calculator": calculate}

    def reset(self, row: Mapping[str, Any], seed: int) -> Sequence[Message]:
        self._problem = self._problems[seed % len(self._problems)]
        return first_messages(self._problem)

    def step(self, completion: str) -> Observation:
        seen = super().step(completion)
        return seen._replace(metrics={"success": seen.reward, "no_answer": 0, **seen.metrics})

    def answer(self, text: str) -> Observation:
        right, answered = graded(text, self._problem.answer)
        return Observation(reward=float(right), done=True, metrics={"no_answer": not answered})


def graded(text: str, wanted: Fraction) -> tuple[bool, bool]:
    """(whether the final answer of a text is a number, whether the text has one), of what `final_answer` finds there.

    Where it is marked and no plain number, such as a fraction in LaTeX, math-verify compares it, if it is installed;
    else the last number in it counts, as it does of a text without a mark.
    """
    answer, place = math_answers.final_answer(text)
    number = number_of(answer) if place != "text" else None
    if number is None and answer and place != "text" and _has_math_verify():
        options = {**math_answers.REWARD.options, "seconds": _SECONDS}
        (one,) = math_answers.REWARD.check([text], {"answer": [number_text(wanted)]}, options)
        return one.reward == 1.0, not one.fault
    if number is None and (numbers := math_answers.NUMBER.findall(answer)):
        number = number_of(numbers[-1])
    return number == wanted, number is not None


def _has_math_verify() -> bool:
    return importlib.util.find_spec("math_verify") is not None
