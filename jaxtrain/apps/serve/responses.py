"""Completions as OpenAI's objects: whole, in chunks as they are drawn, and as they are stored."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.serve.requests import CompletionParams
from jaxtrain.data.chat import Template
from jaxtrain.generate import stop_strings
from jaxtrain.generate.continuous_batching import CompletionPart

Json = dict[str, Any]


class ServedModel(NamedTuple):
    """The model as its users see it."""

    name: str
    created: int  # Unix time
    fingerprint: str
    template: Template
    decode: Callable[[list[int]], str]  # an answer's text


@dataclasses.dataclass
class CompletionBuilder:
    """One completion as far as it has come."""

    decode: Callable[[list[int]], str]
    ends: Sequence[str]
    end: int  # the token that ends it
    ids: list[int] = dataclasses.field(default_factory=list)
    own: list[float] = dataclasses.field(default_factory=list)
    tops: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)
    text: str = ""  # as much as nothing to come can change
    shown: int = 0  # tokens that the text is made of, and its end
    finish: str | None = None
    begun: bool = False  # whether the client has heard of it

    def hear(self, part: CompletionPart) -> None:
        """Takes what is new."""
        self.ids += part.tokens
        if part.top is not None:
            self.own += part.top.own.tolist()
            pairs = zip(part.top.ids.tolist(), part.top.logps.tolist(), strict=True)
            self.tops += [list(zip(ids, logps, strict=True)) for ids, logps in pairs]

    def grow(self, ended: bool) -> tuple[str, slice]:
        """(what the text grows by, the tokens that this shows); those are known at the end, or where tops are told."""
        whole = self.decode(self.ids)
        text, stopped = stop_strings.settled(whole, self.ends)
        shown = self.shown
        if ended:
            self.finish = "stop" if stopped or self.ids[-1:] == [self.end] else "length"
        if ended and not stopped:  # nothing is to come
            text, shown = whole, len(self.ids)
        elif ended or self.tops:
            shown = self._tokens_of(text)
        new, fresh = text[len(self.text) :], slice(self.shown, shown)
        self.text, self.shown = text, shown
        return new, fresh

    def _tokens_of(self, text: str) -> int:
        """With how many tokens the text is first there: one that goes on beyond it is one of them."""
        low, high = 0, len(self.ids)
        while low < high:
            middle = (low + high) // 2
            there = self.decode(self.ids[:middle]).startswith(text)
            low, high = (low, middle) if there else (middle + 1, high)
        return low


class ResponseFormat(NamedTuple):
    """How an endpoint writes completions."""

    prefix: str  # of ids
    whole: str  # the object's name
    chunk_body: str
    choice: Callable[[ServedModel, CompletionParams, CompletionBuilder], Json]
    piece: Callable[
        [ServedModel, CompletionParams, CompletionBuilder, str, slice], Json
    ]  # of a chunk: new text, and the tokens that are shown


def response_body(
    voice: ServedModel,
    form: ResponseFormat,
    asked: CompletionParams,
    number: str,
    created: int,
    heard: Sequence[CompletionBuilder],
    sent: int,
) -> Json:
    """The whole object; `sent` are the prompts' tokens."""
    choices = [
        {"index": i, **form.choice(voice, asked, one), "finish_reason": one.finish}
        for i, one in enumerate(heard)
    ]
    return {**_head(voice, form.whole, number, created), "choices": choices, "usage": usage(heard, sent)}


def chunk_body(
    voice: ServedModel,
    form: ResponseFormat,
    asked: CompletionParams,
    number: str,
    created: int,
    choices: Sequence[Json],
) -> Json:
    """An object of a stream."""
    made = {**_head(voice, form.chunk, number, created), "choices": list(choices)}
    return made | {"usage": None} if asked.usage else made


def usage(heard: Sequence[CompletionBuilder], sent: int) -> Json:
    """The counts of tokens; those of an end count as drawn."""
    drawn = sum(len(one.ids) for one in heard)
    return {"prompt_tokens": sent, "completion_tokens": drawn, "total_tokens": sent + drawn}


def stored_body(
    whole: Json, asked: CompletionParams, seed: int, heard: Sequence[CompletionBuilder], prompt: Sequence[int]
) -> Json:
    """The object as it is stored: with what was asked, and the ids of the tokens that logprobs tell of."""
    choices = []
    for choice, one in zip(whole["choices"], heard, strict=True):
        ids = {"token_ids": one.ids[: one.shown]}
        if asked.tops:
            ids["top_token_ids"] = [[i for i, _ in place[: asked.tops]] for place in one.tops[: one.shown]]
        choices.append(choice | ids)
    return whole | {
        "choices": choices,
        "input": list(asked.prompts[0]),
        "metadata": asked.metadata,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "max_tokens": asked.limit,
        "stop": list(asked.stop) or None,
        "seed": seed,
        "n": asked.n,
        "prompt_token_ids": list(prompt),
    }


def _head(voice: ServedModel, kind: str, number: str, created: int) -> Json:
    return {
        "id": number,
        "object": kind,
        "created": created,
        "model": voice.name,
        "system_fingerprint": voice.fingerprint,
    }


def _chat_choice(voice: ServedModel, asked: CompletionParams, one: CompletionBuilder) -> Json:
    message = {"role": "assistant", "content": one.text, "refusal": None}
    return {"message": message, "logprobs": _logprobs(voice, asked, one, slice(0, one.shown))}


def _chat_piece(
    voice: ServedModel, asked: CompletionParams, one: CompletionBuilder, text: str, fresh: slice
) -> Json:
    delta = {} if one.begun else {"role": "assistant", "content": ""}
    one.begun = True
    delta |= {"content": text} if text else {}
    return {"delta": delta, "logprobs": _logprobs(voice, asked, one, fresh)}


def _logprobs(
    voice: ServedModel, asked: CompletionParams, one: CompletionBuilder, which: slice
) -> Json | None:
    if asked.tops is None:
        return None
    entry = functools.partial(_entry, voice)
    content = [
        entry(i, own) | {"top_logprobs": [entry(*pair) for pair in place[: asked.tops]]}
        for i, own, place in zip(one.ids[which], one.own[which], one.tops[which], strict=True)
    ]
    return {"content": content, "refusal": None}


def _entry(voice: ServedModel, i: int, logp: float) -> Json:
    """A token, whose bytes put together are the text; those of a special one are none."""
    return {"token": _name(voice, i), "bytes": list(_bytes(voice, i)), "logprob": logp}


def _bytes(voice: ServedModel, i: int) -> bytes:
    pieces = voice.template.tokenizer.pieces
    return pieces[i] if i < len(pieces) else b""  # an embedding may have more rows than there are tokens


def _name(voice: ServedModel, i: int) -> str:
    r"""A token as text, bytes that are none as \xhh; each has a name of its own, with or without text."""
    special = _specials(voice.template).get(i)
    return special or _bytes(voice, i).decode(errors="backslashreplace") or f"<|{i}|>"


@functools.cache
def _specials(template: Template) -> Mapping[int, str]:
    return {i: text for text, i in template.tokenizer.specials.items()}


def _text_choice(voice: ServedModel, asked: CompletionParams, one: CompletionBuilder) -> Json:
    return {"text": one.text, "logprobs": _legacy_logprobs(voice, asked, one, slice(0, one.shown))}


def _text_piece(
    voice: ServedModel, asked: CompletionParams, one: CompletionBuilder, text: str, fresh: slice
) -> Json:
    return {"text": text, "logprobs": _legacy_logprobs(voice, asked, one, fresh)}


def _legacy_logprobs(
    voice: ServedModel, asked: CompletionParams, one: CompletionBuilder, which: slice
) -> Json | None:
    if asked.tops is None:
        return None
    names = [_name(voice, i) for i in one.ids[which]]
    offset = len(b"".join(_bytes(voice, i) for i in one.ids[: which.start]).decode(errors="replace"))
    offsets = []
    for i in one.ids[which]:
        offsets.append(offset)
        offset += len(_bytes(voice, i).decode(errors="replace"))
    return {
        "tokens": names,
        "token_logprobs": one.own[which],
        "top_logprobs": [
            {_name(voice, i): logp for i, logp in place[: asked.tops]} for place in one.tops[which]
        ],
        "text_offset": offsets,
    }


CHAT = ResponseFormat("chatcmpl-", "chat.completion", "chat.completion.chunk", _chat_choice, _chat_piece)
TEXT = ResponseFormat("cmpl-", "text_completion", "text_completion", _text_choice, _text_piece)
