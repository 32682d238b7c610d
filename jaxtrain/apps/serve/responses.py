"""OpenAI's completion objects: whole, as the chunks of a stream, and as they are stored."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.serve.request_params import CompletionParams
from jaxtrain.data.chat import Template
from jaxtrain.generate import stop_strings
from jaxtrain.generate.continuous_batching import CompletionPart

Json = dict[str, Any]


class ServedModel(NamedTuple):
    """The model as clients see it."""

    name: str
    created: int  # Unix time
    fingerprint: str
    template: Template
    decode: Callable[[list[int]], str]  # token ids of a chat completion -> its text


@dataclasses.dataclass
class CompletionBuilder:
    """One completion while it is decoded: token ids, log-probabilities and text so far."""

    decode: Callable[[list[int]], str]
    stop: Sequence[str]
    end: int  # token id that ends the completion
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)
    text: str = ""  # the part of the text that later tokens cannot change
    text_tokens: int = 0  # tokens that the text is made of, the end token with it
    finish_reason: str | None = None
    started: bool = False  # whether the client has got a first chunk of it

    def add_part(self, part: CompletionPart) -> None:
        """Appends new tokens and their log-probabilities."""
        self.ids += part.tokens
        if part.top is not None:
            self.logprobs += part.top.token_logps.tolist()
            pairs = zip(part.top.ids.tolist(), part.top.logps.tolist(), strict=True)
            self.top_logprobs += [list(zip(ids, logps, strict=True)) for ids, logps in pairs]

    def extend_text(self, ended: bool) -> tuple[str, slice]:
        """(new text, slice of its tokens). Without log-probabilities the slice is empty until the end."""
        decoded = self.decode(self.ids)
        text, stopped = stop_strings.stable_text(decoded, self.stop)
        text_tokens = self.text_tokens
        if ended:
            self.finish_reason = "stop" if stopped or self.ids[-1:] == [self.end] else "length"
        if ended and not stopped:  # no later token can change the text
            text, text_tokens = decoded, len(self.ids)
        elif ended or self.top_logprobs:
            text_tokens = self._tokens_of(text)
        new_text, new_tokens = text[len(self.text) :], slice(self.text_tokens, text_tokens)
        self.text, self.text_tokens = text, text_tokens
        return new_text, new_tokens

    def _tokens_of(self, text: str) -> int:
        """The fewest tokens whose text starts with `text`; the last of them may go on beyond it."""
        low, high = 0, len(self.ids)
        while low < high:
            middle = (low + high) // 2
            contained = self.decode(self.ids[:middle]).startswith(text)
            low, high = (low, middle) if contained else (middle + 1, high)
        return low


class ResponseFormat(NamedTuple):
    """How an endpoint writes completions."""

    id_prefix: str
    object: str  # the `object` field of a whole response
    chunk_object: str  # and of a stream's chunks
    choice: Callable[[ServedModel, CompletionParams, CompletionBuilder], Json]
    chunk_choice: Callable[
        [ServedModel, CompletionParams, CompletionBuilder, str, slice], Json
    ]  # new text, its tokens


def response_body(
    model: ServedModel,
    form: ResponseFormat,
    params: CompletionParams,
    completion_id: str,
    created: int,
    builders: Sequence[CompletionBuilder],
    prompt_tokens: int,
) -> Json:
    """The body of a whole response."""
    choices = [
        {"index": i, **form.choice(model, params, builder), "finish_reason": builder.finish_reason}
        for i, builder in enumerate(builders)
    ]
    head = _head(model, form.object, completion_id, created)
    return {**head, "choices": choices, "usage": usage(builders, prompt_tokens)}


def chunk_body(
    model: ServedModel,
    form: ResponseFormat,
    params: CompletionParams,
    completion_id: str,
    created: int,
    choices: Sequence[Json],
) -> Json:
    """The body of one chunk of a stream."""
    body = {**_head(model, form.chunk_object, completion_id, created), "choices": list(choices)}
    return body | {"usage": None} if params.include_usage else body


def usage(builders: Sequence[CompletionBuilder], prompt_tokens: int) -> Json:
    """The token counts of a response; the tokens of a stop string are among the completion tokens."""
    completion_tokens = sum(len(builder.ids) for builder in builders)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def stored_body(
    response: Json,
    params: CompletionParams,
    seed: int,
    builders: Sequence[CompletionBuilder],
    prompt_ids: Sequence[int],
) -> Json:
    """The response as it is stored: with the request's parameters, and the token ids that its log-probs belong to."""
    choices = []
    for choice, builder in zip(response["choices"], builders, strict=True):
        ids = {"token_ids": builder.ids[: builder.text_tokens]}
        if params.top_logprobs:
            ids["top_token_ids"] = [
                [i for i, _ in top[: params.top_logprobs]]
                for top in builder.top_logprobs[: builder.text_tokens]
            ]
        choices.append(choice | ids)
    return response | {
        "choices": choices,
        "input": list(params.prompts[0]),
        "metadata": params.metadata,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
        "stop": list(params.stop) or None,
        "seed": seed,
        "n": params.n,
        "prompt_token_ids": list(prompt_ids),
    }


def _head(model: ServedModel, kind: str, completion_id: str, created: int) -> Json:
    return {
        "id": completion_id,
        "object": kind,
        "created": created,
        "model": model.name,
        "system_fingerprint": model.fingerprint,
    }


def _chat_choice(model: ServedModel, params: CompletionParams, builder: CompletionBuilder) -> Json:
    message = {"role": "assistant", "content": builder.text, "refusal": None}
    logprobs = _chat_logprobs(model, params, builder, slice(0, builder.text_tokens))
    return {"message": message, "logprobs": logprobs}


def _chat_chunk_choice(
    model: ServedModel, params: CompletionParams, builder: CompletionBuilder, new_text: str, new_tokens: slice
) -> Json:
    delta = {} if builder.started else {"role": "assistant", "content": ""}
    builder.started = True
    delta |= {"content": new_text} if new_text else {}
    return {"delta": delta, "logprobs": _chat_logprobs(model, params, builder, new_tokens)}


def _chat_logprobs(
    model: ServedModel, params: CompletionParams, builder: CompletionBuilder, tokens: slice
) -> Json | None:
    if params.top_logprobs is None:
        return None
    entry = functools.partial(_logprob_entry, model)
    columns = builder.ids[tokens], builder.logprobs[tokens], builder.top_logprobs[tokens]
    content = [
        entry(i, logp) | {"top_logprobs": [entry(*pair) for pair in top[: params.top_logprobs]]}
        for i, logp, top in zip(*columns, strict=True)
    ]
    return {"content": content, "refusal": None}


def _logprob_entry(model: ServedModel, i: int, logp: float) -> Json:
    """A token with its bytes, which joined are the text; a special token has none."""
    return {"token": _token_name(model, i), "bytes": list(_token_bytes(model, i)), "logprob": logp}


def _token_bytes(model: ServedModel, i: int) -> bytes:
    pieces = model.template.tokenizer.pieces
    return pieces[i] if i < len(pieces) else b""  # an embedding may have more rows than there are tokens


def _token_name(model: ServedModel, i: int) -> str:
    r"""The token as text, bytes outside UTF-8 as \xhh; a special token's own text, or <|id|> for one without text."""
    special = _special_tokens(model.template).get(i)
    return special or _token_bytes(model, i).decode(errors="backslashreplace") or f"<|{i}|>"


@functools.cache
def _special_tokens(template: Template) -> Mapping[int, str]:
    return {i: text for text, i in template.tokenizer.specials.items()}


def _text_choice(model: ServedModel, params: CompletionParams, builder: CompletionBuilder) -> Json:
    logprobs = _text_logprobs(model, params, builder, slice(0, builder.text_tokens))
    return {"text": builder.text, "logprobs": logprobs}


def _text_chunk_choice(
    model: ServedModel, params: CompletionParams, builder: CompletionBuilder, new_text: str, new_tokens: slice
) -> Json:
    return {"text": new_text, "logprobs": _text_logprobs(model, params, builder, new_tokens)}


def _text_logprobs(
    model: ServedModel, params: CompletionParams, builder: CompletionBuilder, tokens: slice
) -> Json | None:
    if params.top_logprobs is None:
        return None
    before = b"".join(_token_bytes(model, i) for i in builder.ids[: tokens.start])
    offset, offsets = len(before.decode(errors="replace")), []
    for i in builder.ids[tokens]:
        offsets.append(offset)
        offset += len(_token_bytes(model, i).decode(errors="replace"))
    return {
        "tokens": [_token_name(model, i) for i in builder.ids[tokens]],
        "token_logprobs": builder.logprobs[tokens],
        "top_logprobs": [
            {_token_name(model, i): logp for i, logp in top[: params.top_logprobs]}
            for top in builder.top_logprobs[tokens]
        ],
        "text_offset": offsets,
    }


CHAT = ResponseFormat(
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    choice=_chat_choice,
    chunk_choice=_chat_chunk_choice,
)
TEXT = ResponseFormat(
    id_prefix="cmpl-",
    object="text_completion",
    chunk_object="text_completion",
    choice=_text_choice,
    chunk_choice=_text_chunk_choice,
)
