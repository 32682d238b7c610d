"""Continuous batching: rows that end are replaced by the next requests while the others go on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.generate import sampler, stop_strings
from jaxtrain.generate.engine import CHUNK, DecodeProgress, Engine

REFILL = 4  # prompts of one prefill: fewer are filled up with rows of length 0


class Request(NamedTuple):
    ids: Sequence[int]
    seed: int
    limit: int = sampler.NO_LIMIT  # most tokens of the completion
    how: Mapping[str, float] = {}
    ends: Sequence[str] = ()  # texts that end it
    decode: Callable[[list[int]], str] | None = None  # its text, where it is not that of all
    tops: bool = False  # whether the model's own log-probabilities are wanted, which `made` must keep
    waits: Callable[[], bool] = lambda: True  # whether somebody still waits for it, asked between calls


class TokenLogprobs(NamedTuple):
    """The model's own log-probabilities of tokens: temperature 1, nothing filtered."""

    own: np.ndarray  # f32[n], of the tokens themselves
    ids: np.ndarray  # i32[n, K], the likeliest tokens of each place, the best first
    logps: np.ndarray  # f32[n, K]


class CompletionPart(NamedTuple):
    """What is new of a request. One that nobody waits for any more ends with a part without tokens."""

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
    made: Engine, params: Any, requests: Iterable[Request | None], **options: Any
) -> Iterator[FinishedCompletion]:
    """The completions of requests in the order in which they end; `options` are those of `parts`."""
    found: dict[int, FinishedCompletion] = {}
    for part in completion_parts(made, params, requests, **options):
        one = found.setdefault(part.number, FinishedCompletion(part.number, [], []))
        one.tokens.extend(part.tokens)
        one.logps.extend(part.logps)
        if part.ended:
            yield found.pop(part.number)


def completion_parts(
    made: Engine,
    params: Any,
    requests: Iterable[Request | None],
    *,
    rows: int,
    usual: Mapping[str, float],
    decode: Callable[[list[int]], str] = str,
    chunk: int = CHUNK,
) -> Iterator[CompletionPart]:
    """The completions of requests as they are drawn, `chunk` tokens at a time; each is what its request gives alone.

    `rows` are under way at once. A request is taken when a row is free for it, so an endless iterator is a queue; None
    from it says that none waits now. A row whose iterator is closed or sent away goes on to its end unseen. `usual`
    names the settings that any request may have, and what they are where it has none. `made` needs a fixed number of
    `slots`. One host, and with several devices the mesh plan: raises ValueError otherwise, and on a setting that
    `usual` does not name or `made` does not keep.
    """
    plan = made.plan
    if plan.process[1] > 1 or not plan.one_program():
        raise ValueError("continuous batching takes one host, and one device or the mesh plan")
    refill = -(-REFILL // plan.shards) * plan.shards
    held: list[_Held | None] = [None] * rows
    waiting, taken, open_ = iter(requests), 0, True
    state = made.start(params, plan.put(_batch((), rows, rows, usual)))
    while open_ or any(held):
        for slot, one in enumerate(held):
            if one is not None and not one.request.waits():
                held[slot] = None
                yield CompletionPart(one.number, [], [], None, True)
        fresh: list[tuple[int, Request]] = []
        for slot in (i for i in range(rows) if held[i] is None):
            request = next(waiting, _END) if open_ else _END
            if request is _END:
                open_ = False
            if request is _END or request is None:
                break
            if request.tops and state.tops is None:
                raise ValueError("a request wants the likeliest tokens, which the engine was made without")
            held[slot] = _Held(taken, request, [])
            fresh.append((slot, request))
            taken += 1
        for first in range(0, len(fresh), refill):
            batch = _batch(fresh[first : first + refill], refill, rows, usual)
            state = made.replace(params, state, plan.put(batch))
        if not any(held):
            continue
        # Rows that a stop ended, or whose request nobody waits for, must not keep the loop awake.
        state = made.advance(params, state, chunk, np.array([one is None for one in held]))
        now = made.see(state)
        for slot, one in enumerate(held):
            if one is not None:
                part = _part(one, now, slot, decode)
                if part.ended:
                    held[slot] = None
                yield part


class _Held(NamedTuple):
    number: int
    request: Request
    given: list[int]  # grows


_END: Any = object()


def _part(one: _Held, now: DecodeProgress, slot: int, decode: Callable[[list[int]], str]) -> CompletionPart:
    """What is new in a row, noted as given."""
    seen, n, told = len(one.given), int(now.told.lengths[slot]), now.told
    whole = stop_strings.upto(told.tokens[slot, :n].tolist(), one.request.ends, one.request.decode or decode)
    n = n if whole is None else whole
    one.given.extend(told.tokens[slot, seen:n].tolist())
    top = None
    if one.request.tops:
        place = np.arange(seen, n) % now.tops.own.shape[1]
        top = TokenLogprobs(*(column[slot, place] for column in (now.tops.own, now.tops.ids, now.tops.logps)))
    ended = whole is not None or bool(now.done[slot])
    return CompletionPart(one.number, one.given[seen:], told.logps[slot, seen:n].tolist(), top, ended)


def _batch(
    fresh: Sequence[tuple[int, Request]], count: int, rows: int, usual: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Requests as a prefill's batch of `count` rows, with the slot of each; what fills it up goes nowhere."""
    asked = [request for _, request in fresh]
    for request in asked:
        if unknown := request.how.keys() - usual.keys():
            raise ValueError(f"settings that `usual` does not name: {', '.join(sorted(unknown))}")
    batch = sampler.prompts([request.ids for request in asked] or [[0]], 0)
    batch |= {
        "seed": np.array([request.seed for request in asked] or [0], np.uint32),
        "limit": np.array([request.limit for request in asked] or [0], np.int32),
        "tops": np.array([request.tops for request in asked] or [False], bool),
    }
    if not asked:
        batch["length"] = np.zeros(1, np.int32)
    batch = {name: np.pad(x, [(0, count - len(x))] + [(0, 0)] * (x.ndim - 1)) for name, x in batch.items()}
    columns = sampler.columns(count, usual)
    for i, request in enumerate(asked):
        for name, value in request.how.items():
            columns[name][i] = value
    slot = np.full(count, rows, np.int32)
    slot[: len(fresh)] = [place for place, _ in fresh]
    return batch | columns | {"slot": slot}
