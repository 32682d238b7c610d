"""What a model wrote, taken apart: its thought and its answer, whole or as it comes."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple


class ThoughtMarks(NamedTuple):
    """The marks around a thought and, in some formats, around the answer after it."""

    start: str
    end: str
    answer_start: str = ""
    answer_end: str = ""


MARKS = (
    ThoughtMarks("<think>", "</think>"),
    ThoughtMarks("<thinking>", "</thinking>"),
    ThoughtMarks("<thought>", "</thought>"),
    ThoughtMarks("<reasoning>", "</reasoning>"),
    ThoughtMarks("<seed:think>", "</seed:think>"),
    ThoughtMarks("<longcat_think>", "</longcat_think>"),
    ThoughtMarks("[THINK]", "[/THINK]"),
    ThoughtMarks("◁think▷", "◁/think▷"),
    ThoughtMarks("<|channel>thought", "<channel|>"),
    ThoughtMarks("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ThoughtMarks(
        "<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"
    ),
)
# A turn of the harmony format is a row of messages, each with a channel. One with a recipient (`to=`) calls a tool.
# The recipient stands behind the role or the channel.
_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant(?: to=[^<]*)?)?<\|channel\|>([^<]*)(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_CHANNEL_STARTS = ("<|start|>assistant", "<|channel|>")
_CHANNEL_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_CHANNEL_END = re.compile("|".join(map(re.escape, _CHANNEL_ENDS)))
_THOUGHTS = "analysis"  # the channel of thoughts


def split_thought(
    text: str, opened: bool | None = False, marks: Sequence[ThoughtMarks] = MARKS
) -> tuple[str, str]:
    """(thought, answer) of what a model wrote in its turn; a text without a thought is an answer as it stands.

    A thought stands at the beginning: marks later in the text are the answer's own. One that never ends has no answer.
    `opened`: the prompt ended with the mark that opens the thought, so that the text begins inside it. None: nobody
    knows, as with an endpoint; then an end mark alone on its line, with no start mark before it, ends a thought too.
    """
    body = text.lstrip()
    if _CHANNEL.match(body):
        return _split_channels(body)
    if opened and (end := _CHANNEL_END.search(body)) and _CHANNEL.match(body, end.end()):
        thought, answer = _split_channels(body[end.end() :])
        return _joined([body[: end.start()], thought]), answer
    for one in marks:
        if body.startswith(one.start):
            return _split_at(body[len(one.start) :], one)
    if opened is None:
        opened = any(_ends_alone(body, one) for one in marks)
    if not opened:
        return "", text
    ending = [one for one in marks if one.end in body]
    return _split_at(body, min(ending, key=lambda one: body.index(one.end)) if ending else marks[0])


def split_unfinished_thought(
    text: str, opened: bool, marks: Sequence[ThoughtMarks] = MARKS
) -> tuple[str, str]:
    """(thought, answer) so far of a text of which more may come: what comes can only add to their ends."""
    body = text.lstrip()
    starts = (*(one.start for one in marks), *_CHANNEL_STARTS)
    if any(start.startswith(body) for start in starts):
        return "", ""
    if not opened and not body.startswith(starts):
        return "", text
    header = body.rfind("<|message|>") + 1
    body = body[
        : min((at for one in _CHANNEL_STARTS if (at := body.find(one, header)) >= 0), default=len(body))
    ]
    end = _CHANNEL_END.search(body)
    if opened and end and not _CHANNEL.match(body, end.end()):
        body = body[: end.start()]
    every = {mark for one in marks for mark in one if mark} | {*_CHANNEL_STARTS, *_CHANNEL_ENDS}
    return split_thought(body[: len(body) - partial_length(body, every)], opened, marks)


def opens_thought(prompt: str, marks: Sequence[ThoughtMarks] = MARKS) -> bool:
    """Whether a prompt ends inside a thought that it opens."""
    end = prompt.rstrip()
    return end.endswith(tuple(one.start for one in marks)) or end.endswith(
        f"<|channel|>{_THOUGHTS}<|message|>"
    )


def partial_length(text: str, marks: Collection[str]) -> int:
    """The number of last characters that may be the beginning of one of the marks."""
    longest = max(map(len, marks), default=1) - 1
    return next(
        (n for n in range(min(longest, len(text)), 0, -1) if any(one.startswith(text[-n:]) for one in marks)),
        0,
    )


def _split_at(body: str, marks: ThoughtMarks) -> tuple[str, str]:
    thought, _, answer = body.partition(marks.end)
    answer = answer.lstrip()
    if marks.answer_start and answer.startswith(marks.answer_start):
        answer = answer.removeprefix(marks.answer_start).lstrip()
        answer = answer.rstrip().removesuffix(marks.answer_end).rstrip()
    return thought.strip(), answer


def _ends_alone(body: str, marks: ThoughtMarks) -> bool:
    before, end, _ = body.partition(marks.end)
    alone = re.search(rf"^[ \t]*{re.escape(marks.end)}[ \t]*$", body, re.MULTILINE)
    return bool(end) and marks.start not in before and alone is not None and alone.start() <= len(before)


def _split_channels(body: str) -> tuple[str, str]:
    """(thought, answer) of a turn in the harmony format; a message that calls a tool stays in the answer as it is."""
    thoughts, answers = [], []
    starts = [*_CHANNEL.finditer(body)]
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        stop = following.start() if following else len(body)
        header, content = start[1], _CHANNEL_END.sub("", body[start.end() : stop])
        calls = "to=" in start[0]
        if header.split()[:1] == [_THOUGHTS] and not calls:
            thoughts.append(content)
        else:
            answers.append(body[start.start() : stop] if calls else content)
    return _joined(thoughts), "\n".join(answers)


def _joined(parts: list[str]) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip())
