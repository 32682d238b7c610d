"""The model's own log-probabilities of a prompt's tokens."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.generate import sampler
from jaxtrain.generate.continuous_batching import TokenLogprobs
from jaxtrain.ops.logprobs import logits
from jaxtrain.train.parallel import Plan
from jaxtrain.types import LM, Batch, Params

CHUNK = 64  # positions whose logits are there at once


def prompt_scorer(
    plan: Plan, model: LM, k: int, slots: int
) -> Callable[[Params, Sequence[int]], TokenLogprobs]:
    """A function (params, a prompt's ids) -> the log-probabilities of all but the first, and the k likeliest ones.

    The params are what an engine's `ready` gave, `slots` those of its KV cache. A program is compiled for each bucket
    of lengths.
    """
    compiled = plan.rows(lambda params, _, batch: _logprobs(model, params, batch, k, slots))

    def score(params: Params, ids: Sequence[int]) -> TokenLogprobs:
        batch = sampler.prompt_batch([ids], 0)
        rows = sampler.pad_rows({"prompt": batch["prompt"]}, plan.shards)
        own, best, logps = plan.get(compiled(params, (), plan.put(rows)))
        last = len(ids) - 1
        return TokenLogprobs(token_logps=own[0, :last], ids=best[0, :last], logps=logps[0, :last])

    return score


def _logprobs(model: LM, params: Params, batch: Batch, k: int, slots: int) -> tuple[Array, Array, Array]:
    """(f32[R, P], i32[R, P, k], f32[R, P, k]) of the token after each position of prompts i32[R, P], but the last."""
    prompt = batch["prompt"]
    R, P = prompt.shape
    hidden, _ = model.decode(params, prompt, None, model.cache(R, P), slots)
    head, chunks = model.head(params), P // min(CHUNK, P)

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(R, chunks, -1, *x.shape[2:]), 1, 0)

    def one(part: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        states, following = part
        logps = jax.nn.log_softmax(logits(states, head), -1)
        best, ids = jax.lax.top_k(logps, k)
        return jnp.take_along_axis(logps, following[..., None], -1)[..., 0], ids, best

    parts = jax.lax.map(one, (split(hidden), split(jnp.roll(prompt, -1, 1))))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(R, P, *x.shape[3:]), parts)
