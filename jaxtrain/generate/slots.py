"""Continuous batching: rows that end are replaced by the next requests while the others go on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.generate import sampler, stops
from jaxtrain.generate.engine import CHUNK, Engine

REFILL = 4  # prompts of one prefill: fewer are filled up with rows of length 0


class Request(NamedTuple):
    ids: Sequence[int]
    seed: int
    limit: int = sampler.NO_LIMIT  # most tokens of the completion
    how: Mapping[str, float] = {}
    ends: Sequence[str] = ()  # texts that end it


class Finished(NamedTuple):
    number: int  # of the request, from 0
    tokens: list[int]
    logps: list[float]


def served(
    made: Engine,
    params: Any,
    requests: Iterable[Request | None],
    *,
    rows: int,
    usual: Mapping[str, float],
    decode: Callable[[list[int]], str] = str,
    chunk: int = CHUNK,
) -> Iterator[Finished]:
    """The completions of requests in the order in which they end; each is what its request gives alone.

    `rows` are under way at once. A request is taken when a row is free for it, so an endless iterator is a queue; None
    from it says that none waits now. A row whose iterator is closed or sent away goes on to its end unseen. `usual`
    names the settings that any request may have, and what they are where it has none. `made` needs a fixed number of
    `slots`. One host, and with several devices the mesh plan: raises ValueError otherwise, and on a setting that
    `usual` does not name.
    """
    plan = made.plan
    if plan.process[1] > 1 or (plan.name == "pmap" and plan.shards > 1):
        raise ValueError("continuous batching takes one host, and one device or the mesh plan")
    refill = -(-REFILL // plan.shards) * plan.shards
    held: list[tuple[int, Request] | None] = [None] * rows
    waiting, taken, open_ = iter(requests), 0, True
    state = made.start(params, plan.put(_batch((), rows, rows, usual)))
    while open_ or any(held):
        fresh: list[tuple[int, int, Request]] = []
        for slot in (i for i in range(rows) if held[i] is None):
            request = next(waiting, _END) if open_ else _END
            if request is _END:
                open_ = False
            if request is _END or request is None:
                break
            held[slot] = (taken, request)
            fresh.append((slot, taken, request))
            taken += 1
        for first in range(0, len(fresh), refill):
            state = made.replace(
                params, state, plan.put(_batch(fresh[first : first + refill], refill, rows, usual))
            )
        if not any(held):
            continue
        state = made.advance(params, state, chunk)
        now, ended = made.see(state), np.zeros(rows, bool)
        for slot, one in enumerate(held):
            if one is None:
                continue
            n = now.told.lengths[slot]
            ids = now.told.tokens[slot, :n].tolist()
            whole = stops.upto(ids, one[1].ends, decode)
            if whole is None and not now.done[slot]:
                continue
            ended[slot] = True
            held[slot] = None
            yield Finished(
                one[0], ids[:whole], now.told.logps[slot, : n if whole is None else whole].tolist()
            )
        if (ended & ~now.done).any():  # a stop ended them: they must not keep the loop awake
            state = made.advance(params, state, 0, ended)


_END: Any = object()


def _batch(
    fresh: Sequence[tuple[int, int, Request]], count: int, rows: int, usual: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Requests as a prefill's batch of `count` rows, with the slot of each; what fills it up goes nowhere."""
    asked = [request for _, _, request in fresh]
    for request in asked:
        if unknown := request.how.keys() - usual.keys():
            raise ValueError(f"settings that `usual` does not name: {', '.join(sorted(unknown))}")
    batch = sampler.prompts([request.ids for request in asked] or [[0]], 0)
    batch |= {
        "seed": np.array([request.seed for request in asked] or [0], np.uint32),
        "limit": np.array([request.limit for request in asked] or [0], np.int32),
    }
    if not asked:
        batch["length"] = np.zeros(1, np.int32)
    batch = {name: np.pad(x, [(0, count - len(x))] + [(0, 0)] * (x.ndim - 1)) for name, x in batch.items()}
    columns = sampler.columns(count, usual)
    for i, request in enumerate(asked):
        for name, value in request.how.items():
            columns[name][i] = value
    slot = np.full(count, rows, np.int32)
    slot[: len(fresh)] = [place for place, _, _ in fresh]
    return batch | columns | {"slot": slot}
