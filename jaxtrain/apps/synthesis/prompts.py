"""Prompts for synthetic data: instructions for chat models, or pages that a base model continues.

A page has the lines `Human: …` and `AI: …`; a base model's completion counts up to the end of the line. On a page a
topic is the beginning of a question; in instructions it is the subject of the questions.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtrain.data.messages import Message
from jaxtrain.inference.llm import Request, user_messages
from jaxtrain.inference.llm_judge import conversation_text, last_line

_LINE = ("\n",)  # where a base model's line ends
_HUMAN, _AI = "Human:", "AI:"
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_ANSWER = re.compile(r"Answer:\s*(\S.*)")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_REPHRASED = (  # few-shot pairs of rephrasings for a base model
    ("How can I cook rice?", "What is the way to cook rice?"),
    ("Tell me who wrote this song.", "Who is the author of this song?"),
)


class PromptStyle(NamedTuple):
    """Requests without their sampling parameters, and the parsers of the replies, which return None where malformed."""

    # (topic, count, examples, whether they should take reasoning)
    questions: Callable[[str, int, Sequence[str], bool], Request]
    read_questions: Callable[[str, str], list[str] | None]  # (topic, reply)
    # (conversation, topic, whether the expert is a chat model)
    answer: Callable[[tuple[Message, ...], str, bool], Request]
    reason: Callable[[tuple[Message, ...], str, bool], Request]
    final: Callable[[str], str | None]  # the final answer of a reasoning text
    turn: Callable[[tuple[Message, ...], str], Request]  # (conversation, topic) -> the next user turn
    read_turn: Callable[[str, str], str | None]  # (topic of a first turn, reply)
    rephrase: Callable[[str, int], Request]  # (text, count)
    read_texts: Callable[[str], list[str] | None]
    several: bool  # whether one request can give several questions


def _questions(topic: str, count: int, examples: Sequence[str], reasoning: bool) -> Request:
    wanted = (
        "that take several steps of reasoning and have one short answer"
        if reasoning
        else "that differ in kind"
    )
    like = "".join(f"\n- {one}" for one in examples)
    like = f" Their style is that of these examples, which must not come again:{like}\n" if like else " "
    return Request(
        user_messages(
            f"Write {count} questions about {topic} that a person might ask an assistant, {wanted}.{like}"
            "Reply with a JSON list of strings and nothing else."
        )
    )


def read_list(text: str) -> list[str] | None:
    """The strings of a JSON list, which may stand in a code fence; None where the text is anything else."""
    fenced = _FENCE.search(text)
    try:
        items = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(items, list)
        or not items
        or not all(isinstance(one, str) and one.strip() for one in items)
    ):
        return None
    return [" ".join(one.split()) for one in items]


def _answer(messages: tuple[Message, ...], topic: str, chat: bool) -> Request:
    of = f" on {topic}" if topic else ""
    return Request(_instructed(messages, f"You are an expert{of}. Answer correctly, completely and clearly."))


def _reason(messages: tuple[Message, ...], topic: str, chat: bool) -> Request:
    instruction = (
        "Think step by step, a line a step. End with one line, Answer: and the answer alone, as short as it can "
        "be."
    )
    return Request(_instructed(messages, instruction))


def _instructed(messages: tuple[Message, ...], instruction: str) -> tuple[Message, ...]:
    if messages[0]["role"] == "system":
        return ({"role": "system", "content": f"{messages[0]['content']}\n{instruction}"}, *messages[1:])
    return ({"role": "system", "content": instruction}, *messages)


def _final(text: str) -> str | None:
    match = _ANSWER.fullmatch(last_line(text))
    return normalised_answer(match[1]) if match else None


def normalised_answer(answer: str) -> str:
    """An answer normalised for comparison: no case, no spaces around, no full stop, no commas in numbers, 3.0 as 3."""
    text = " ".join(answer.casefold().split()).strip(" .*$`")
    number = re.fullmatch(r"-?[\d,]*\.?\d+", text)
    return f"{float(text.replace(',', '')):.12g}" if number else text


def _turn(messages: tuple[Message, ...], topic: str) -> Request:
    if not messages:
        return Request(
            user_messages(
                f"A person begins to talk to an assistant about {topic}. Write the person's first message, and nothing "
                "else."
            )
        )
    conversation = conversation_text(messages)
    return Request(
        user_messages(
            f"This is a conversation of a person with an assistant about {topic}:\n\n{conversation}\n\nWrite what "
            "the person says next, a question that follows from it, and nothing else."
        )
    )


def _rephrase(text: str, count: int) -> Request:
    return Request(
        user_messages(
            f"Say this in {count} other ways that mean exactly the same:\n\n{text}\n\nReply with a JSON list of "
            "strings and nothing else."
        )
    )


INSTRUCT = PromptStyle(
    questions=_questions,
    read_questions=lambda topic, text: read_list(text),
    answer=_answer,
    reason=_reason,
    final=_final,
    turn=_turn,
    read_turn=lambda topic, text: text.strip() or None,
    rephrase=_rephrase,
    read_texts=read_list,
    several=True,
)


def page(messages: Sequence[Message]) -> str:
    """A conversation as the lines of a page."""
    marks = {"user": f"{_HUMAN} ", "assistant": f"{_AI} "}
    return "\n".join(f"{marks.get(one['role'], '')}{' '.join(one['content'].split())}" for one in messages)


def _raw(text: str) -> Request:
    return Request(user_messages(text), stop=_LINE, raw=True)


def _base_questions(topic: str, count: int, examples: Sequence[str], reasoning: bool) -> Request:
    before = page([{"role": "user", "content": one} for one in examples])
    return _raw(f"{before}\n{_HUMAN}{' ' if topic else ''}{topic}".lstrip("\n"))


def _base_answer(messages: tuple[Message, ...], topic: str, chat: bool) -> Request:
    """A chat model gets the bare conversation: it may not be trained on instructions."""
    return Request(messages) if chat else _raw(f"{page(messages)}\n{_AI}")


def _base_turn(messages: tuple[Message, ...], topic: str) -> Request:
    before = page(messages)
    return _raw(f"{before}\n{_HUMAN}" if messages else f"{_HUMAN}{' ' if topic else ''}{topic}")


def _base_rephrase(text: str, count: int) -> Request:
    pairs = "".join(f"Text: {one}\nThe same: {other}\n" for one, other in _REPHRASED)
    return _raw(f"{pairs}Text: {' '.join(text.split())}\nThe same:")


def _line(text: str) -> str | None:
    """The first line of a reply, without a `Human:` before it."""
    return text.strip().split("\n")[0].removeprefix(_HUMAN).strip() or None


def _base_read(topic: str, text: str) -> list[str] | None:
    """The question that a reply completes, its topic included."""
    question = " ".join(f"{topic}{text}".split("\n")[0].split())
    return [question] if question != topic.strip() else None


def _base_read_turn(topic: str, text: str) -> str | None:
    questions = _base_read(topic, text)
    return questions[0] if questions else None


def _base_final(text: str) -> str | None:
    """The last number of a text without a line that says what its answer is; without a number the whole text."""
    numbers = _NUMBER.findall(text)
    return normalised_answer(numbers[-1] if numbers else text) or None


BASE = PromptStyle(
    questions=_base_questions,
    read_questions=_base_read,
    answer=_base_answer,
    reason=_base_answer,
    final=_base_final,
    turn=_base_turn,
    read_turn=_base_read_turn,
    rephrase=_base_rephrase,
    read_texts=lambda text: None if _line(text) is None else [_line(text)],
    several=False,
)
STYLES = {"instruct": INSTRUCT, "base": BASE}
