"""Mixture of experts: a router chooses k of E feed-forward layers for each token (Shazeer et al., arXiv:1701.06538).

Nothing is dropped: each expert takes all tokens that chose it, in one product over groups of rows, so a token's result
depends on no other token. Shapes: x f[B, T, D]; choices i32[B, T, k]; an expert's kernels f[E, D, F] and f[E, F, D].
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jaxtrain.config import ConfigError
from jaxtrain.models import quantized_weights
from jaxtrain.models.activations import activated
from jaxtrain.models.attention import AttentionExecution
from jaxtrain.models.grouped_product import ragged_product
from jaxtrain.models.layers import Dense, FeedForward, declared
from jaxtrain.models.zoo import Arch
from jaxtrain.ops import auxiliary_losses
from jaxtrain.ops.quantized_matmul import AUTO
from jaxtrain.types import Loss, Shards

SMALLEST, LARGEST = 8, 128  # rows of a block; on a CPU 64 to 128 are the fastest
PRODUCT = "expert_product"  # the name of what --remat=dots keeps, as of other products
# Axes of a mesh, inside a function of Shards.split; of PARTS, those that the parameters' axis `embed` is split over.
EXPERT, TENSOR, PARTS = "expert", "tensor", ("fsdp", "context")
Kernels = Mapping[str, Array]


def feed_forward(arch: Arch, how: AttentionExecution) -> Callable[..., nn.Module]:
    """The module of a block's feed-forward branch, which is still to be named."""
    if arch.experts:
        return functools.partial(MixtureOfExperts, arch, how)
    return functools.partial(FeedForward, arch, how)


def require(arch: Arch, how: AttentionExecution) -> None:
    """Raises ConfigError where the mesh does not split the experts evenly, and for products of experts in 8 bits."""
    if arch.experts and how.matmul_dtype != AUTO:
        raise ConfigError(
            f"--matmul_dtype={how.matmul_dtype}: the model has {arch.experts} experts, whose products are of --dtype "
            "alone: leave it out, or take a model without experts"
        )
    parts = how.local.expert if how.local else 1
    if arch.experts % parts:
        fitting = ", ".join(f"{n}" for n in range(2, arch.experts + 1) if arch.experts % n == 0)
        raise ConfigError(
            f"--mesh: expert:{parts} does not divide the {arch.experts} experts of the model; take {fitting}"
        )


class Groups(NamedTuple):
    """Where the rows of a product over groups stand: those of an expert are neighbours."""

    source: Array  # i32[N], the token of each row, past the last one where there is none
    place: Array  # i32[M], the row of each choice, past the last one of a choice that is not computed
    sizes: Array  # i32[E], choices of each expert
    owner: Array  # i32[blocks], the expert of each block; of each row where blocks are one row


def _order(choice: Array, experts: int) -> tuple[Array, Array]:
    """(the rank of each choice i32[M] among those of its expert, i32[E] choices of each), by number of the choice."""
    order = jnp.argsort(choice, stable=True)
    at = jnp.zeros_like(order).at[order].set(jnp.arange(len(choice)), unique_indices=True)
    sizes = (choice[:, None] == jnp.arange(experts)).sum(0, dtype=jnp.int32)
    first = jnp.cumsum(sizes) - sizes
    return at - first.at[choice].get(mode="fill", fill_value=0), sizes


def grouped(choice: Array, experts: int, each: int, block: int) -> Groups:
    """The groups of choices i32[M], `each` of a token: in blocks of one expert, or with block 0 one behind the other.

    A choice that is `experts` or more is not computed, and moves no other one.
    """
    rank, sizes = _order(choice, experts)
    M = len(choice)
    if block:
        blocks = -(-sizes // block)
        count = M // block + min(experts, M)  # what any routing needs at most
        ends = jnp.cumsum(blocks)
        owner = jnp.minimum(jnp.searchsorted(ends, jnp.arange(count), side="right"), experts - 1)
        rows, first = count * block, (ends - blocks) * block
    else:
        ends = jnp.cumsum(sizes)
        owner = jnp.minimum(jnp.searchsorted(ends, jnp.arange(M), side="right"), experts - 1)
        rows, first = M, ends - sizes
    there = choice < experts
    place = jnp.where(there, first.at[choice].get(mode="fill", fill_value=0) + rank, rows)
    token = jnp.arange(M) // each
    source = jnp.full(rows, M // each).at[place].set(token, mode="drop")
    return Groups(source, place, sizes, owner)


def _product(x: Array, kernel: Array, bias: Array | None, groups: Groups, platform: str) -> Array:
    """f[N, O] of rows f[N, I]: each with the kernel f[E, I, O] of its expert."""
    N, blocks = len(x), len(groups.owner)
    if blocks < N:
        parts = x.reshape(blocks, N // blocks, -1)
        y = jnp.einsum("nbi,nio->nbo", parts, kernel[groups.owner]).reshape(N, -1)
        y = checkpoint_name(y, PRODUCT)
        return y if bias is None else y + jnp.repeat(bias[groups.owner], N // blocks, 0)
    y = checkpoint_name(ragged_product(x, kernel, groups.sizes, platform), PRODUCT)
    return y if bias is None else y + bias[groups.owner]


def mixed(
    x: Array,
    choice: Array,
    weight: Array,
    kernels: Kernels,
    biases: Kernels,
    *,
    mlp: str,
    platform: str,
) -> Array:
    """f[B, T, D] = Σ over a token's choices of weight f32[B, T, k] · expert(x); a choice of E or more adds nothing.

    On a TPU by kernels over groups (models/grouped_product.py). Elsewhere in blocks of rows of one expert, whose
    kernel is gathered: XLA would compute jax.lax.ragged_dot as E products of all rows. With E = 16, k = 4 and 2,048
    tokens of width 128 that takes 206 ms forward and back on 2 cores of a CPU, and blocks 11.
    """
    (B, T, D), each = x.shape, choice.shape[-1]
    E, M = len(kernels["down"]), B * T * each
    block = 0
    if platform != "tpu":  # half an expert's rows in an even load: blocks are then at most half empty
        block = max(1 << max(M // E // 2, 1).bit_length() - 1, SMALLEST)
        block = min(block, LARGEST) if platform == "cpu" else block
    groups = grouped(choice.reshape(-1), E, each, block)
    rows = x.reshape(-1, D).at[groups.source].get(mode="fill", fill_value=0)

    def product(name: str, rows: Array = rows) -> Array:
        return _product(rows, kernels[name], biases.get(name), groups, platform)

    y = product("down", activated(mlp, product)).at[groups.place].get(mode="fill", fill_value=0)
    return jnp.einsum("btkd,btk->btd", y.reshape(B, T, each, D), weight.astype(x.dtype))


def _on_shards(
    f: Callable[..., Array], shards: Shards, rows: int, width: int, axes: Mapping[str, Any]
) -> Callable[..., Array]:
    """`mixed` on the devices of a mesh: each groups its own tokens, for the experts and the part of F that it holds.

    Where experts are split, devices gather the tokens of those that hold the others, and add up what each computed of
    them: as many numbers as two exchanges of all tokens, however they are routed, so that none has to be dropped.
    """

    def whole(name: str, kernel: Array, width: int) -> Array:
        """The kernel with all of D, which lies in parts; its gradient is reduced to those parts."""
        at = 1 + axes[name].index("embed")
        return kernel if kernel.shape[at] == width else jax.lax.all_gather(kernel, PARTS, axis=at, tiled=True)

    def part(x: Array, choice: Array, weight: Array, kernels: Kernels, biases: Kernels) -> Array:
        kernels = {name: whole(name, kernel, x.shape[-1]) for name, kernel in kernels.items()}
        own, over = len(kernels["down"]), jax.lax.axis_size(EXPERT)
        gathered = over > 1 and x.shape[0] < rows
        if gathered:
            x, choice, weight = (
                jax.lax.all_gather(each, EXPERT, axis=0, tiled=True) for each in (x, choice, weight)
            )
        if over > 1:
            choice = choice - jax.lax.axis_index(EXPERT) * own
            choice = jnp.where(choice >= 0, choice, own)
        parts = kernels["down"].shape[1] < width  # of F, over the tensor axis
        if parts and "down" in biases:  # once, not with each part
            first = jax.lax.axis_index(TENSOR) == 0
            biases = {**biases, "down": jnp.where(first, biases["down"], 0)}
        y = f(x, choice, weight, kernels, biases)
        y = jax.lax.psum(y, TENSOR) if parts else y
        if gathered:
            return jax.lax.psum_scatter(y, EXPERT, scatter_dimension=0, tiled=True)
        return jax.lax.psum(y, EXPERT) if over > 1 else y

    tokens = ("batch", "time", None)
    kernels = {name: ("experts", *pair) for name, pair in axes.items()}
    biases = {name: ("experts", None if pair[1] == "embed" else pair[1]) for name, pair in axes.items()}

    def run(x: Array, choice: Array, weight: Array, k: Kernels, b: Kernels) -> Array:
        names = (tokens, tokens, tokens, kernels, biases if b else {})
        return shards.split(part, names)(x, choice, weight, k, b)

    return run


def route(logits: Array, arch: Arch) -> tuple[Array, Array]:
    """(choices i32[B, T, k], their weights f32[B, T, k]) of the router's logits f32[B, T, E]: the likeliest k.

    The weights are their probabilities, with `norm_topk` divided by their sum.
    """
    top, choice = jax.lax.top_k(logits, arch.experts_per_token)
    whole = top if arch.norm_topk else logits
    return choice, jnp.exp(top - jax.nn.logsumexp(whole, -1, keepdims=True))


def router_sums(logits: Array, choice: Array, valid: Array) -> dict[str, Array]:
    """Sums over rows, f32[] each, of one layer's router; valid bool[B, T] says which tokens count.

    `balance_loss`: Σ_r n_r · E / (k n_r²) · Σ_e c_re · Σ_t p_te over rows r of n_r tokens, c_re of whose choices are
    expert e: the loss of Switch (arXiv:2101.03961, eq. 4 to 6) for k choices, of each row by itself, as DeepSeek-V3
    has it (arXiv:2412.19437, eq. 17 to 20), so that it is a sum over rows. A token's is 1 where the load is even.
    `z_loss`: Σ_t (logsumexp of the logits)² (ST-MoE, arXiv:2202.08906, eq. 5).
    `max_load`: Σ_r n_r · E max_e c_re / (k n_r), the load of the busiest expert in units of an even one.
    """
    E, k = logits.shape[-1], choice.shape[-1]
    valid = valid.astype(jnp.float32)
    here = jnp.where(valid[..., None] > 0, logits, 0.0)
    lse = jax.nn.logsumexp(here, -1)
    probabilities = jnp.exp(here - lse[..., None])
    chosen = (choice[..., None] == jnp.arange(E)).sum(-2)  # i32[B, T, E]
    count = (chosen * valid[..., None]).sum(1)
    mass = (probabilities * valid[..., None]).sum(1)
    tokens = jnp.maximum(valid.sum(1), 1.0)
    return {
        "balance_loss": (E / (k * tokens) * (count * mass).sum(-1)).sum(),
        "z_loss": (jnp.square(lse) * valid).sum(),
        "max_load": (E / k * count.max(-1)).sum(),
    }


def emit_losses(arch: Arch, sums: Any, valid: Array) -> None:
    """Emits the routers' losses, means over layers and valid tokens, from their sums by layer."""
    if not (arch.balance_weight or arch.router_z_weight):
        return
    layers: Sequence[dict[str, Array]] = sums if isinstance(sums, Sequence) else (sums,)
    mean = {name: sum(layer[name].sum() for layer in layers) / arch.layers for name in layers[0]}
    tokens = valid.sum().astype(jnp.float32)
    total = arch.balance_weight * mean["balance_loss"] + arch.router_z_weight * mean["z_loss"]
    auxiliary_losses.emit(Loss(total, tokens, {f"router/{name}": (x, tokens) for name, x in mean.items()}))


class MixtureOfExperts(nn.Module):
    """The k experts of each token, weighed by the router, and the shared experts, which every token passes."""

    arch: Arch
    how: AttentionExecution

    @nn.compact
    def __call__(self, x: Array, valid: Array | None) -> tuple[Array, dict[str, Array] | None]:
        arch, dtype = self.arch, self.how.dtype
        D, E, F = arch.width, arch.experts, arch.F
        kinds = {"up": ("embed", "ff"), "down": ("ff", "embed")} | (
            {"gate": ("embed", "ff")} if arch.gated else {}
        )
        sizes = {"embed": D, "ff": F}
        kernels, biases = {}, {}
        for name, axes in kinds.items():
            made = Experts(E, tuple(sizes[axis] for axis in axes), axes, arch.mlp_bias, dtype, name=name)()
            kernels[name] = made[0]
            if arch.mlp_bias:
                biases[name] = made[1]
        # In f32, as what is chosen hangs on it (arXiv:2101.03961, section 2.4).
        exact = dataclasses.replace(self.how, dtype=jnp.float32)
        router = Dense((D,), (E,), ("embed", "router"), arch.router_bias, exact, name="router")
        logits = router(x.astype(jnp.float32))
        choice, weight = route(logits, arch)
        sums = None if valid is None else router_sums(logits, choice, valid)
        if valid is not None:  # padding moves no other token
            choice = jnp.where(valid[..., None], choice, E)
        f = functools.partial(mixed, mlp=arch.mlp, platform=self.how.platform)
        y = (f if self.how.local is None else _on_shards(f, self.how.local, len(x), F, kinds))(
            x, choice, weight, kernels, biases
        )
        if arch.shared_experts:
            y = y + FeedForward(arch, self.how, arch.shared_experts * F, name="shared")(x, valid)[0]
        return y, sums


class Experts(nn.Module):
    """The kernel f[E, inputs, outputs], and with `bias` f[E, outputs], of one product of all experts."""

    count: int
    shape: tuple[int, int]
    axes: tuple[str, str]
    bias: bool
    dtype: Any

    @nn.compact
    def __call__(self) -> tuple[Array, ...]:
        init, size = declared(("experts", *self.axes)), (self.count, *self.shape)
        kernel = quantized_weights.whole(quantized_weights.kernel_of(self, init, size), self.dtype)
        if not self.bias:
            return (kernel,)
        bias = self.param("bias", declared(("experts", self.axes[1])), (self.count, self.shape[1]))
        return kernel, bias.astype(self.dtype)
