"""The words every room speaks. No jax operation is called here.

Dims, spelled the same in names, docstrings and einsums: B batch rows, T time, D model width, H heads, K kv heads,
C head width, F feed-forward width, V vocabulary, L layers, N alternatives (0 chosen, 1 rejected), G samples a prompt.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array

Params = Any  # a nested dict of arrays
Axes = Mapping[tuple[str, ...], tuple[str | None, ...]]  # parameter path -> logical axis names
Key = Array  # a typed key, jax.random.key

# One global batch, every member with leading axis B. Next-token training uses
#   tokens    i32[B, T]  input ids
#   targets   i32[B, T]  the id to predict at each position (already shifted)
#   mask      f32[B, T]  weight of each target in the loss, 0 where there is none
#   segments  i32[B, T]  document number inside the row, from 1; 0 is padding
#   positions i32[B, T]  position inside the document
#   row       i32[B]     number of the row in the global batch: what randomness is derived from
#   bytes     f32[B]     UTF-8 bytes behind the row's targets, for bits per byte
# and a stage may add columns of its own.
Batch = Mapping[str, Array]


class Shards(NamedTuple):
    """How a mesh runs an attention kernel."""

    # run(f, split_time=False) -> f(q, k, v, segments) on each shard of rows and heads, and of time where it is split
    run: Callable[..., Callable]
    context: int  # devices that a row's time is split over: the axis "context" inside f
    rows: int = 1  # parts of a batch's rows
    tensor: int = 1  # devices that heads and the vocabulary are split over
    expert: int = 1  # devices that experts are split over
    # split(f, names) -> f on each shard of arrays whose axes have these names; its result lies as the first of them
    split: Callable[..., Callable] | None = None


class Loss(NamedTuple):
    """What an objective returns. Every member is a sum over rows: devices, hosts and microbatches just add."""

    total: Array  # f32[], the only member that is differentiated
    weight: (
        Array  # f32[], units summed over (tokens, pairs, sequences); the step divides by it once, at the end
    )
    metrics: Mapping[str, tuple[Array, Array]]  # name -> (sum, count)


Objective = Callable[[Params, Params, Batch, Key], Loss]  # (params, frozen, batch, rng)
Metrics = Mapping[str, tuple[Array, Array]]  # name -> (sum, count), as they leave a step


class TrainState(NamedTuple):
    """All that training carries from step to step, and all that a checkpoint holds of it."""

    step: Array  # i32[], batches consumed: also the index of the next batch
    params: Params
    opt_state: Any
    rng: Key  # never changes; step and row are folded in
    skipped: Array  # i32[], steps not applied because loss or gradient was not finite
    skipped_in_row: Array  # i32[], of those, the ones since the last applied step
    extra: Any = ()  # what a stage carries beyond this (a KL coefficient, a running mean)


class Head(NamedTuple):
    """The unembedding: logits = softcap(hidden @ weight.T)."""

    weight: Array  # f[V, D]
    softcap: float  # logits -> softcap * tanh(logits / softcap); 0 is none
    limit: (
        int  # f32 logits of a part that may be held at once; above it the vocabulary op works in chunks of T
    )
    master: Array | None = (
        None  # f32[V, D], the parameter that weight was cast from, where it was: it has the gradient
    )
    parts: tuple[int, int] = (1, 1)  # of a batch's rows and time, each on its devices
    compare: bool = (
        False  # whether a target's logit is found by comparing ids, which accelerators fuse; CPUs gather
    )


class LM(NamedTuple):
    """A language model as pure functions of its parameters."""

    init: Callable[[Key], Params]
    axes: Axes
    hidden: Callable[..., Array]  # (params, batch, rng=None) -> f[B, T, D], after the final norm
    head: Callable[[Params], Head]
    cache: Callable[
        [int, int], Any
    ]  # (B, S) -> an empty key-value cache of S slots, leaves f[..., B, K, S, C]
    # (params, tokens, positions or None for prefill, cache, slots it will have=0) -> hidden f[B, T, D], cache
    decode: Callable[..., tuple[Array, Any]]
    # Parameters as decode and head are fastest with, in the type of computation.
    ready: Callable[[Params], Params] = lambda params: params


class Scorer(NamedTuple):
    """A reward model, an ensemble of M members, as pure functions of its parameters."""

    grow: Callable[[Params, Key], Params]  # a language model's parameters -> those of the ensemble
    axes: Axes  # parameter path -> logical axis names
    scores: Callable[[Params, Batch], Array]  # (params, batch [B, N, T]) -> f32[M, B, N]


class ActorCritic(NamedTuple):
    """A policy with a value function, as pure functions of their parameters."""

    grow: Callable[..., Params]  # (a language model's parameters, key, scorer_member=None) -> both's
    axes: Axes  # parameter path -> logical axis names
    # (params, batch, rng=None) -> the policy's hidden f[B, T, D], values f32[B, T]
    look: Callable[..., tuple[Array, Array]]
    head: Callable[[Params], Head]  # the policy's


STACKS = ("members", "layers", "experts")  # axes along which a parameter is stacked, not multiplied


def sides(names: tuple[str | None, ...]) -> tuple[list[int], list[int], list[int]]:
    """Which axes of a kernel number its copies, which are read and which written by the product.

    Axis `embed` is one side of every kernel, all others but STACKS the other.
    """
    stacked = [i for i, name in enumerate(names) if name in STACKS]
    embed = [i for i, name in enumerate(names) if name == "embed"]
    other = [i for i, name in enumerate(names) if name != "embed" and name not in STACKS]
    return (stacked, embed, other) if embed[0] < other[0] else (stacked, other, embed)
