"""Completions of conversations that grow: the KV cache of a turn is kept for the next one, which prefills what is new.

Without it every turn would prefill the whole conversation. What is kept is of one batch of rows: its size is that of
the batch at its longest.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.files import progress
from jaxtrain.generate import batch_sampler, sampler
from jaxtrain.generate.batch_sampler import SampledIds, SampleRequest
from jaxtrain.generate.engine import Engine
from jaxtrain.generate.sampler import Completions, DecodeState
from jaxtrain.ops.sampling import uniforms
from jaxtrain.types import LM, Batch, Params

Extend = Callable[[Params, DecodeState, Any, Batch], DecodeState]


class KeptRows(NamedTuple):
    """The rows of the turn before."""

    state: DecodeState
    ids: list[
        list[int] | None
    ]  # of each row its tokens, of which all but the last are in the cache; None: no row


def extend(
    model: LM, params: Params, state: DecodeState, batch: Batch, *, ends: Sequence[int]
) -> DecodeState:
    """The state with more tokens behind those of its rows, and the first token of a new completion of each.

    batch is {tokens i32[B, T], length, limit i32[B], seed u32[B]}: the row's last token, which is not in the cache yet,
    and those after it, padded on the right. What padding writes is overwritten before a query sees it. A row of length
    0 is done.
    """
    tokens, length, seed = batch["tokens"], batch["length"], batch["seed"]
    B, T = tokens.shape
    hidden, kv_cache = model.decode(params, tokens, state.position[:, None] + jnp.arange(T), state.kv_cache)
    last = jnp.take_along_axis(hidden, jnp.maximum(length - 1, 0)[:, None, None], 1)[:, 0]
    zero, empty, N = (
        jnp.zeros(B, jnp.int32),
        (length < 1) | (batch["limit"] < 1),
        state.completions.tokens.shape[1],
    )
    state = state._replace(
        done=empty, position=state.position + length - 1, seed=seed, limit=jnp.minimum(batch["limit"], N),
        kv_cache=kv_cache,
    )  # fmt: skip
    u = uniforms(seed, zero[:, None])[:, 0]
    state, token, logp = sampler.add_token(state, last, model.head(params), zero, u, ends)
    return state._replace(completions=_first(token, logp, empty, N))


def _first(token: Array, logp: Array, empty: Array, N: int) -> Completions:
    B = len(token)
    return Completions(
        jnp.zeros((B, N), jnp.int32).at[:, 0].set(token),
        jnp.zeros((B, N)).at[:, 0].set(logp),
        (~empty).astype(jnp.int32),
    )


def sample(
    engine: Engine,
    extended: Extend,
    params: Params,
    kept: KeptRows | None,
    requests: Sequence[SampleRequest],
    *,
    context: int,
    size: int,
) -> tuple[list[SampledIds], KeptRows | None]:
    """(what batch_sampler.sample gives, the rows for the next call or None).

    `extended` is `extend` as the engine's plan carries it; the engine's slots hold the longest conversation. Rows are
    prefilled anew where the requests take several calls or have several completions, do not go on from rows of the call
    before, in their order, or need half as many rows. The sampling parameters of the calls are the same, without a
    repetition penalty.
    """
    size += -size % engine.plan.shards
    if len(requests) > size or any(len(request.seeds) > 1 for request in requests):
        return batch_sampler.sample(engine, params, requests, context=context, size=size), None
    rows = _rows_of(kept, requests) if kept and 2 * size > len(kept.ids) else None
    if rows is None:
        rows, count = list(range(len(requests))), size
        batch = batch_sampler.local_rows(
            engine, batch_sampler.prefill_batch(engine, requests, context), 0, size
        )
        state = engine.prefill(params, engine.plan.put(batch))
    else:
        count = len(kept.ids)
        batch = _suffixes(engine, kept, rows, requests, context)
        state = extended(params, kept.state, (), engine.put(batch))
    if engine.max_new > 1:
        state = engine.decode(params, state, engine.max_new - 1)
    progress.stop_point(f"sampling, {len(requests)} prompts")
    new = engine.fetch(state).completions
    ids: list[list[int] | None] = [None] * count
    done = []
    for row, request in zip(rows, requests, strict=True):
        n = int(new.lengths[row])
        one = SampledIds(new.tokens[row, :n].tolist(), new.logps[row, :n])
        ids[row] = [*request.ids, *one.ids]
        done.append(one)
    return done, KeptRows(state, ids)


def _rows_of(kept: KeptRows, requests: Sequence[SampleRequest]) -> list[int] | None:
    """The row that each request goes on from, in order; None where one has none."""
    rows, left = [], iter(enumerate(kept.ids))
    for request in requests:
        going_on = (row for row, ids in left if ids is not None and list(request.ids[: len(ids)]) == ids)
        if (row := next(going_on, None)) is None:
            return None
        rows.append(row)
    return rows


def _suffixes(
    engine: Engine, kept: KeptRows, rows: Sequence[int], requests: Sequence[SampleRequest], context: int
) -> dict[str, np.ndarray]:
    """The batch of `extend`: of each request what its row has not in the cache."""
    B = len(kept.ids)
    new = [request.ids[len(kept.ids[row]) - 1 :] for row, request in zip(rows, requests, strict=True)]
    batch = {
        "tokens": np.zeros((B, sampler.bucketed(max(map(len, new)))), np.int32),
        **{name: np.zeros(B, np.int32) for name in ("length", "limit")},
        "seed": np.zeros(B, np.uint32),
    }
    limits = batch_sampler.token_limits(engine, requests, context)
    for row, ids, request, limit in zip(rows, new, requests, limits, strict=True):
        batch["tokens"][row, : len(ids)], batch["length"][row] = ids, len(ids)
        batch["limit"][row], batch["seed"][row] = limit, request.seeds[0]
    return batch
