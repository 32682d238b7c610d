"""The ids of what follows a completion in its conversation, where the completion keeps the ids that were sampled.

The whole conversation is never tokenised again: the messages after a completion are rendered behind a placeholder of
two turns, and what stands behind its end token are their ids. So a template that writes earlier turns otherwise than
the last one (it drops thoughts, say) changes nothing of what the model wrote.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.data.chat import Template
from jaxtrain.data.messages import BadRecord, Message

_USER = {"role": "user", "content": "Question?"}
_ANSWER = {"role": "assistant", "content": "Answer."}
_RESULT = {"role": "tool", "content": "Result.", "name": "lookup", "tool_call_id": "call00000"}


class NextTurn(NamedTuple):
    """How a chat template writes messages behind a completion."""

    # (messages, variables of the template) -> ids i32[n] up to where the next completion starts; raises BadRecord
    encode: Callable[[Sequence[Message], Mapping[str, Any]], np.ndarray]
    tool_role: str  # the role of a tool's result: "tool", or "user" where the template refuses that


def next_turn(template: Template) -> NextTurn:
    """How a template writes messages behind a completion. Raises BadRecord where it cannot write any."""

    def encode(messages: Sequence[Message], template_kwargs: Mapping[str, Any] = {}) -> np.ndarray:
        # The tools are listed in the first prompt; some templates would list them again before the last message.
        variables = {name: value for name, value in template_kwargs.items() if name != "tools"}
        errors: list[BadRecord] = []
        for answer in _placeholders(messages):
            try:
                return _behind(template, answer, messages, variables)
            except BadRecord as error:
                errors.append(error)
        raise errors[-1]

    encode([_USER])
    try:
        encode([_RESULT])
    except BadRecord:
        return NextTurn(encode, "user")
    return NextTurn(encode, "tool")


def _placeholders(messages: Sequence[Message]) -> list[Message]:
    """Answers that may stand before the messages: before a tool's result one with a call, where a template has any."""
    result = next((one for one in messages if one["role"] == "tool"), None)
    if result is None:
        return [_ANSWER]
    name, number = result.get("name", _RESULT["name"]), result.get("tool_call_id", _RESULT["tool_call_id"])
    call = {"type": "function", "id": number, "function": {"name": name, "arguments": {"key": "value"}}}
    return [{"role": "assistant", "content": "", "tool_calls": [call]}, _ANSWER]


def _behind(
    template: Template, answer: Message, messages: Sequence[Message], variables: Mapping[str, Any]
) -> np.ndarray:
    """The ids behind the end token of the answer that stands before the messages."""
    prompt, (ids,), _ = template.encode_completions([_USER], [answer], variables)
    before = np.concatenate([prompt, ids])
    whole = template.encode_prompt([_USER, answer, *messages], variables)
    last = len(before) - 1
    if np.array_equal(whole[:last], before[:last]) and whole[last] in template.tokenizer.specials.values():
        return whole[last + 1 :]  # some end the last turn with another token than earlier ones
    # The answer is written otherwise than as the last one: its end token is still the one after as many others.
    ends, earlier = np.flatnonzero(whole == ids[-1]), int((before[:-1] == ids[-1]).sum())
    if len(ends) <= earlier or len(ids) < 2 or whole[ends[earlier] - 1] != ids[-2]:
        raise BadRecord(
            f"refused by the chat template: {template.name} does not end an earlier answer as it ends the last one, so "
            "that no message can be written behind a completion whose tokens are kept"
        )
    return whole[ends[earlier] + 1 :]
