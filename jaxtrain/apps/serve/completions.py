"""The completion endpoints: chat completions and legacy completions, whole or streamed."""

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jaxtrain.apps.serve import chat_prompts, message_parser, request_params, responses
from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.apps.serve.http import in_thread
from jaxtrain.apps.serve.message_parser import MessageParser
from jaxtrain.apps.serve.request_params import CompletionParams
from jaxtrain.apps.serve.responses import CompletionBuilder, ResponseFormat
from jaxtrain.apps.serve.scheduler import ModelRunner
from jaxtrain.apps.serve.server import Server, read_body, server_of
from jaxtrain.apps.serve.streaming import EventStream, ScheduledCompletions, cancel_on_disconnect
from jaxtrain.generate import sampler
from jaxtrain.generate.continuous_batching import DecodeRequest
from jaxtrain.inference.sampler import without_ends


class CompletionJob(NamedTuple):
    """One API request that is being answered."""

    server: Server
    form: ResponseFormat
    params: CompletionParams
    id: str
    created: int  # Unix time
    start: float  # time.perf_counter() when the request came
    seed: int
    prompts: list[list[int]]
    builders: list[CompletionBuilder]  # n of the first prompt, n of the second, ...
    scheduled: ScheduledCompletions

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of all prompts."""
        return sum(map(len, self.prompts))


async def chat(server: Server, request: Request) -> Response:
    """The response to a chat completion request."""
    start, body = time.perf_counter(), await read_body(server, request)
    params = request_params.chat_params(body)
    server = server_of(server, params.model)
    if params.store and server.store is None:
        raise invalid_param("store", "the server was started without a store (--store)")
    _require_room(server, params)
    template = (params.tools and server.model.tool_template) or server.model.template
    if (count := len(params.prompts[0])) > server.scheduler.runner.context:
        raise _too_long(
            server.scheduler.runner.context, f"{count} messages, each of a token at least", "messages"
        )
    ids, parser = await in_thread(chat_prompts.chat_prompt, template, params)
    job = _submit(server, responses.CHAT, params, start, [ids], server.model.decode, parser)
    return await _respond(job, request)


async def text(server: Server, request: Request) -> Response:
    """The response to a legacy completion request: prompts are continued without a chat template."""
    start, body = time.perf_counter(), await read_body(server, request)
    params = request_params.text_params(body)
    server = server_of(server, params.model)
    _require_room(server, params)
    tokenizer, vocab = server.model.template.tokenizer, server.scheduler.runner.vocab
    texts = [prompt for prompt in params.prompts if isinstance(prompt, str)]
    encoded = iter(await in_thread(tokenizer.encode, texts) if texts else [])
    opening = [tokenizer.bos] if "bos_token" in tokenizer.token_names else []
    prompts = []
    for i, prompt in enumerate(params.prompts):
        ids = [*opening, *next(encoded).tolist()] or [tokenizer.bos] if isinstance(prompt, str) else prompt
        if max(ids) >= vocab:
            raise invalid_param(f"prompt[{i}]", f"the token {max(ids)} is beyond the vocabulary of {vocab}")
        prompts.append(ids)
    decode = without_ends(tokenizer.decode_completion, server.model.ends)
    job = _submit(server, responses.TEXT, params, start, prompts, decode)
    if params.echo:
        try:
            await _add_echoes(job)
        except BaseException:
            job.scheduled.cancel()
            raise
    return await _respond(job, request)


async def _add_echoes(job: CompletionJob) -> None:
    """Puts its prompt before each completion; called where the job was submitted, with no wait between."""
    runner = job.server.scheduler.runner
    given = zip(job.params.prompts, job.prompts, strict=True)
    echoes = [await in_thread(_echo, runner, job, *pair) for pair in given]
    for i, builder in enumerate(job.builders):
        builder.echo = echoes[i // job.params.n]


def _echo(runner: ModelRunner, job: CompletionJob, prompt: str | list[int], ids: list[int]) -> responses.Echo:
    """What a completion starts with where its prompt is echoed."""
    text = prompt if isinstance(prompt, str) else job.server.model.template.tokenizer.decode(ids)
    scored = job.params.top_logprobs is not None
    return responses.Echo(text, ids, runner.score_prompt(runner.params, ids) if scored else None)


def _require_room(server: Server, params: CompletionParams) -> None:
    """Raises ApiError for more completions than the scheduler ever takes, before their prompts are read."""
    prompts, capacity = len(params.prompts), server.scheduler.capacity
    if prompts * params.n > capacity:
        limit = f"this server takes at most {capacity} completions at once"
        raise invalid_param("n", f"{limit}, not {prompts} prompts times {params.n}")


def _submit(
    server: Server,
    form: ResponseFormat,
    params: CompletionParams,
    start: float,
    prompts: list[list[int]],
    decode: Callable[[list[int]], str],
    parser: MessageParser | None = None,
) -> CompletionJob:
    """Submits a request's completions to the scheduler. Raises ApiError for what it cannot do, or has no room for."""
    server, scheduler = server.current, server.scheduler
    field = "messages" if form is responses.CHAT else "prompt"
    limits = [_token_limit(ids, params.max_tokens, scheduler.runner.context, field) for ids in prompts]
    seed = secrets.randbits(63) if params.seed is None else params.seed
    requests = [
        DecodeRequest(
            ids,
            sampler.completion_seed(seed % 2**64, prompt, i),
            limit=limit,
            sampling_params=params.sampling_params,
            stops=params.stop,
            decode=decode,
            top_logprobs=params.top_logprobs is not None,
        )
        for prompt, (ids, limit) in enumerate(zip(prompts, limits, strict=True))
        for i in range(params.n)
    ]
    special = message_parser.special_names(server.model.template)
    names, end_names = (
        {i: text for i, text in special.items() if (i in server.model.ends) == ending}
        for ending in (False, True)
    )
    return CompletionJob(
        server=server,
        form=form,
        params=params,
        id=form.id_prefix + uuid.uuid4().hex,
        created=int(time.time()),
        start=start,
        seed=seed,
        prompts=prompts,
        builders=[
            CompletionBuilder(decode, params.stop, server.model.ends, parser, names, end_names)
            for _ in requests
        ],
        scheduled=ScheduledCompletions(scheduler, requests),
    )


def _token_limit(ids: Sequence[int], max_tokens: int | None, context: int, field: str) -> int:
    """The most tokens of a completion. Raises ApiError where the context has no room for `max_tokens`."""
    room = context - len(ids)
    if room < (1 if max_tokens is None else max_tokens):
        wanted = f"{max_tokens} in the completion" if max_tokens else "none left for a completion"
        requested = f"{len(ids) + (max_tokens or 0)} tokens ({len(ids)} in the prompt, {wanted})"
        raise _too_long(context, requested, "max_tokens" if room > 0 else field)
    return room if max_tokens is None else max_tokens


def _too_long(context: int, requested: str, param: str) -> ApiError:
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens. You requested {requested}: shorten one of them.",
        param=param,
        code="context_length_exceeded",
    )


async def _respond(job: CompletionJob, request: Request) -> Response:
    if job.params.stream:
        return EventStream(_events(job), lambda: _finish(job))
    try:
        return JSONResponse(await cancel_on_disconnect(request, _complete(job)))
    finally:
        _finish(job)


def _finish(job: CompletionJob) -> None:
    """Cancels what has not ended, and counts the tokens."""
    metrics = job.server.metrics
    job.scheduled.cancel()
    if not job.scheduled.finished:
        metrics.disconnected.inc()
    metrics.tokens.labels("prompt").inc(job.prompt_tokens)
    metrics.tokens.labels("completion").inc(sum(len(builder.ids) for builder in job.builders))


async def _progress(job: CompletionJob) -> AsyncIterator[tuple[int, CompletionBuilder, bool]]:
    """(index of a completion that has new tokens, its builder, whether it has ended) until all have."""
    metrics, first = job.server.metrics, True
    async for i, part in job.scheduled.parts():
        if first:
            metrics.first_token_seconds.observe(time.perf_counter() - job.start)
            first = False
        job.builders[i].add_part(part)
        yield i, job.builders[i], part.ended
    metrics.completion_seconds.observe(time.perf_counter() - job.start)


async def _complete(job: CompletionJob) -> dict[str, Any]:
    async for _, builder, ended in _progress(job):
        if ended:
            builder.advance(ended)
    return await _store(job)


async def _store(job: CompletionJob) -> dict[str, Any]:
    """The body of the whole response, which is on the disk first where it is to be stored."""
    params, builders = job.params, job.builders
    body = responses.response_body(
        job.server.model, job.form, params, job.id, job.created, builders, job.prompt_tokens
    )
    if params.store:
        stored = responses.stored_body(job.server.model, body, params, job.seed, builders, job.prompts[0])
        await asyncio.wrap_future(job.server.store.add(stored))
    return body


async def _events(job: CompletionJob) -> AsyncIterator[bytes]:
    params, model = job.params, job.server.model

    def chunk(choices: Sequence[dict[str, Any]], **fields: Any) -> bytes:
        body = responses.chunk_body(model, job.form, params, job.id, job.created, choices)
        return _event(body | fields)

    try:
        async for i, builder, ended in _progress(job):
            new = builder.advance(ended)
            if new.content or new.thought or new.tokens.start < new.tokens.stop or builder.finish_reason:
                choice = job.form.chunk_choice(model, params, builder, new)
                yield chunk([{"index": i, **choice, "finish_reason": builder.finish_reason}])
        if params.include_usage:
            yield chunk([], usage=responses.usage(job.builders, job.prompt_tokens))
        await _store(job)
    except ApiError as error:
        yield _event(error.body())
    except Exception as error:
        # The status is sent already: the stream reports the error, and so does the log.
        yield _event(ApiError(500, f"the completion is lost: {error}", code="internal").body())
        raise
    else:
        yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
