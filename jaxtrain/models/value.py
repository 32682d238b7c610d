"""A policy with a value function: a language model, and a scalar head on a trunk of its own or on the policy's."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.types import LM, ActorCritic, Batch, Key, Params

ScorerMember = tuple[Params, Params, Array, Array]  # (trunk, score, gain, bias) of one reward model


def build(model: LM, shared: bool) -> ActorCritic:
    """Policy and values on `model`; with `shared` the value head sits on the policy's trunk.

    Parameters are {"policy": the model's, "value": {"trunk": the model's, "score": {"weight": f32[D], "bias": f32[]}}},
    without "trunk" where it is shared.
    """
    axes = {("policy", *path): names for path, names in model.axes.items()}
    if not shared:
        axes |= {("value", "trunk", *path): names for path, names in model.axes.items()}
    axes |= {("value", "score", "weight"): ("embed",), ("value", "score", "bias"): ()}
    return ActorCritic(
        functools.partial(_grow, shared),
        axes,
        functools.partial(_look, model),
        lambda params: model.head(params["policy"]),
    )


def _grow(shared: bool, lm: Params, key: Key, scorer_member: ScorerMember | None = None) -> Params:
    """The head is 0 (detail 11 of Huang et al., "The N Implementation Details of RLHF with PPO", 2023).

    A trunk of its own starts as the policy's. With a reward model (trunk, score, gain, bias) trunk and head are that
    model's, its normalisation gain · score + bias within the head. Raises ValueError where the trunk is shared then: a
    reward model's head says nothing of another trunk.
    """
    width = lm["embed"].shape[-1]
    score = {"weight": jnp.zeros(width), "bias": jnp.zeros(())}
    if scorer_member is None:
        trunk = lm
    elif shared:
        raise ValueError("a value head on the policy's trunk cannot start from a reward model")
    else:
        trunk, head, gain, bias = scorer_member
        score = {"weight": gain * head["weight"], "bias": gain * head["bias"] + bias}
    own = {} if shared else {"trunk": jax.tree.map(jnp.copy, trunk)}
    return {"policy": lm, "value": {**own, "score": score}}


def _look(model: LM, params: Params, batch: Batch, rng: Key | None = None) -> tuple[Array, Array]:
    """(the policy's hidden states f[B, T, D], values f32[B, T] of the state before each target)."""
    hidden = model.hidden(params["policy"], batch, rng)
    value = params["value"]
    seen = model.hidden(value["trunk"], batch, rng) if "trunk" in value else hidden
    score = value["score"]
    return hidden, seen.astype(jnp.float32) @ score["weight"] + score["bias"]
