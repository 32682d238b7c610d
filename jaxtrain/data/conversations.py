"""Conversations that end with a question: the prompts of synthesis, evaluation and annotation."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import record_formats, source_spec, sources
from jaxtrain.data.jsonl import Skips
from jaxtrain.data.record_formats import BadRecord, Dialog, Message


class SourceConversation(NamedTuple):
    """A conversation from a source, up to where an answer is wanted, and the answer that it had there, if any."""

    messages: tuple[Message, ...]
    answer: str
    name: str  # as provenance has it
    record: Mapping[str, Any] = {}


def read_conversations(text: str, flag: str, cache_dir: str, limit: int) -> list[SourceConversation]:
    """The distinct conversations of sources up to where an answer is wanted, `limit` of them at most, 0 is all."""
    reading = config.Dialogs(eval_data=text, cache_dir=cache_dir)  # so that nothing is held out
    found: dict[str, SourceConversation] = {}
    source_spec.check_sources(text, reading, flag)
    for source in source_spec.parse(text, flag):
        records = sources.train_and_held_out(source, reading, None)[0]
        form = record_formats.detect(records, source, record_formats.OPENING, flag)
        for number, (messages, answer) in record_formats.each(
            records, form, Skips("raise"), _opening, lambda done: None
        ):
            if limit and len(found) >= limit:
                break
            key = json.dumps(messages, sort_keys=True)
            name = f"{source.label} record {records.source_number(number)}"
            found.setdefault(key, SourceConversation(messages, answer, name, records[number]))
    if not found:
        raise ConfigError(f"--{flag}={text}: no conversation there")
    return list(found.values())


def _opening(item: Any) -> tuple[tuple[Message, ...], str]:
    """(the conversation before its last answer, that answer, empty where there is none)."""
    messages, answer = (item.messages, "") if isinstance(item, Dialog) else (item.prompt, "")
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if messages[-1]["role"] == "assistant":
        messages, answer = messages[: answers[-1]], messages[-1]["content"]
    plain = tuple({"role": one["role"], "content": one["content"]} for one in messages)
    if not any(one["role"] == "user" for one in plain):
        raise BadRecord("no question: the conversation has no turn of a user")
    return plain, answer


def question(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user turn; empty where there is none."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
