"""OpenAI's completion objects: whole, as the chunks of a stream, and as they are stored."""

import dataclasses
import functools
import json
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.serve import message_parser
from jaxtrain.apps.serve.message_parser import MessageParser, ParsedMessage
from jaxtrain.apps.serve.request_params import CompletionParams
from jaxtrain.data.chat import Template
from jaxtrain.data.response import split_thought
from jaxtrain.data.tool_calls import ToolCall
from jaxtrain.generate import sampler, stop_strings
from jaxtrain.generate.continuous_batching import CompletionPart, TokenLogprobs

Json = dict[str, Any]
_ID = string.ascii_letters + string.digits


class ServedModel(NamedTuple):
    """The model as clients see it."""

    name: str
    created: int  # Unix time
    fingerprint: str
    template: Template
    ends: tuple[int, ...]  # tokens that end a completion
    decode: Callable[[list[int]], str]  # token ids of a chat completion -> its text
    tool_template: Template | None = (
        None  # of requests with tools, where the tokenizer has one of its own for them
    )
    weight_version: str = "initial"
    single_turn: bool = False  # whether it was trained on conversations of one turn alone


class Echo(NamedTuple):
    """The prompt that a legacy completion starts with."""

    text: str
    ids: Sequence[int]
    scores: TokenLogprobs | None  # of all tokens but the first


class Delta(NamedTuple):
    """What is new of a completion."""

    content: str
    tokens: slice  # of the completion's tokens, those of the content
    thought: str = ""
    calls: tuple[Json, ...] = ()  # all of them, when the completion has ended


@dataclasses.dataclass
class CompletionBuilder:
    """One completion while it is decoded: token ids, log-probabilities, text and what it says so far."""

    decode: Callable[[list[int]], str]
    stop: Sequence[str]
    ends: Sequence[int]  # tokens that end the completion
    parser: MessageParser | None = None  # None: the text is the content
    names: Mapping[int, str] = dataclasses.field(
        default_factory=dict
    )  # special tokens by their ids, but ends
    end_names: Mapping[int, str] = dataclasses.field(default_factory=dict)  # ends that are special tokens
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)
    text: str = ""  # the part of the text that later tokens cannot change
    text_tokens: int = 0  # tokens that the text is made of, the end token with it
    thought: str = ""
    content: str = ""
    # The tokens of the content.
    content_tokens: slice = dataclasses.field(default_factory=lambda: slice(0, 0))
    calls: tuple[Json, ...] = ()
    finish_reason: str | None = None
    started: bool = False  # whether the client has got a first chunk of it
    places: list[tuple[int, str]] = dataclasses.field(default_factory=list)  # special tokens in the text
    echo: Echo | None = None
    _placed: int = 0  # tokens that were looked at for them

    def add_part(self, part: CompletionPart) -> None:
        """Appends new tokens and their log-probabilities."""
        self.ids += part.tokens
        if part.top is not None:
            self.logprobs += part.top.token_logps.tolist()
            pairs = zip(part.top.ids.tolist(), part.top.logps.tolist(), strict=True)
            self.top_logprobs += [list(zip(ids, logps, strict=True)) for ids, logps in pairs]

    def advance(self, ended: bool) -> Delta:
        """What is new. Without log-probabilities the slice of tokens is empty until the end."""
        self._extend_text(ended)
        message = self._message(ended)
        tokens = self._content_tokens(message, ended)
        delta = Delta(
            content=message.content[len(self.content) :],
            tokens=slice(max(self.content_tokens.stop, tokens.start), tokens.stop),
            thought=message.thought[len(self.thought) :],
            calls=tuple(
                {"id": _call_id(), "type": "function", "function": _function(one)} for one in message.calls
            ),
        )
        self.thought, self.content, self.content_tokens, self.calls = (
            message.thought, message.content, tokens, delta.calls,
        )  # fmt: skip
        if self.calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"
        return delta

    def _extend_text(self, ended: bool) -> None:
        decoded = self.decode(self.ids)
        text, stopped = stop_strings.stable_text(decoded, self.stop)
        if ended:
            self.finish_reason = "stop" if stopped or set(self.ids[-1:]) & {*self.ends} else "length"
        if ended and not stopped:  # no later token can change the text
            text, self.text_tokens = decoded, len(self.ids)
        elif ended or self.top_logprobs:
            self.text_tokens = self._tokens_of(text)
        self.text = text

    def _message(self, ended: bool) -> ParsedMessage:
        """What the text says so far."""
        if self.parser is None:
            return ParsedMessage("", self.text)
        self.places += message_parser.special_places(self.ids, self._placed, self.decode, self.names)
        self._placed = len(self.ids)
        if not ended:
            return self.parser.parse_unfinished(self.text, self.places)
        end = self.end_names.get(self.ids[-1], "") if self.ids and self.finish_reason == "stop" else ""
        return self.parser.parse(self.text, self.places, end)

    def _content_tokens(self, message: ParsedMessage, ended: bool) -> slice:
        """The tokens of a message's content, with the end token where it is the end of the text."""
        if message.content == self.text and not message.calls:
            return slice(0, self.text_tokens)
        if not ended and not (self.top_logprobs and message.content):
            return self.content_tokens
        if not message.content:
            return slice(len(self.ids), len(self.ids))
        thought = self.text.find(message.thought) + len(message.thought)
        start = max(self.text.find(message.content, thought), 0)
        first = self._tokens_of(self.text[: start + 1]) - 1
        if ended and not message.calls:
            return slice(first, self.text_tokens)
        return slice(first, self._tokens_of(self.text[: start + len(message.content)]))

    def _tokens_of(self, text: str) -> int:
        """The fewest tokens whose text starts with `text`; the last of them may go on beyond it."""
        low, high = 0, len(self.ids)
        while low < high:
            middle = (low + high) // 2
            contained = self.decode(self.ids[:middle]).startswith(text)
            low, high = (low, middle) if contained else (middle + 1, high)
        return low


def _call_id() -> str:
    return "".join(secrets.choice(_ID) for _ in range(9))  # some templates take no other length


def _function(call: ToolCall) -> Json:
    return {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}


class ResponseFormat(NamedTuple):
    """How an endpoint writes completions."""

    id_prefix: str
    object: str  # the `object` field of a whole response
    chunk_object: str  # and of a stream's chunks
    choice: Callable[[ServedModel, CompletionParams, CompletionBuilder], Json]
    chunk_choice: Callable[[ServedModel, CompletionParams, CompletionBuilder, Delta], Json]


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
    model: ServedModel,
    response: Json,
    params: CompletionParams,
    seed: int,
    builders: Sequence[CompletionBuilder],
    prompt_ids: Sequence[int],
) -> Json:
    """The response as it is stored: with the request's parameters and the ids of its tokens.

    The log-probabilities are those of the content: of the tokens from `content_tokens[0]` to `content_tokens[1]`. A
    thought stays in the content where the chat template would not write it otherwise: training learns what was written.
    """
    choices = []
    for choice, builder in zip(response["choices"], builders, strict=True):
        if _thought_is_text(model, builder):
            builder.content_tokens = slice(0, builder.text_tokens)
            message = {k: v for k, v in choice["message"].items() if k != "reasoning_content"}
            logprobs = _chat_logprobs(model, params, builder, builder.content_tokens)
            choice = choice | {"message": message | {"content": builder.text}, "logprobs": logprobs}
        ids: Json = {"token_ids": builder.ids[: builder.text_tokens]}
        if params.top_logprobs is not None and builder.content_tokens != slice(0, builder.text_tokens):
            ids["content_tokens"] = [builder.content_tokens.start, builder.content_tokens.stop]
        if params.top_logprobs:
            ids["top_token_ids"] = [
                [i for i, _ in top[: params.top_logprobs]]
                for top in builder.top_logprobs[builder.content_tokens]
            ]
        choices.append(choice | ids)
    prompt = {
        "tools": list(params.tools),
        "documents": list(params.documents),
        "chat_template_kwargs": params.template_kwargs,
    }
    sampled = {name: params.sampling_params[name] for name in ("temperature", "top_p")}
    return (
        response
        | {name: value for name, value in prompt.items() if value}
        | {
            "choices": choices,
            "input": list(params.prompts[0]),
            "metadata": params.metadata,
            **sampled,
            **sampler.active_params(params.sampling_params),
            "max_tokens": params.max_tokens,
            "stop": list(params.stop) or None,
            "seed": seed,
            "n": params.n,
            "prompt_token_ids": list(prompt_ids),
        }
    )


def _thought_is_text(model: ServedModel, builder: CompletionBuilder) -> bool:
    """Whether a thought is a part of an answer's text, which the chat template writes nowhere else."""
    inside = (
        bool(builder.thought) and not builder.calls and not message_parser.writes_thoughts(model.template)
    )
    return inside and split_thought(builder.text)[0] == builder.thought


def _head(model: ServedModel, kind: str, completion_id: str, created: int) -> Json:
    return {
        "id": completion_id,
        "object": kind,
        "created": created,
        "model": model.name,
        "system_fingerprint": model.fingerprint,
    }


def _chat_choice(model: ServedModel, params: CompletionParams, builder: CompletionBuilder) -> Json:
    content = None if builder.calls and not builder.content else builder.content
    message = {"role": "assistant", "content": content, "refusal": None}
    message |= {"reasoning_content": builder.thought} if builder.thought else {}
    message |= {"tool_calls": list(builder.calls)} if builder.calls else {}
    return {"message": message, "logprobs": _chat_logprobs(model, params, builder, builder.content_tokens)}


def _chat_chunk_choice(
    model: ServedModel, params: CompletionParams, builder: CompletionBuilder, new: Delta
) -> Json:
    delta = {} if builder.started else {"role": "assistant", "content": ""}
    builder.started = True
    delta |= {"reasoning_content": new.thought} if new.thought else {}
    delta |= {"content": new.content} if new.content else {}
    delta |= {"tool_calls": [{"index": i, **one} for i, one in enumerate(new.calls)]} if new.calls else {}
    return {"delta": delta, "logprobs": _chat_logprobs(model, params, builder, new.tokens)}


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
    special = message_parser.special_names(model.template).get(i)
    return special or _token_bytes(model, i).decode(errors="backslashreplace") or f"<|{i}|>"


def _text_choice(model: ServedModel, params: CompletionParams, builder: CompletionBuilder) -> Json:
    logprobs = _text_logprobs(model, params, builder, builder.content_tokens)
    ids = {"token_ids": list(builder.ids)} if params.return_token_ids else {}
    return {
        "text": (builder.echo.text if builder.echo else "") + builder.content,
        "logprobs": logprobs,
        **ids,
    }


def _text_chunk_choice(
    model: ServedModel, params: CompletionParams, builder: CompletionBuilder, new: Delta
) -> Json:
    return {"text": new.content, "logprobs": _text_logprobs(model, params, builder, new.tokens)}


def _text_logprobs(
    model: ServedModel, params: CompletionParams, builder: CompletionBuilder, tokens: slice
) -> Json | None:
    if params.top_logprobs is None:
        return None
    ids, logps, tops = builder.ids[tokens], builder.logprobs[tokens], builder.top_logprobs[tokens]
    before = builder.ids[: tokens.start]
    if builder.echo:  # its first token has no log-probability
        scores = builder.echo.scores
        pairs = zip(scores.ids.tolist(), scores.logps.tolist(), strict=True)
        ids = [*builder.echo.ids, *ids]
        logps = [None, *scores.token_logps.tolist(), *logps]
        tops = [None, *(list(zip(*pair, strict=True)) for pair in pairs), *tops]
    offset, offsets = len(b"".join(_token_bytes(model, i) for i in before).decode(errors="replace")), []
    for i in ids:
        offsets.append(offset)
        offset += len(_token_bytes(model, i).decode(errors="replace"))

    def names(top: Sequence[tuple[int, float]]) -> Json:
        return {_token_name(model, i): logp for i, logp in top[: params.top_logprobs]}

    return {
        "tokens": [_token_name(model, i) for i in ids],
        "token_logprobs": logps,
        "top_logprobs": [None if top is None else names(top) for top in tops],
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
