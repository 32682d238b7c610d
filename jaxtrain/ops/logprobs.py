"""Log-probabilities of tokens from hidden states and the unembedding: the one place where [B, T, V] can arise."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jaxtrain.ops import mixed_precision
from jaxtrain.ops.picked import pick
from jaxtrain.ops.placement import by_part
from jaxtrain.types import LM, Batch, Head, Params


def logits(hidden: Array, head: Head, temperature: float = 1.0) -> Array:
    """f32[..., V]: softcap(hidden @ weightᵀ) / temperature. Temperature divides after the cap, as sampling does."""
    out = mixed_precision.project(hidden, head.weight, head.master)
    if head.softcap:
        out = head.softcap * jnp.tanh(out / head.softcap)
    return out / temperature if temperature != 1.0 else out


named = functools.partial(
    checkpoint_name, name="log-softmax"
)  # f32[B, T], which the backward pass need not sum again
SAVED = jax.checkpoint_policies.save_only_these_names("log-softmax")


def _entropy(x: Array, lse: Array, target: Array, top: Array) -> Array:
    logps = x - lse[..., None]  # not lse - Σ p x, whose terms cancel where the logits share an offset
    return -(jnp.exp(logps) * logps).sum(-1)


# Each is a function of logits x f32[B, T, V], their logsumexp, the target's logit and the largest, all f32[B, T].
STATS: Mapping[str, Callable[[Array, Array, Array, Array], Array]] = {
    "logps": lambda x, lse, target, top: target - lse,  # log p(target)
    "lse": lambda x, lse, target, top: lse,  # log Σ_v exp x_v
    # 1 where the target is the most likely token, 1 / n where it is one of n: a model of equal logits has 1 / V
    "correct": lambda x, lse, target, top: (target >= top) / jnp.maximum((x >= top[..., None]).sum(-1), 1),
    "entropy": _entropy,  # -Σ_v p_v log p_v, nats
    "mean_logps": lambda x, lse, target, top: x.mean(-1) - lse,  # Σ_v log p_v / V
}


def token_stats(
    hidden: Array,
    head: Head,
    targets: Array,
    *,
    temperature: float = 1.0,
    want: tuple[str, ...] = ("logps",),
    beside: tuple[Array, ...] = (),
    also: Callable[..., dict[str, Array]] | None = None,
    held: int = 0,
) -> dict[str, Array]:
    """What STATS says of each target, f32[B, T] each, from hidden f[B, T, D] and targets i32[B, T].

    `also(x, *beside)`, of the logits x f32[B, T, V] and arrays [B, T, ...], adds statistics f32[B, T]; it holds `held`
    further f32 of each position. At most head.limit f32 of a part of the batch exist at once: where its B * T * (V +
    held) is more, T is worked through in chunks under jax.checkpoint, which computes the logits again in the backward
    pass, and neither their maximum nor their sum. Log-softmax in f32.
    """

    def stats(head: Head, hidden: Array, targets: Array, *beside: Array) -> dict[str, Array]:
        x = logits(hidden, head, temperature)
        top = named(jax.lax.stop_gradient(x.max(-1)))
        lse = top + jnp.log(named(jnp.exp(x - top[..., None]).sum(-1)))
        # On a CPU a gather is the faster.
        at_target = pick if head.compare else lambda x, i: jnp.take_along_axis(x, i[..., None], -1)[..., 0]
        target = at_target(x, targets)
        values = {name: STATS[name](x, lse, target, top) for name in want}
        return values | (also(x, *beside) if also else {})

    def of_part(weights: tuple[Array, Array | None], columns: tuple[Array, ...]) -> dict[str, Array]:
        part = head._replace(weight=weights[0], master=weights[1])
        B, T = columns[1].shape
        chunks = min(T, -(-B * T * (head.weight.shape[0] + held) // head.limit))  # of one position at least
        if chunks == 1:
            return stats(part, *columns)
        size = -(-T // chunks)

        def split(x: Array) -> Array:
            x = jnp.pad(x, [(0, 0), (0, size * chunks - T)] + [(0, 0)] * (x.ndim - 2))
            return x.reshape(B, chunks, size, *x.shape[2:]).swapaxes(0, 1)

        chunk = jax.checkpoint(lambda columns: stats(part, *columns), prevent_cse=False, policy=SAVED)
        out = jax.lax.map(chunk, tuple(map(split, columns)))
        return {name: x.swapaxes(0, 1).reshape(B, -1)[:, :T] for name, x in out.items()}

    return by_part(of_part, head.parts, (head.weight, head.master), (hidden, targets, *beside))


# The columns [B, N, T] that say what the completions are.
COMPLETIONS = ("tokens", "targets", "mask", "segments", "positions")


def completion_logps(
    model: LM, params: Params, batch: Batch, *, temperature: float = 1.0
) -> tuple[Array, Array]:
    """(Σ_t log π(y_t | x, y_<t), number of tokens), f32[B, N] each, of every alternative's completion.

    One forward for all alternatives of tokens, targets, segments, positions i32[B, N, T] and mask f32[B, N, T], without
    dropout. What stands where the mask is 0 never enters. Policy and reference take this same path.
    """
    B, N, T = batch["tokens"].shape
    flat = {name: batch[name].reshape(B * N, T) for name in COMPLETIONS}
    stats = token_stats(
        model.hidden(params, flat), model.head(params), flat["targets"], temperature=temperature
    )
    mask = flat["mask"].astype(jnp.float32)
    sums = (jnp.where(mask > 0, stats["logps"], 0.0) * mask).sum(-1)
    return sums.reshape(B, N), mask.sum(-1).reshape(B, N)
