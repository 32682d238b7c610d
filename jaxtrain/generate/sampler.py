"""Sampling from a model: prefill, then a loop on the device that ends when every row has.

What a row is drawn by is its prompt, its seed and its settings alone. The functions here are pure; generate/engine.py
compiles them for a plan.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.ops.logprobs import logits
from jaxtrain.ops.sampling import HOW, draw, uniforms
from jaxtrain.types import LM, Batch, Params

NO_LIMIT = np.iinfo(np.int32).max


class Completions(NamedTuple):
    tokens: Array  # i32[B, N], the end token included; 0 beyond it
    logps: Array  # f32[B, N], log-probability of each token under the distribution it was drawn from
    lengths: Array  # i32[B], tokens of the completion


class TopLogprobs(NamedTuple):
    """What the model itself, at temperature 1 and with nothing filtered, gives the last W tokens of each row.

    Token n of a row stands at n % W. It holds nothing of use for rows that do not want it.
    """

    wanted: Array  # bool[B]
    own: Array  # f32[B, W], log-probability of the token
    ids: Array  # i32[B, W, K], the likeliest tokens, the best first
    logps: Array  # f32[B, W, K], theirs


class DecodeState(NamedTuple):
    """Completions under way. The newest token of a row is told, but not yet in the cache."""

    told: Completions
    done: Array  # bool[B]
    newest: Array  # i32[B]
    place: Array  # i32[B], the position of the newest token, which is its slot of the cache
    seed: Array  # u32[B]
    limit: Array  # i32[B], most tokens of the completion
    how: Mapping[str, Array]  # columns [B] of ops/sampling.py's HOW
    seen: Array | None  # bool[B, V], tokens that were there, where a penalty is asked for
    tops: TopLogprobs | None  # where they can be asked for
    cache: Any  # leaves f[..., B, K, S, C]


def prefill(
    model: LM,
    params: Params,
    batch: Batch,
    *,
    end: int,
    width: int,
    slots: int = 0,
    tops: tuple[int, int] = (0, 0),
) -> DecodeState:
    """Prefill: rows with their first token. `width` is the most tokens of a completion, N.

    batch is {prompt i32[R, P], length, limit i32[R], seed u32[R, G] or [R]} and columns f32[R] (top_k: i32[R]) of HOW.
    Prompts stand at the left, padded on the right to P. Each is read once and continued G times: B = R G rows, those
    of a prompt together. A row of length 0 stays empty. The cache has `slots`, by default P + N.
    `tops`, (K, W), keeps Tops of the rows for which the batch's `tops` bool[R] says so.
    """
    prompt, length = batch["prompt"], batch["length"]
    R, P = prompt.shape
    hidden, cache = model.decode(params, prompt, jnp.broadcast_to(jnp.arange(P), (R, P)), model.cache(R, P))
    last = jnp.take_along_axis(hidden, jnp.maximum(length - 1, 0)[:, None, None], 1)[:, 0]
    head, how = model.head(params), {name: batch[name] for name in HOW if name in batch}
    seen = None
    if "repetition_penalty" in how:
        V = head.weight.shape[0]
        inside = jnp.where(jnp.arange(P) < length[:, None], prompt, V)  # what is beyond V is dropped
        seen = jnp.zeros((R, V), bool).at[jnp.arange(R)[:, None], inside].set(True, mode="drop")
    seed = batch["seed"].reshape(R, -1)
    G = seed.shape[1]
    kept = _no_tops(batch["tops"], min(tops[0], head.weight.shape[0]), tops[1]) if tops[0] else None
    last, length, limit, how, seen, kept = jax.tree.map(
        lambda x: jnp.repeat(x, G, 0), (last, length, batch["limit"], how, seen, kept)
    )
    more = (slots or P + width) - P
    cache = jax.tree.map(
        lambda x: jnp.pad(jnp.repeat(x, G, -4), [(0, 0)] * (x.ndim - 2) + [(0, more), (0, 0)]), cache
    )
    B = R * G
    nothing = Completions(jnp.zeros((B, width), jnp.int32), jnp.zeros((B, width)), jnp.zeros(B, jnp.int32))
    empty = (length < 1) | (limit < 1)
    zero = jnp.zeros(B, jnp.int32)
    limit = jnp.minimum(limit, width)
    rows = DecodeState(nothing, empty, zero, length - 1, seed.reshape(-1), limit, how, seen, kept, cache)
    rows, token, logp = _drawn(rows, last, head, zero, uniforms(rows.seed, zero[:, None])[:, 0], end)
    told = Completions(
        nothing.tokens.at[:, 0].set(token), nothing.logps.at[:, 0].set(logp), (~empty).astype(jnp.int32)
    )
    return rows._replace(told=told)


def _no_tops(wanted: Array, K: int, W: int) -> TopLogprobs:
    B = wanted.shape[0]
    return TopLogprobs(wanted, jnp.zeros((B, W)), jnp.zeros((B, W, K), jnp.int32), jnp.zeros((B, W, K)))


def decode(
    model: LM, params: Params, rows: DecodeState, steps: Array, *, end: int, most: int = 0
) -> DecodeState:
    """At most `steps` more tokens of each row: one loop, which ends sooner where every row has.

    `steps` is `most` at most, by default N: what is kept for the loop has that size.
    """
    B, N = rows.told.tokens.shape
    M = min(most or N, N)
    head, first = model.head(params), rows.told.lengths
    u = uniforms(rows.seed, first[:, None] + jnp.arange(M)).T

    def more(carry: tuple) -> Array:
        t, rows, _, _ = carry
        return (t < jnp.minimum(steps, M)) & ~rows.done.all()

    def body(carry: tuple) -> tuple:
        t, rows, tokens, logps = carry
        hidden, cache = model.decode(params, rows.newest[:, None], rows.place[:, None], rows.cache)
        rows, token, logp = _drawn(rows._replace(cache=cache), hidden[:, 0], head, first + t, u[t], end)
        return t + 1, rows, tokens.at[t].set(token), logps.at[t].set(logp)

    began = rows._replace(told=None)
    carry = (jnp.zeros((), jnp.int32), began, jnp.zeros((M, B), jnp.int32), jnp.zeros((M, B)))
    _, ended, tokens, logps = jax.lax.while_loop(more, body, carry)
    grown = ended.place - rows.place  # tokens of each row in this call
    index = jnp.arange(N) - first[:, None]
    new = (index >= 0) & (index < grown[:, None])

    def merged(old: Array, drawn: Array) -> Array:
        return jnp.where(new, jnp.take_along_axis(drawn.T, jnp.clip(index, 0, M - 1), 1), old)

    told = Completions(merged(rows.told.tokens, tokens), merged(rows.told.logps, logps), first + grown)
    return ended._replace(told=told)


def _drawn(
    rows: DecodeState, hidden: Array, head: Any, count: Array, u: Array, end: int
) -> tuple[DecodeState, Array, Array]:
    """(rows with one more token, it, its log-probability), both 0 where it was done; `count` tokens stood before."""
    live = ~rows.done
    x = logits(hidden, head)
    token, logp = draw(u, x, rows.how, rows.seen)
    token, logp = jnp.where(live, token, 0), jnp.where(live, logp, 0.0)
    seen, tops = rows.seen, rows.tops
    if tops is not None:
        asked = (tops.wanted & live).any()
        tops = jax.lax.cond(asked, _noted, lambda tops, *_: tops, tops, x, token, count)
    if seen is not None:
        index = jnp.where(live, token, seen.shape[1])
        seen = seen.at[jnp.arange(len(index)), index].set(True, mode="drop")
    rows = rows._replace(
        done=rows.done | (token == end) & live | (count + 1 >= rows.limit),
        newest=token,
        place=rows.place + live,
        seen=seen,
        tops=tops,
    )
    return rows, token, logp


def _noted(tops: TopLogprobs, x: Array, token: Array, count: Array) -> TopLogprobs:
    B, W, K = tops.ids.shape
    whole = jax.nn.logsumexp(x, -1, keepdims=True)
    best, ids = jax.lax.top_k(x, K)
    own = jnp.take_along_axis(x, token[:, None], 1)
    at = (jnp.arange(B), count % W)
    return tops._replace(
        own=tops.own.at[at].set((own - whole)[:, 0]),
        ids=tops.ids.at[at].set(ids),
        logps=tops.logps.at[at].set(best - whole),
    )


def insert(rows: DecodeState, new: DecodeState, slot: Array) -> DecodeState:
    """Rows with `new` in place of those at slot i32[R]; what has a slot beyond them is dropped."""

    def put(old: Array, new: Array) -> Array:
        return old.at[slot].set(new, mode="drop")

    def put_cache(old: Array, new: Array) -> Array:
        return jnp.moveaxis(put(jnp.moveaxis(old, -4, 0), jnp.moveaxis(new, -4, 0)), 0, -4)

    cache = jax.tree.map(put_cache, rows.cache, new.cache)
    rest = jax.tree.map(put, rows._replace(cache=None), new._replace(cache=None))
    return rest._replace(cache=cache)


def sampler(model: LM, *, max_new: int, end: int, **how: float) -> Callable[..., Completions]:
    """Prefill and loop as one function (params, frozen, batch) -> Completions, to be compiled; `how` for all rows.

    A row ends with `end`, or after its `limit` of tokens, or max_new. The model's context must hold each prompt and its
    limit: the caller sees to it.
    """

    def sample(params: Params, frozen: Params, batch: Batch) -> Completions:
        params = jax.lax.optimization_barrier(model.ready(params))  # or XLA would lay out each token anew
        asked = columns(batch["length"].shape[0], settings(how))
        rows = prefill(model, params, {**batch, **asked}, end=end, width=max_new)
        return decode(model, params, rows, max_new - 1, end=end).told

    return sample


def settings(how: Mapping[str, float]) -> dict[str, float]:
    """Those settings that change something."""
    usual = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    if unknown := how.keys() - usual.keys():
        raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
    return {name: value for name, value in how.items() if value != usual[name]}


def columns(rows: int, how: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Settings for all rows, as columns of a batch."""
    kinds = {"top_k": np.int32}
    return {name: np.full(rows, value, kinds.get(name, np.float32)) for name, value in how.items()}


def prompts(rows: Sequence[Sequence[int]], seed: int, bucket: int = 16, samples: int = 1) -> dict[str, Any]:
    """Token lists as a sampler's batch. P is a power of two times `bucket`, so that few shapes are compiled."""
    prompt = np.zeros((len(rows), bucketed(max(map(len, rows)), bucket)), np.int32)
    for i, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"prompt {i} is empty: it needs at least one token, such as the opening one")
        prompt[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows], np.int32)
    limits = np.full(len(rows), NO_LIMIT, np.int32)
    seeds = np.random.SeedSequence(seed).generate_state(len(rows) * samples, np.uint32)
    return {
        "prompt": prompt,
        "length": lengths,
        "limit": limits,
        "seed": seeds.reshape(-1, samples) if samples > 1 else seeds,
    }


def seed_of(seed: int, place: int, sample: int) -> int:
    """The own seed, u32, of a completion: number `sample` of those to prompt number `place`."""
    return int(np.random.SeedSequence((seed, place, sample)).generate_state(1)[0])


def bucketed(length: int, bucket: int = 16) -> int:
    """The least power of two times `bucket` that is at least `length`."""
    P = bucket
    while length > P:
        P *= 2
    return P


def texts(done: Completions, decode: Callable[[list[int]], str]) -> list[str]:
    """The completions as text."""
    pairs = zip(np.asarray(done.tokens), np.asarray(done.lengths), strict=True)
    return [decode([int(token) for token in tokens[:length]]) for tokens, length in pairs]
