"""Sampling from a model: prefill, then a decode loop on the device that ends when every row has.

A completion depends on its prompt, its seed and its sampling parameters alone. The functions here are pure;
generate/engine.py compiles them for a plan.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.ops.logprobs import logits
from jaxtrain.ops.sampling import HOW, draw, uniforms
from jaxtrain.types import LM, Batch, Head, Params

NO_LIMIT = np.iinfo(np.int32).max
# Sampling parameters that change nothing.
NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


class Completions(NamedTuple):
    tokens: Array  # i32[B, N], the token that ended it included; 0 beyond it
    logps: Array  # f32[B, N], log-probability of each token under the distribution it was sampled from
    lengths: Array  # i32[B], tokens of the completion


class TopLogprobs(NamedTuple):
    """The model's own log-probabilities, at temperature 1 and with nothing filtered, of each row's last W tokens.

    Token n of a row stands at n % W. Rows that did not request them hold nothing of use.
    """

    requested: Array  # bool[B]
    token_logps: Array  # f32[B, W], of the sampled tokens
    ids: Array  # i32[B, W, K], the likeliest tokens, the best first
    logps: Array  # f32[B, W, K], theirs


class DecodeState(NamedTuple):
    """Completions under way. The last token of a row is among its completion's, but not yet in the KV cache."""

    completions: Completions
    done: Array  # bool[B]
    last_token: Array  # i32[B]
    position: Array  # i32[B], of the last token, which is its slot of the KV cache
    seed: Array  # u32[B]
    limit: Array  # i32[B], most tokens of the completion
    sampling_params: Mapping[str, Array]  # columns [B] of ops/sampling.py's HOW
    seen_tokens: (
        Array | None
    )  # bool[B, V], tokens of prompt and completion, where there is a repetition penalty
    top_logprobs: TopLogprobs | None  # of an engine that has them
    kv_cache: Any  # leaves f[..., B, K, S, C]


def prefill(
    model: LM,
    params: Params,
    batch: Batch,
    *,
    ends: Sequence[int],
    max_new: int,
    slots: int = 0,
    top_logprobs: tuple[int, int] = (0, 0),
) -> DecodeState:
    """Prefill: a decode state whose rows have their first token. `max_new` is the most tokens of a completion, N.

    batch is {prompt i32[R, P], length, limit i32[R], seed u32[R, G] or [R]} and columns f32[R] (top_k: i32[R]) of HOW.
    Prompts stand at the left, padded on the right to P. Each is read once and continued G times: B = R G rows, those
    of a prompt together. A row of length 0 stays empty, each of `ends` ends one. The KV cache has `slots`, 0: P + N.
    `top_logprobs`, (K, W), adds TopLogprobs of the rows for which the batch's `top_logprobs` bool[R] requests them.
    """
    prompt, length = batch["prompt"], batch["length"]
    R, P = prompt.shape
    slots = slots or P + max_new
    hidden, kv_cache = model.decode(params, prompt, None, model.cache(R, P), slots)
    last = jnp.take_along_axis(hidden, jnp.maximum(length - 1, 0)[:, None, None], 1)[:, 0]
    head, sampling_params = model.head(params), {name: batch[name] for name in HOW if name in batch}
    V = head.weight.shape[0]
    seen = _prompt_tokens(prompt, length, V) if "repetition_penalty" in sampling_params else None
    seed = batch["seed"].reshape(R, -1)
    G = seed.shape[1]
    K, W = min(top_logprobs[0], V), top_logprobs[1]
    top = _empty_top_logprobs(batch["top_logprobs"], K, W) if K else None
    last, length, limit, sampling_params, seen, top = jax.tree.map(
        lambda x: jnp.repeat(x, G, 0), (last, length, batch["limit"], sampling_params, seen, top)
    )
    kv_cache = jax.tree.map(
        lambda x: jnp.pad(jnp.repeat(x, G, -4), [(0, 0)] * (x.ndim - 2) + [(0, slots - P), (0, 0)]), kv_cache
    )
    B = R * G
    nothing = Completions(
        jnp.zeros((B, max_new), jnp.int32), jnp.zeros((B, max_new)), jnp.zeros(B, jnp.int32)
    )
    empty = (length < 1) | (limit < 1)
    zero = jnp.zeros(B, jnp.int32)
    state = DecodeState(
        completions=nothing,
        done=empty,
        last_token=zero,
        position=length - 1,
        seed=seed.reshape(-1),
        limit=jnp.minimum(limit, max_new),
        sampling_params=sampling_params,
        seen_tokens=seen,
        top_logprobs=top,
        kv_cache=kv_cache,
    )
    state, token, logp = add_token(state, last, head, zero, uniforms(state.seed, zero[:, None])[:, 0], ends)
    first = Completions(
        nothing.tokens.at[:, 0].set(token), nothing.logps.at[:, 0].set(logp), (~empty).astype(jnp.int32)
    )
    return state._replace(completions=first)


def _prompt_tokens(prompt: Array, length: Array, V: int) -> Array:
    """bool[R, V]: the tokens of each prompt i32[R, P]."""
    R, P = prompt.shape
    inside = jnp.where(jnp.arange(P) < length[:, None], prompt, V)  # what is beyond V is dropped
    return jnp.zeros((R, V), bool).at[jnp.arange(R)[:, None], inside].set(True, mode="drop")


def _empty_top_logprobs(requested: Array, K: int, W: int) -> TopLogprobs:
    B = requested.shape[0]
    return TopLogprobs(requested, jnp.zeros((B, W)), jnp.zeros((B, W, K), jnp.int32), jnp.zeros((B, W, K)))


def decode(
    model: LM, params: Params, state: DecodeState, steps: Array, *, ends: Sequence[int], max_steps: int = 0
) -> DecodeState:
    """Decode: the state after at most `steps` more tokens of each row: one loop, which ends sooner where every row has.

    `steps` is `max_steps` at most, by default N: the loop's buffers have that size.
    """
    B, N = state.completions.tokens.shape
    M = min(max_steps or N, N)
    head, first = model.head(params), state.completions.lengths
    u = uniforms(state.seed, first[:, None] + jnp.arange(M)).T

    def more(carry: tuple) -> Array:
        t, state, _, _ = carry
        return (t < jnp.minimum(steps, M)) & ~state.done.all()

    def body(carry: tuple) -> tuple:
        t, state, tokens, logps = carry
        hidden, kv_cache = model.decode(
            params, state.last_token[:, None], state.position[:, None], state.kv_cache
        )
        state = state._replace(kv_cache=kv_cache)
        state, token, logp = add_token(state, hidden[:, 0], head, first + t, u[t], ends)
        return t + 1, state, tokens.at[t].set(token), logps.at[t].set(logp)

    before = state._replace(completions=None)
    carry = (jnp.zeros((), jnp.int32), before, jnp.zeros((M, B), jnp.int32), jnp.zeros((M, B)))
    _, after, tokens, logps = jax.lax.while_loop(more, body, carry)
    added = after.position - state.position  # tokens of each row in this call
    index = jnp.arange(N) - first[:, None]
    new = (index >= 0) & (index < added[:, None])

    def merged(old: Array, sampled: Array) -> Array:
        return jnp.where(new, jnp.take_along_axis(sampled.T, jnp.clip(index, 0, M - 1), 1), old)

    old = state.completions
    return after._replace(
        completions=Completions(merged(old.tokens, tokens), merged(old.logps, logps), first + added)
    )


def add_token(
    state: DecodeState, hidden: Array, head: Head, count: Array, u: Array, ends: Sequence[int]
) -> tuple[DecodeState, Array, Array]:
    """(the state with one more token, it, its log-probability), both 0 where a row was done.

    `count` tokens stood before.
    """
    live = ~state.done
    x = logits(hidden, head)
    token, logp = draw(u, x, state.sampling_params, state.seen_tokens)
    token, logp = jnp.where(live, token, 0), jnp.where(live, logp, 0.0)
    seen, top = state.seen_tokens, state.top_logprobs
    if top is not None:
        requested = (top.requested & live).any()
        top = jax.lax.cond(requested, _with_token, lambda top, *_: top, top, x, token, count)
    if seen is not None:
        index = jnp.where(live, token, seen.shape[1])
        seen = seen.at[jnp.arange(len(index)), index].set(True, mode="drop")
    state = state._replace(
        done=state.done | _is_any_of(token, ends) & live | (count + 1 >= state.limit),
        last_token=token,
        position=state.position + live,
        seen_tokens=seen,
        top_logprobs=top,
    )
    return state, token, logp


def _is_any_of(token: Array, ids: Sequence[int]) -> Array:
    """bool[B]: whether a token i32[B] is one of the ids, of which there may be none."""
    return (token[:, None] == np.array(ids, np.int32)).any(-1)


def _with_token(top: TopLogprobs, x: Array, token: Array, count: Array) -> TopLogprobs:
    """The log-probabilities with those of one more token, from logits f32[B, V]."""
    B, W, K = top.ids.shape
    whole = jax.nn.logsumexp(x, -1, keepdims=True)
    best, ids = jax.lax.top_k(x, K)
    own = jnp.take_along_axis(x, token[:, None], 1)
    at = (jnp.arange(B), count % W)
    return top._replace(
        token_logps=top.token_logps.at[at].set((own - whole)[:, 0]),
        ids=top.ids.at[at].set(ids),
        logps=top.logps.at[at].set(best - whole),
    )


def insert(state: DecodeState, new: DecodeState, slot: Array) -> DecodeState:
    """The state with rows of `new` in place of those at slot i32[R]; what has a slot beyond them is dropped."""

    def put(old: Array, new: Array) -> Array:
        return old.at[slot].set(new, mode="drop")

    def put_cache(old: Array, new: Array) -> Array:
        return jnp.moveaxis(put(jnp.moveaxis(old, -4, 0), jnp.moveaxis(new, -4, 0)), 0, -4)

    kv_cache = jax.tree.map(put_cache, state.kv_cache, new.kv_cache)
    rest = jax.tree.map(put, state._replace(kv_cache=None), new._replace(kv_cache=None))
    return rest._replace(kv_cache=kv_cache)


def active_params(params: Mapping[str, float]) -> dict[str, float]:
    """Those of the sampling parameters that change something."""
    if unknown := params.keys() - NEUTRAL.keys():
        raise ValueError(f"unknown sampling parameters: {', '.join(sorted(unknown))}")
    return {name: value for name, value in params.items() if value != NEUTRAL[name]}


def sampling_columns(rows: int, params: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Sampling parameters of all rows, as columns [rows] of a batch."""
    kinds = {"top_k": np.int32}
    return {name: np.full(rows, value, kinds.get(name, np.float32)) for name, value in params.items()}


def set_params(columns: Mapping[str, np.ndarray], params: Sequence[Mapping[str, float]]) -> None:
    """Writes each row's own sampling parameters into the columns."""
    for i, one in enumerate(params):
        for name, value in one.items():
            columns[name][i] = value


def pad_rows(batch: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """The batch with `rows` rows. Those added have length 0, so that they stay empty, and the last row's parameters."""
    return {
        name: np.pad(
            x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1), mode="edge" if name in HOW else "constant"
        )
        for name, x in batch.items()
    }


def prompt_batch(
    rows: Sequence[Sequence[int]], seed: int, bucket: int = 16, samples: int = 1
) -> dict[str, Any]:
    """Token lists as a prefill batch. P is a power of two times `bucket`, so that few shapes are compiled."""
    prompt = np.zeros((len(rows), bucketed(max(map(len, rows)), bucket)), np.int32)
    for i, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"prompt {i} is empty: it needs at least one token, such as the opening one")
        prompt[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows], np.int32)
    limits = np.full(len(rows), NO_LIMIT, np.int32)
    seeds = prompt_seeds(seed, len(rows), samples)
    return {
        "prompt": prompt,
        "length": lengths,
        "limit": limits,
        "seed": seeds if samples > 1 else seeds[:, 0],
    }


def prompt_seeds(seed: int, prompts: int, samples: int) -> np.ndarray:
    """u32[R, G]: the seeds of completions by the places of their prompts in a list."""
    return np.random.SeedSequence(seed).generate_state(prompts * samples, np.uint32).reshape(-1, samples)


def completion_seed(seed: int, place: int, sample: int) -> int:
    """The seed, u32, of a completion: number `sample` of those to prompt number `place`."""
    return int(np.random.SeedSequence((seed, place, sample)).generate_state(1)[0])


def bucketed(length: int, bucket: int = 16) -> int:
    """The least power of two times `bucket` that is at least `length`."""
    P = bucket
    while length > P:
        P *= 2
    return P
