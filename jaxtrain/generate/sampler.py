"""Sampling from a model: prefill, then a loop on the device that ends when every row has."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.ops.logprobs import logits
from jaxtrain.ops.sampling import draw
from jaxtrain.types import LM, Batch, Params


class Completions(NamedTuple):
    tokens: Array  # i32[B, N], the end token included; 0 beyond it
    logps: Array  # f32[B, N], log-probability of each token under the distribution it was drawn from
    lengths: Array  # i32[B], tokens of the completion


def sampler(
    model: LM, *, max_new: int, end: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Callable[[Params, Params, Batch], Completions]:
    """A function (params, frozen, {prompt i32[B, P], length i32[B], seed u32[B]}) -> Completions, to be jitted.

    Prompts stand at the left, padded on the right to P. A row's sample depends on its prompt and seed alone, not on
    its neighbours. temperature 0 is greedy. A row ends with `end`, or after max_new tokens; a row of length 0 stays
    empty. The model's context must hold the longest prompt and max_new more tokens: the caller sees to it.
    """

    def sample(params: Params, frozen: Params, batch: Batch) -> Completions:
        prompt, length = batch["prompt"], batch["length"]
        B, P = prompt.shape
        keys = jax.vmap(jax.random.key)(batch["seed"])
        head = model.head(params)
        places = jnp.broadcast_to(jnp.arange(P), (B, P))
        hidden, cache = model.decode(params, prompt, places, model.cache(B, P + max_new))
        last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], 1)[:, 0]

        def pick(hidden: Array, t: Array) -> tuple[Array, Array]:
            here = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
            return draw(here, logits(hidden, head), temperature=temperature, top_k=top_k, top_p=top_p)

        def more(carry: tuple) -> Array:
            t, _, _, done, _, _ = carry
            return (t < max_new) & ~done.all()

        def body(carry: tuple) -> tuple:
            t, last, cache, done, tokens, logps = carry
            token, logp = pick(last, t)
            tokens = tokens.at[:, t].set(jnp.where(done, 0, token))
            logps = logps.at[:, t].set(jnp.where(done, 0.0, logp))
            done = done | (token == end)
            hidden, cache = model.decode(params, token[:, None], (length + t)[:, None], cache)
            return t + 1, hidden[:, 0], cache, done, tokens, logps

        start = (
            jnp.zeros((), jnp.int32),
            last,
            cache,
            length < 1,
            jnp.zeros((B, max_new), jnp.int32),
            jnp.zeros((B, max_new)),
        )
        t, _, _, _, tokens, logps = jax.lax.while_loop(more, body, start)
        ends = tokens == end
        lengths = jnp.where(ends.any(1), ends.argmax(1) + 1, t) * (length > 0)
        return Completions(tokens, logps, lengths.astype(jnp.int32))

    return sample


def prompts(rows: Sequence[Sequence[int]], seed: int, bucket: int = 16) -> dict[str, np.ndarray]:
    """Token lists as a sampler's batch. P is a power of two times `bucket`, so that few shapes are compiled."""
    longest, P = max(map(len, rows)), bucket
    while longest > P:
        P *= 2
    prompt = np.zeros((len(rows), P), np.int32)
    for i, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"prompt {i} is empty: it needs at least one token, such as the opening one")
        prompt[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows], np.int32)
    seeds = np.random.SeedSequence(seed).generate_state(len(rows), np.uint32)
    return {"prompt": prompt, "length": lengths, "seed": seeds}


def texts(done: Completions, decode: Callable[[list[int]], str]) -> list[str]:
    """The completions as text."""
    pairs = zip(np.asarray(done.tokens), np.asarray(done.lengths), strict=True)
    return [decode([int(token) for token in tokens[:length]]) for tokens, length in pairs]
