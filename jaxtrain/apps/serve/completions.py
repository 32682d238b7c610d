"""The endpoints that draw: chat completions and legacy completions, whole or streamed."""

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from jaxtrain.apps.serve import requests, responses, server
from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.apps.serve.requests import CompletionParams
from jaxtrain.apps.serve.responses import CompletionBuilder, ResponseFormat
from jaxtrain.apps.serve.server import Server
from jaxtrain.apps.serve.streaming import EventStream, ScheduledCompletions, cancel_on_disconnect
from jaxtrain.config import ConfigError
from jaxtrain.data.record_formats import BadRecord
from jaxtrain.generate import sampler
from jaxtrain.generate.continuous_batching import Request


class CompletionJob(NamedTuple):
    """One request under way."""

    house: Server
    form: ResponseFormat
    asked: CompletionParams
    number: str
    created: int
    begun: float
    seed: int
    prompts: list[list[int]]
    heard: list[CompletionBuilder]  # of each prompt n, together
    call: ScheduledCompletions

    @property
    def sent(self) -> int:
        """Tokens of the prompts."""
        return sum(map(len, self.prompts))


async def chat(shared: Server, request: HttpRequest) -> Response:
    """A chat completion."""
    begun, body = time.perf_counter(), await server.read_body(shared, request)
    wanted = requests.chat_params(body)
    server.require_model(shared, wanted.model)
    if wanted.store and shared.store is None:
        raise invalid_param("store", "the server was started without a store (--store)")
    try:
        ids = await run_in_threadpool(shared.voice.template.prompt, wanted.prompts[0])
    except (BadRecord, ConfigError) as error:
        raise invalid_param("messages", str(error)) from error
    job = _job(shared, responses.CHAT, wanted, begun, [ids.tolist()], shared.voice.decode)
    return await _answer(job, request)


async def text(shared: Server, request: HttpRequest) -> Response:
    """A legacy completion: texts are continued as they are."""
    begun, body = time.perf_counter(), await server.read_body(shared, request)
    wanted = requests.text_params(body)
    server.require_model(shared, wanted.model)
    tokenizer, vocab = shared.voice.template.tokenizer, shared.desk.sampling.vocab
    texts = [one for one in wanted.prompts if isinstance(one, str)]
    encoded = iter(await run_in_threadpool(tokenizer.encode, texts) if texts else [])
    prompts = []
    for i, one in enumerate(wanted.prompts):
        ids = [tokenizer.bos, *next(encoded).tolist()] if isinstance(one, str) else one
        if max(ids) >= vocab:
            raise invalid_param(f"prompt[{i}]", f"the token {max(ids)} is beyond the vocabulary of {vocab}")
        prompts.append(ids)
    return await _answer(_job(shared, responses.TEXT, wanted, begun, prompts, tokenizer.decode), request)


def _job(
    shared: Server,
    form: ResponseFormat,
    wanted: CompletionParams,
    begun: float,
    prompts: list[list[int]],
    decode: Callable[[list[int]], str],
) -> CompletionJob:
    """Asks the decoding thread. Raises Refused for what it cannot do, or has no room for."""
    desk, end = shared.desk, shared.voice.template.end
    if len(prompts) * wanted.n > desk.room:
        most = f"{desk.room} completions at once is the most that this server takes"
        raise invalid_param("n", f"{most}, not {len(prompts)} prompts times {wanted.n}")
    field = "messages" if form is responses.CHAT else "prompt"
    limits = [_limit(ids, wanted.limit, desk.sampling.context, field) for ids in prompts]
    seed = secrets.randbits(63) if wanted.seed is None else wanted.seed
    how = {"temperature": wanted.temperature, "top_p": wanted.top_p}
    requests = [
        Request(
            ids, sampler.seed_of(seed % 2**64, p, i), limit, how, wanted.stop, decode, wanted.tops is not None
        )
        for p, (ids, limit) in enumerate(zip(prompts, limits, strict=True))
        for i in range(wanted.n)
    ]
    heard = [CompletionBuilder(decode, wanted.stop, end) for _ in requests]
    number = form.prefix + uuid.uuid4().hex
    call = ScheduledCompletions(desk, requests)
    return CompletionJob(shared, form, wanted, number, int(time.time()), begun, seed, prompts, heard, call)


def _limit(ids: Sequence[int], limit: int | None, context: int, field: str) -> int:
    """Most tokens of a completion. Raises Refused where the context has no room for it."""
    room = context - len(ids)
    if room < 1 or (limit or 1) > room:
        asking = f"{limit} in the completion" if limit else "none left for a completion"
        raise ApiError(
            400,
            f"This model's maximum context length is {context} tokens. You requested {len(ids) + (limit or 0)} tokens "
            f"({len(ids)} in the prompt, {asking}): shorten one of them.",
            param="max_tokens" if room > 0 else field,
            code="context_length_exceeded",
        )
    return limit or room


async def _answer(job: CompletionJob, request: HttpRequest) -> Response:
    if job.asked.stream:
        return EventStream(_events(job), lambda: _over(job))
    try:
        return JSONResponse(await cancel_on_disconnect(request, _whole(job)))
    finally:
        _over(job)


def _over(job: CompletionJob) -> None:
    told = job.house.told
    job.call.give_up()
    if not job.call.over:
        told.given_up.inc()
    told.tokens.labels("prompt").inc(job.sent)
    told.tokens.labels("completion").inc(sum(len(one.ids) for one in job.heard))


async def _parts(job: CompletionJob) -> AsyncIterator[tuple[CompletionBuilder, int, bool]]:
    """(a completion that has grown, its number, whether it has ended)."""
    told, first = job.house.told, True
    async for i, part in job.call.parts():
        if first:
            told.first.observe(time.perf_counter() - job.begun)
            first = False
        job.heard[i].hear(part)
        yield job.heard[i], i, part.ended
    told.whole.observe(time.perf_counter() - job.begun)


async def _whole(job: CompletionJob) -> dict[str, Any]:
    async for one, _, ended in _parts(job):
        if ended:
            one.grow(True)
    return await _kept(job)


async def _kept(job: CompletionJob) -> dict[str, Any]:
    """The whole object, which is on the disk where it is to be stored."""
    wanted = job.asked
    whole = responses.response_body(
        job.house.voice, job.form, wanted, job.number, job.created, job.heard, job.sent
    )
    if wanted.store:
        made = responses.stored_body(whole, wanted, job.seed, job.heard, job.prompts[0])
        await asyncio.wrap_future(job.house.store.add(made))
    return whole


async def _events(job: CompletionJob) -> AsyncIterator[bytes]:
    wanted, voice = job.asked, job.house.voice

    def event(choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
        made = responses.chunk_body(voice, job.form, wanted, job.number, job.created, choices)
        return _event(made | more)

    try:
        async for one, i, ended in _parts(job):
            new, fresh = one.grow(ended)
            if new or fresh.start < fresh.stop or one.finish:
                piece = job.form.piece(voice, wanted, one, new, fresh)
                yield event([{"index": i, **piece, "finish_reason": one.finish}])
        if wanted.usage:
            yield event([], usage=responses.usage(job.heard, job.sent))
        await _kept(job)
    except ApiError as error:
        yield _event(error.body())
    except (
        Exception
    ) as error:  # the status is sent already: the client is told in the stream, and the log too
        yield _event(ApiError(500, f"the completion is lost: {error}", code="internal").body())
        raise
    else:
        yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
