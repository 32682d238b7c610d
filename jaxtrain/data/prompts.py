"""Prompts from records of any format: conversations up to where a completion is wanted."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import (
    dialogs,
    message_trees,
    record_fields,
    record_formats,
    source_spec,
    sources,
    summary,
    text_prefixes,
)
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.chat import Template
from jaxtrain.data.conversations import Dialog
from jaxtrain.data.messages import BadRecord, Message
from jaxtrain.data.record_fields import FieldUse
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.data.text_prefixes import TextPrefix


class Prompt(NamedTuple):
    """A conversation up to where a completion is wanted, and the record that it is from."""

    messages: tuple[Message, ...]
    ids: np.ndarray | None = None  # i32[n], the tokens of the prompt; None where no template was given
    record: Mapping[str, Any] = {}
    answer: str = ""  # the record's own completion, read by `read_conversations` alone
    name: str = ""  # of the record, as provenance has it
    template_kwargs: Mapping[str, Any] = {}  # variables of the chat template besides messages


def read_prompts(
    text: str,
    cfg: Dialogs,
    template: Template,
    *,
    limit: int = 0,
    flag: str = "prompts",
    train: bool = False,
    required: bool = True,
    notes: list[str] | None = None,
) -> list[Prompt]:
    """The distinct tokenised prompts of the sources that `text` names, in order: at most `limit`, 0 is all.

    A source's split is the one it names, else its validation or test split, else all of it; with `train`, what
    training would read of it. Of a conversation the part before its last answer counts. Lines on bad records that
    are skipped, and on what the template does not write of a prompt, go to stderr, or, with lines on fields that no
    prompt has, to `notes`. Raises ConfigError, naming `flag`, for a bad record that is not to be skipped, and where
    there is no prompt; unless `required`, plain texts may have none.
    """
    skips, use, lost = Skips(cfg.on_bad_record), FieldUse(), Counter[str]()

    def records_of(source: DataSource) -> Records:
        if train:
            return sources.train_and_held_out(source, cfg, None, message_trees.assembled)[0]
        return message_trees.assembled(sources.all_of(source, cfg, None))

    def tokenised(item: Any) -> tuple[Hashable, Prompt]:
        if isinstance(item, TextPrefix):
            item = item.prompt(template.tokenizer)
        messages = dialogs.with_system(_before_answer(item), cfg.system)
        variables = item.template_kwargs
        ids = template.encode_prompt(messages, variables)
        lost.update(f"{summary.UNWRITTEN}{kind}" for kind in template.unwritten(messages, variables))
        return ids.tobytes(), Prompt(messages, ids, template_kwargs=variables)

    lines: list[str] = []
    prompts = _distinct(
        text, cfg, flag, limit, skips, use, records_of, tokenised, lines, texts=not required, prefixes=True
    )
    lines += [skips.in_words(sources.cache_dir(cfg))] if skips else []
    if not prompts and required:
        why = "".join(f"; {line}" for line in lines)
        raise ConfigError(f"--{flag}={text}: no prompt there ({len(skips)} bad records){why}")
    lines += summary.unwritten(lost)
    if notes is not None:
        notes += [*lines, *summary.unused(use.unused, "fields of records that no prompt has")]
    else:
        _print(flag, lines)
    return prompts


def read_conversations(text: str, flag: str, reading: Dialogs, limit: int) -> list[Prompt]:
    """The distinct prompts of the sources that `text` names as messages alone: at most `limit`, 0 is all.

    They are what training would read of the sources; messages have role and content, nothing else. Lines on bad records
    that are skipped go to stderr. Raises ConfigError, naming `flag`, where there is none, and for a bad record that is
    not to be skipped.
    """
    cfg = dataclasses.replace(reading, eval_data=text)  # so that nothing is held out
    skips, lines = Skips(cfg.on_bad_record), list[str]()

    def records_of(source: DataSource) -> Records:
        return sources.train_and_held_out(source, cfg, None, message_trees.assembled)[0]

    def plain(item: Any) -> tuple[Hashable, Prompt]:
        messages, answer = _split_answer(item)
        return json.dumps(messages, sort_keys=True), Prompt(messages, answer=answer)

    prompts = _distinct(text, cfg, flag, limit, skips, FieldUse(), records_of, plain, lines)
    lines += [skips.in_words(sources.cache_dir(cfg))] if skips else []
    if not prompts:
        raise ConfigError(f"--{flag}={text}: no conversation there" + "".join(f"; {line}" for line in lines))
    _print(flag, lines)
    return prompts


def _print(flag: str, lines: Sequence[str]) -> None:
    if lines:
        print("\n".join(f"--{flag}: {line}" for line in lines), file=sys.stderr)


def question(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user turn; empty where there is none."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")


def _distinct(
    text: str,
    cfg: Dialogs,
    flag: str,
    limit: int,
    skips: Skips,
    use: FieldUse,
    records_of: Callable[[DataSource], Records],
    make: Callable[[Any], tuple[Hashable, Prompt]],
    lines: list[str],
    texts: bool = False,
    prefixes: bool = False,
) -> list[Prompt]:
    """The prompts that `make` returns of each record, with a key; of those with the same key the first.

    `lines` gets those about what the sources left out. With `texts`, sources of plain texts are passed over; with
    `prefixes` the first tokens of texts may be prompts.
    """
    prompts: dict[Hashable, Prompt] = {}
    columns = record_fields.columns_of(cfg.columns)
    source_spec.check_sources(text, cfg, flag)
    all_sources = source_spec.parse(text, flag)
    for source in all_sources:
        if limit and len(prompts) >= limit:
            break
        records = records_of(source)
        lines += summary.of_files(records)
        if flag == "data" and len(all_sources) == 1:
            record_formats.require_columns(columns, [records], cfg)
        field = sources.text_field(source, cfg)
        known = (*record_formats.PROMPT, *([record_formats.text_format(field)] if texts else []))
        if prefixes:
            tokens = text_prefixes.token_range(source.option("tokens", text_prefixes.USUAL), f"--{flag}")
            known = (*known, record_formats.prefix_format(field, tokens))
        form = record_formats.detect(records, source, known, flag, columns)
        if form.name == "text":
            continue
        for number, (key, prompt) in record_formats.each(records, form, skips, make, lambda done: None, use):
            if key not in prompts:
                name = f"{source.label} record {records.source_number(number)}"
                prompts[key] = prompt._replace(record=records[number], name=name)
            if limit and len(prompts) >= limit:
                break
    return list(prompts.values())


def _before_answer(item: Any) -> tuple[Message, ...]:
    """The messages before the last answer; all of them where the last is a user's."""
    if not isinstance(item, Dialog):
        return item.prompt
    answers = [i for i, message in enumerate(item.messages) if message["role"] == "assistant"]
    if item.messages[-1]["role"] == "user":
        return item.messages
    before = item.messages[: answers[-1]] if answers else ()
    if not any(message["role"] == "user" for message in before):
        raise BadRecord("no question: the conversation has no turn to answer")
    return before


def _split_answer(item: Any) -> tuple[tuple[Message, ...], str]:
    """(the messages before a final answer, the answer or an empty string)."""
    messages, answer = (item.messages if isinstance(item, Dialog) else item.prompt), ""
    if item.template_kwargs or any(message.get("tool_calls") for message in messages):
        raise BadRecord("tools: conversations with tools or tool calls are not read here")
    if messages[-1]["role"] == "assistant":
        messages, answer = messages[:-1], messages[-1]["content"]
    # Few endpoints know the role developer.
    roles = {"developer": "system"}
    plain = tuple(
        {"role": roles.get(one["role"], one["role"]), "content": one["content"]} for one in messages
    )
    if not question(plain).strip():
        raise BadRecord("no question: the conversation has no turn of a user, or its last one is empty")
    return plain, answer
