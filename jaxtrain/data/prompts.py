"""Prompts to answer, from records of any format."""

import sys
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import dialogs, record_formats, source_spec, sources
from jaxtrain.data.chat import Template
from jaxtrain.data.jsonl import Skips
from jaxtrain.data.record_formats import BadRecord, Dialog, Message


class Prompt(NamedTuple):
    """A conversation up to where an answer is wanted."""

    messages: tuple[Message, ...]
    ids: np.ndarray  # i32[n], as training has them
    record: dict[str, Any]


def read_prompts(
    text: str,
    cfg: Dialogs,
    template: Template,
    *,
    limit: int = 0,
    flag: str = "prompts",
    train: bool = False,
) -> list[Prompt]:
    """Distinct prompts of the sources that `text` names, in their order: `limit` of them at most, 0 is all.

    A source's split is the one it names, else its validation or test split, else all of it; with `train`, what
    training would read of it. Of a conversation the part before its last answer counts. Bad records that are skipped
    are counted on stderr. Raises ConfigError, naming `flag`, where there is no prompt, or a bad record is not to be
    skipped.
    """
    found: dict[bytes, Prompt] = {}
    skips = Skips(cfg.on_bad_record)

    def ask(item: Any) -> tuple[tuple[Message, ...], np.ndarray]:
        messages = dialogs.with_system(_asked(item), cfg.system)
        return messages, template.prompt(messages)

    source_spec.check_sources(text, cfg, flag)
    for source in source_spec.parse(text, flag):
        if limit and len(found) >= limit:
            break
        records = (
            sources.train_and_held_out(source, cfg, None)[0] if train else sources.all_of(source, cfg, None)
        )
        form = record_formats.detect(records, source, record_formats.OPENING, flag)
        for number, (messages, ids) in record_formats.each(records, form, skips, ask, lambda done: None):
            found.setdefault(ids.tobytes(), Prompt(messages, ids, records[number]))
            if limit and len(found) >= limit:
                break
    if not found:
        raise ConfigError(f"--{flag}={text}: no prompt there ({len(skips.lines)} bad records)")
    if skips.lines:
        first = skips.lines[0]
        print(
            f"--{flag}: {len(skips.lines)} bad records skipped, the first {first['where']}: {first['reason']}",
            file=sys.stderr,
        )
    return list(found.values())


def _asked(item: Any) -> tuple[Message, ...]:
    if not isinstance(item, Dialog):
        return item.prompt
    answers = [i for i, message in enumerate(item.messages) if message["role"] == "assistant"]
    if item.messages[-1]["role"] == "user":
        return item.messages
    if not answers:
        raise BadRecord("no question: the conversation has no turn to answer")
    return item.messages[: answers[-1]]
