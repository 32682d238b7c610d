"""Reward models: a language model's trunk with a scalar head, one of each for every member of an ensemble."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.ops import auxiliary_losses
from jaxtrain.types import LM, Batch, Key, Params, Scorer


def build(model: LM, members: int) -> Scorer:
    """An ensemble of reward models on the trunk of `model`; all start from one trunk, each with a head of its own.

    Parameters are {"trunk": the model's [M, ...], "score": {"weight": f32[M, D], "bias": f32[M]}}.
    """
    stacked = {("trunk", *path): ("members", *names) for path, names in model.axes.items()}
    heads = {("score", "weight"): ("members", "embed"), ("score", "bias"): ("members",)}
    return Scorer(functools.partial(_grow, members), {**stacked, **heads}, functools.partial(_scores, model))


def _grow(members: int, trunk: Params, key: Key) -> Params:
    """Heads are N(0, 1 / (D + 1)) with bias 0 (Huang et al. 2024, arXiv:2403.17031)."""
    width = trunk["embed"].shape[-1]
    weight = jax.random.normal(key, (members, width)) * (width + 1) ** -0.5
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (members, *x.shape)), trunk)
    return {"trunk": copies, "score": {"weight": weight, "bias": jnp.zeros(members)}}


def _scores(model: LM, params: Params, batch: Batch) -> Array:
    """f32[M, B, N]: each member's score of each alternative, read at its last token; 0 where there is none.

    All alternatives go through one forward pass. The place is that of `length` i32[B, N], never that of a token id,
    so padding has no part in it. Dropout is off.
    """
    length = batch["length"]
    columns = ("tokens", "segments", "positions")
    flat = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in columns}
    last = jnp.maximum(length - 1, 0).reshape(-1, 1, 1)

    def one(member: Params) -> Array:
        hidden = model.hidden(member["trunk"], flat)
        at = jnp.take_along_axis(hidden, last, 1)[:, 0].astype(jnp.float32)
        scores_flat = at @ member["score"]["weight"] + member["score"]["bias"]
        return jnp.where(length > 0, scores_flat.reshape(length.shape), 0.0)

    return auxiliary_losses.mapped(one, params)
