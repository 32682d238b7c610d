"""cuDNN's fused attention on rows of documents: the layout that its kernel has for them, and no [T, T] array.

cuDNN takes packed rows as the offsets and lengths of documents, on GPUs from Hopper on. The number of documents of a
row is bounded when the program is compiled (`most_documents`), since the log-sum-exp that cuDNN writes is as large as
documents x T. So the rows decide which kernel runs: rows of one document take the plain causal one, rows of up to that
many the packed one. For rows of more, or of several on older GPUs, cuDNN takes a mask where that is small, and else
flash_attention's blocks take the rows.

jax.nn has no argument for documents. The function that has stands in a private module of jax: `_missing` says whether
it is there as it is in jax 0.10 to 0.12, the versions that the tests lower it with.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jaxtrain.config import ConfigError
from jaxtrain.models import flash_attention
from jaxtrain.models.flash_attention import CONTEXT, LOG_SUM_EXP, Masking, visible
from jaxtrain.models.zoo import Arch

# Below it, jax counts the offsets of keys in heads of queries, and reads wrong keys where there are fewer key heads
# (https://github.com/jax-ml/jax/pull/39521).
RIGHT_KEY_OFFSETS = (0, 11, 2)
# Numbers of a mask bf16[B, 1, T, T]: 128 MiB, and as much for its gradient. As it is the same in all layers it is made
# before them, and so lies there whatever the rows are.
MOST_MASK = 2**26
_ARGUMENTS = {
    "q_seqlen",
    "kv_seqlen",
    "q_offsets",
    "kv_offsets",
    "mask_type",
    "sliding_window_length",
    "return_residual",
}


class _Way(NamedTuple):
    """A kernel: (q, k, v, segments) -> (out, lse), and (q, k, v, segments, out, lse, gradient) -> (dq, dk, dv).

    The log-sum-exp f32[B, H, T] means what the kernel wants it to: its own backward pass alone reads it.
    """

    forward: Callable[..., tuple[Array, Array]]
    backward: Callable[..., tuple[Array, Array, Array]]


def lacks(arch: Arch, dtype: Any, capability: str, window: int) -> str:
    """Why cuDNN's kernels of training do not take a layer on a GPU; empty: they do.

    `capability` is the GPU's compute capability, such as 9.0; one that is not known has what an A100 has.
    """
    major = _major(capability)
    widest = 256 if major == 9 else 128  # of cuDNN 9's backward pass: Blackwell has less than Hopper
    if arch.attn_softcap:
        return "cudnn has no soft cap"
    if arch.attn_sinks:
        return "cudnn has no attention sinks"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"cudnn needs bfloat16, not {jnp.dtype(dtype).name}"
    if arch.C % 8 or not 0 < arch.C <= widest:
        return f"cudnn needs C % 8 = 0 and C <= {widest} on this GPU, not C={arch.C}"
    if window and not arch.causal:
        return "cudnn has no window on both sides"
    if major < 8:
        return f"cudnn needs compute capability 8.0, not {capability}"
    return _missing()


def takes_documents(capability: str) -> bool:
    """Whether jax has cuDNN's packed layout on GPUs of a compute capability: from Hopper on."""
    return _major(capability) >= 9


def _major(capability: str) -> int:
    return int((capability or "8.0").partition(".")[0])


def _missing() -> str:
    """What this jax lacks of the function that `cudnn` calls; empty: nothing."""
    try:
        have = inspect.signature(_module().dot_product_attention).parameters
    except (ImportError, AttributeError):
        return f"jax {jax.__version__} has no cuDNN attention that is known here"
    lacking = ", ".join(sorted(_ARGUMENTS - set(have)))
    return f"the cuDNN attention of jax {jax.__version__} takes no {lacking}" if lacking else ""


def _module() -> Any:
    from jax._src.cudnn import fused_attention_stablehlo

    return fused_attention_stablehlo


def most_documents(length: int) -> int:
    """The most documents of a row of T = `length` that the packed layout is compiled for, padding counted as one.

    The log-sum-exp that cuDNN writes has documents x T numbers a head, most unused: .25 GiB at T = 32,768, 32 heads.
    """
    return min(64, max(length // 16, 2))


def cudnn(
    q: Array,
    k: Array,
    v: Array,
    segments: Array | None,
    *,
    causal: bool,
    window: int,
    softcap: float,
    packed: bool,
) -> Array:
    """f[B, T, H, C] of bfloat16 or float16. `packed`: the GPU has the packed layout, see `takes_documents`."""
    if softcap:
        raise ConfigError("--attention=cudnn: cudnn has no soft cap; use --attention=auto")
    T = q.shape[1]
    if T % 2:  # jax refuses an odd T in training; the position more is padding
        segments = jnp.ones((len(q), T), jnp.int32) if segments is None else segments
        q, k, v, segments = (
            jnp.pad(x, [(0, 0), (0, 1)] + [(0, 0)] * (x.ndim - 2)) for x in (q, k, v, segments)
        )
    return _cudnn(q, k, v, segments, Masking(causal, window, softcap), packed)[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _cudnn(q: Array, k: Array, v: Array, segments: Array | None, masking: Masking, packed: bool) -> Array:
    return _forward(q, k, v, segments, masking, packed)[0]


def _forward(
    q: Array, k: Array, v: Array, segments: Array | None, masking: Masking, packed: bool
) -> tuple[Array, tuple]:
    index, ways = _ways(q.shape, segments, masking, packed)
    out, lse = jax.lax.switch(index, [way.forward for way in ways], q, k, v, segments)
    out, lse = checkpoint_name(out, CONTEXT), checkpoint_name(lse, LOG_SUM_EXP)
    return out, (q, k, v, segments, out, lse)


def _backward(
    masking: Masking, packed: bool, saved: tuple, gradient: Array
) -> tuple[Array, Array, Array, None]:
    q, _, _, segments, _, _ = saved
    index, ways = _ways(q.shape, segments, masking, packed)
    return *jax.lax.switch(index, [way.backward for way in ways], *saved, gradient), None


_cudnn.defvjp(_forward, _backward)


def _ways(
    shape: tuple[int, ...], segments: Array | None, masking: Masking, packed: bool
) -> tuple[Any, list[_Way]]:
    """(i32[], which of the ways these rows take; the ways)."""
    plain = _way(functools.partial(_plain, masking=masking))
    if segments is None:
        return 0, [plain]
    B, T, *_ = shape
    if B * T * T <= MOST_MASK:
        any_rows = _way(functools.partial(_masked, masking=masking))
    else:
        any_rows = _Way(
            functools.partial(flash_attention.forward, masking=masking),
            functools.partial(flash_attention.backward, masking=masking),
        )
    several = ~_one_document(segments, masking.causal)
    if not packed:
        return several.astype(jnp.int32), [plain, any_rows]
    most = most_documents(T)
    more = (_first_of_document(segments).sum(1) > most).any()
    return several.astype(jnp.int32) + (several & more), [plain, _packed_way(masking, most), any_rows]


def _one_document(segments: Array, causal: bool) -> Array:
    """bool[]: whether no query of a document sees another's keys without a mask for them, which padding at the end is.

    A causal query never sees what comes after it, and what padding sees is of no use to anyone.
    """
    before, after = segments[:, :-1], segments[:, 1:]
    return ((before == after) | (after == 0) if causal else before == after).all()


def _first_of_document(segments: Array) -> Array:
    """bool[B, T]: where a run of one segment begins; padding is a run as well, so that no output is left unset."""
    return jnp.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0


def documents(segments: Array, most: int) -> tuple[Array, Array]:
    """(offsets i32[B, most + 1], lengths i32[B, most]) of the runs of segments i32[B, T]; -1 beyond the last run."""
    T = segments.shape[1]
    number = jnp.cumsum(_first_of_document(segments), axis=1) - 1
    find = jax.vmap(lambda row: jnp.searchsorted(row, jnp.arange(most + 1), side="left"))
    start = find(number).astype(jnp.int32)
    there = jnp.arange(most + 1) <= number[:, -1:]
    lengths = jnp.where(there[:, :-1], jnp.diff(start, axis=1), -1)
    return jnp.where(there & (start < T), start, -1), lengths


def _plain(q: Array, k: Array, v: Array, segments: Array | None, *, masking: Masking, **options: Any) -> Any:
    """cuDNN's attention within a row, from its module, with its options."""
    kind = _module().MaskType
    return _module().dot_product_attention(
        q, k, v, scale=1.0, mask_type=kind.CAUSAL if masking.causal else kind.NO_MASK,
        sliding_window_length=masking.window or None, **options,
    )  # fmt: skip


def _packed(
    q: Array, k: Array, v: Array, segments: Array, *, masking: Masking, most: int, **options: Any
) -> Any:
    """cuDNN's attention within each document of the rows."""
    if jax.__version_info__ < RIGHT_KEY_OFFSETS:
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    offsets, lengths = documents(segments, most)
    kind = _module().MaskType
    return _module().dot_product_attention(
        q, k, v, q_seqlen=lengths, kv_seqlen=lengths, q_offsets=offsets, kv_offsets=offsets, scale=1.0,
        mask_type=kind.PADDING_CAUSAL if masking.causal else kind.PADDING,
        sliding_window_length=masking.window or None, **options,
    )  # fmt: skip


def _masked(q: Array, k: Array, v: Array, segments: Array, *, masking: Masking, **options: Any) -> Any:
    """cuDNN's attention under a mask, bf16[B, 1, T, T] and in the backward pass its gradient."""
    place = jnp.arange(q.shape[1])
    mask = visible(place, place, masking.causal, masking.window)
    mask = (mask & (segments[:, :, None] == segments[:, None, :]))[:, None]
    return _module().dot_product_attention(q, k, v, mask=mask, scale=1.0, **options)


def _way(attend: Callable[..., Any]) -> _Way:
    """The way of one of cuDNN's kernels, whose gradient starts from a saved output and log-sum-exp."""

    def forward(q: Array, k: Array, v: Array, segments: Array | None) -> tuple[Array, Array]:
        return attend(q, k, v, segments, return_residual=True)

    def backward(
        q: Array, k: Array, v: Array, segments: Array | None, out: Array, lse: Array, gradient: Array
    ) -> tuple[Array, Array, Array]:
        again, pull = jax.vjp(lambda q, k, v: attend(q, k, v, segments), q, k, v)
        # With what was saved in place of what this forward pass computes, it is dead code.
        leaves, treedef = jax.tree.flatten(pull)
        kept = [
            out if leaf is again else lse if (leaf.shape, leaf.dtype) == (lse.shape, lse.dtype) else leaf
            for leaf in leaves
        ]
        return treedef.unflatten(kept)(gradient)

    return _Way(forward, backward)


def _packed_way(masking: Masking, most: int) -> _Way:
    """The way of the packed kernel.

    Its log-sum-exp f32[B * most, H, T] has a row for each document, those of the batch one after the other, and in it
    the document's tokens first; saved is f32[B, H, T].
    """
    way = _way(functools.partial(_packed, masking=masking, most=most))

    def forward(q: Array, k: Array, v: Array, segments: Array) -> tuple[Array, Array]:
        out, lse = way.forward(q, k, v, segments)
        document, place = _places(segments)
        return out, lse[document, :, place].swapaxes(1, 2)

    def backward(
        q: Array, k: Array, v: Array, segments: Array, out: Array, lse: Array, gradient: Array
    ) -> tuple[Array, Array, Array]:
        B, H, T = lse.shape
        by_document = jnp.zeros((B * most, H, T), lse.dtype)
        document, place = _places(segments)
        by_document = by_document.at[document, :, place].set(lse.swapaxes(1, 2), mode="drop")
        return way.backward(q, k, v, segments, out, by_document, gradient)

    return _Way(forward, backward)


def _places(segments: Array) -> tuple[Array, Array]:
    """(the number of a token's document in the batch i32[B, T], the token's place in it i32[B, T])."""
    first = _first_of_document(segments)
    place = jnp.arange(segments.shape[1])
    start = jax.lax.cummax(jnp.where(first, place, 0), axis=1)
    return jnp.cumsum(first).reshape(first.shape) - 1, place - start
