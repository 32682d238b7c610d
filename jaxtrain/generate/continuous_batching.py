"""Continuous batching: rows that end are replaced by the next requests while the others go on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.generate import sampler, stop_strings
from jaxtrain.generate.engine import CHUNK, DecodeProgress, Engine
from jaxtrain.types import Params

REFILL = 4  # prompts of one prefill: fewer are filled up with rows of length 0


class DecodeRequest(NamedTuple):
    """A prompt, and how its completion is sampled."""

    ids: Sequence[int]
    seed: int
    limit: int = sampler.NO_LIMIT  # most tokens of the completion
    sampling_params: Mapping[str, float] = {}
    stops: Sequence[str] = ()  # texts that end it
    decode: Callable[[list[int]], str] | None = None  # its text, where it is not that of all requests
    top_logprobs: bool = (
        False  # whether the model's own log-probabilities are requested, which the engine must have
    )
    is_cancelled: Callable[[], bool] = lambda: False  # called between calls of the device


class TokenLogprobs(NamedTuple):
    """The model's own log-probabilities of tokens: temperature 1, nothing filtered."""

    token_logps: np.ndarray  # f32[n], of the tokens themselves
    ids: np.ndarray  # i32[n, K], the likeliest tokens of each place, the best first
    logps: np.ndarray  # f32[n, K]


class CompletionPart(NamedTuple):
    """The new tokens of a request. A cancelled one ends with a part without tokens."""

    number: int  # of the request, from 0
    tokens: list[int]
    logps: list[float]
    top: TokenLogprobs | None
    ended: bool


class FinishedCompletion(NamedTuple):
    number: int  # of the request, from 0
    tokens: list[int]
    logps: list[float]


def completions(
    engine: Engine, params: Params, requests: Iterable[DecodeRequest | None], **options: Any
) -> Iterator[FinishedCompletion]:
    """The completions of requests in the order in which they end; `options` are those of `completion_parts`."""
    under_way: dict[int, FinishedCompletion] = {}
    for part in completion_parts(engine, params, requests, **options):
        one = under_way.setdefault(part.number, FinishedCompletion(part.number, [], []))
        one.tokens.extend(part.tokens)
        one.logps.extend(part.logps)
        if part.ended:
            yield under_way.pop(part.number)


def completion_parts(
    engine: Engine,
    params: Params,
    requests: Iterable[DecodeRequest | None],
    *,
    rows: int,
    defaults: Mapping[str, float],
    decode: Callable[[list[int]], str] = str,
    chunk: int = CHUNK,
) -> Iterator[CompletionPart]:
    """The completions of requests part by part, `chunk` tokens at a time; each is what its request gives alone.

    `rows` are under way at once. A request is taken when a row is free for it, so an endless iterator is a queue; None
    from it says that none is waiting now. A row whose iterator is closed or sent away goes on to its end unseen.
    `defaults` names the sampling parameters that any request may have, and their values where it has none. The engine
    needs a fixed number of `slots`. Several hosts must have the same requests at the same calls, and see the same of
    `is_cancelled`. Raises ValueError on several devices without the mesh plan, on a parameter that `defaults` does not
    name, and on log-probabilities that the engine does not have.
    """
    plan = engine.plan
    if not plan.one_program():
        raise ValueError("continuous batching takes one device or the mesh plan")
    refill = -(-REFILL // plan.shards) * plan.shards
    slots: list[_Slot | None] = [None] * rows
    waiting, count, is_open = iter(requests), 0, True
    state = engine.prefill(params, engine.put(_prefill_batch((), rows, rows, defaults)))
    while is_open or any(slots):
        for i, one in enumerate(slots):
            if one is not None and one.request.is_cancelled():
                slots[i] = None
                yield CompletionPart(one.number, [], [], None, True)
        new: list[tuple[int, DecodeRequest]] = []
        for i in (i for i in range(rows) if slots[i] is None):
            request = next(waiting, _END) if is_open else _END
            if request is _END:
                is_open = False
            if request is _END or request is None:
                break
            if request.top_logprobs and state.top_logprobs is None:
                raise ValueError(
                    "a request for the likeliest tokens, but the engine was built without top_logprobs"
                )
            slots[i] = _Slot(count, request, [])
            new.append((i, request))
            count += 1
        for first in range(0, len(new), refill):
            batch = _prefill_batch(new[first : first + refill], refill, rows, defaults)
            state = engine.insert(params, state, engine.put(batch))
        if not any(slots):
            continue
        # Rows that a stop ended, or whose request was cancelled, must not keep the loop awake.
        stopped = np.array([one is None for one in slots])
        state = engine.decode(params, state, chunk, stopped[plan.local_rows(rows)])
        progress = engine.fetch(state)
        for i, one in enumerate(slots):
            if one is not None:
                part = _part(one, progress, i, decode)
                if part.ended:
                    slots[i] = None
                yield part


class _Slot(NamedTuple):
    number: int
    request: DecodeRequest
    sent: list[int]  # tokens that parts had so far; grows


_END: Any = object()


def _part(
    one: _Slot, progress: DecodeProgress, row: int, decode: Callable[[list[int]], str]
) -> CompletionPart:
    """The new tokens of a row, which are added to those sent."""
    sent, done = len(one.sent), progress.completions
    n, request = int(done.lengths[row]), one.request
    until = stop_strings.tokens_until_stop(
        done.tokens[row, :n].tolist(), request.stops, request.decode or decode
    )
    n = n if until is None else until
    one.sent.extend(done.tokens[row, sent:n].tolist())
    top = None
    if request.top_logprobs:
        columns = progress.top_logprobs
        place = np.arange(sent, n) % columns.token_logps.shape[1]
        top = TokenLogprobs(
            token_logps=columns.token_logps[row, place],
            ids=columns.ids[row, place],
            logps=columns.logps[row, place],
        )
    ended = until is not None or bool(progress.done[row])
    return CompletionPart(one.number, one.sent[sent:], done.logps[row, sent:n].tolist(), top, ended)


def _prefill_batch(
    new: Sequence[tuple[int, DecodeRequest]], count: int, rows: int, defaults: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Requests as a prefill batch of `count` rows, with the slot of each; what fills it up has no slot."""
    requests = [request for _, request in new]
    for request in requests:
        if unknown := request.sampling_params.keys() - defaults.keys():
            raise ValueError(
                f"sampling parameters that `defaults` does not name: {', '.join(sorted(unknown))}"
            )
    batch = sampler.prompt_batch([request.ids for request in requests] or [[0]], 0)
    batch |= {
        "seed": np.array([request.seed for request in requests] or [0], np.uint32),
        "limit": np.array([request.limit for request in requests] or [0], np.int32),
        "top_logprobs": np.array([request.top_logprobs for request in requests] or [False], bool),
    }
    if not requests:
        batch["length"] = np.zeros(1, np.int32)
    slot = np.full(count, rows, np.int32)
    slot[: len(new)] = [place for place, _ in new]
    columns = sampler.sampling_columns(count, defaults)
    sampler.set_params(columns, [request.sampling_params for request in requests])
    return sampler.pad_rows(batch, count) | columns | {"slot": slot}
