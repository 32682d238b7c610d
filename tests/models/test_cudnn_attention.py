"""cuDNN's attention without a GPU: what it is given, by a stand-in of the same meaning, and what is traced of it."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.interpreters import partial_eval  # dead code of a trace: jax has no public way to drop it

from jaxtrain.config import ConfigError
from jaxtrain.models import attention, cudnn_attention, flash_attention

T = 64  # the packed layout is compiled for 4 documents
PLAIN = {"causal": True, "window": 0, "softcap": 0.0}
Kind = types.SimpleNamespace(NO_MASK="", CAUSAL="causal", PADDING="padding", PADDING_CAUSAL="padding causal")


def one_row(*lengths):
    """i32[T]: documents of these lengths, then padding."""
    row = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return np.pad(row, (0, T - len(row))).astype(np.int32)


ROWS = {
    "plain": [one_row(T), one_row(40)],
    "packed": [one_row(20, 30, 5), one_row(T)],
    "packed, full": [one_row(10, 10, 10, 34), np.r_[np.zeros(9, np.int32), one_row(T)[9:]]],
    "any": [one_row(8, 8, 8, 8, 8), one_row(T)],
}


def inputs(kv_heads=2, dtype=jnp.bfloat16):
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(
        jax.random.normal(key, (2, T, heads, 8), dtype)
        for key, heads in zip(keys, (4, kv_heads, kv_heads), strict=True)
    )


class StandIn:
    """cuDNN's function in plain operations, by its documentation: documents at offsets, with their lengths."""

    MaskType = Kind

    def __init__(self):
        self.calls = []

    def dot_product_attention(
        self, q, k, v, mask=None, q_seqlen=None, kv_seqlen=None, q_offsets=None, kv_offsets=None, *, scale,
        mask_type=Kind.NO_MASK, sliding_window_length=None, return_residual=False,
    ):  # fmt: skip
        assert scale == 1.0 and q_offsets is kv_offsets and q_seqlen is kv_seqlen
        self.calls.append(
            ("masked" if mask is not None else "packed" if "padding" in mask_type else "plain", k.shape[2])
        )
        if mask is not None:
            out = attention.masked(q, k, v, mask[:, 0], 0.0)
            return (out, jnp.zeros((len(q), q.shape[2], q.shape[1]))) if return_residual else out
        masking = cudnn_attention.Masking("causal" in mask_type, sliding_window_length or 0, 0.0)
        if return_residual:
            out, saved = fused_forward(q, k, v, q_offsets, q_seqlen, masking)
            return out, saved[-1]
        return fused(q, k, v, q_offsets, q_seqlen, masking)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def fused(q, k, v, offsets, lengths, masking):
    return fused_forward(q, k, v, offsets, lengths, masking)[0]


def fused_forward(q, k, v, offsets, lengths, masking):
    segments = None if offsets is None else segments_of(offsets, lengths, q.shape[1])
    out, lse = flash_attention.forward(q, k, v, segments, masking)
    if offsets is not None:  # what is of no document is not written
        out = jnp.where((segments >= 0)[..., None, None], out, jnp.nan)
        lse = by_document(lse, offsets, lengths)
    return out, (q, k, v, offsets, lengths, out, lse)


def fused_backward(masking, saved, gradient):
    q, k, v, offsets, lengths, out, lse = saved
    segments = None if offsets is None else segments_of(offsets, lengths, q.shape[1])
    if offsets is not None:
        lse = by_token(lse, offsets, lengths)
    return *flash_attention.backward(q, k, v, segments, out, lse, gradient, masking), None, None


fused.defvjp(fused_forward, fused_backward)


def segments_of(offsets, lengths, size):
    place, start = jnp.arange(size), offsets[:, :-1, None]
    inside = (start <= place) & (place < start + lengths[..., None])
    return jnp.where(inside.any(1), inside.argmax(1), -1)


def each_document(offsets, lengths):
    """Row, offset, length and number in the batch of each, where the length is not -1."""
    number = (jnp.cumsum(lengths.ravel() >= 0) - 1).reshape(lengths.shape)
    for row, column in np.ndindex(lengths.shape):
        there = lengths[row, column] >= 0
        yield (
            row,
            offsets[row, column],
            lengths[row, column],
            jnp.where(there, number[row, column], lengths.size),
        )


def by_document(lse, offsets, lengths):
    out = jnp.full((lengths.size, *lse.shape[1:]), jnp.nan)
    for row, start, length, number in each_document(offsets, lengths):
        tokens = jnp.where(jnp.arange(lse.shape[-1]) < length, jnp.roll(lse[row], -start, -1), jnp.nan)
        out = out.at[number].set(tokens, mode="drop")
    return out


def by_token(lse, offsets, lengths):
    size = lse.shape[-1]
    out = jnp.full((len(lengths), *lse.shape[1:]), jnp.nan)
    for row, start, length, number in each_document(offsets, lengths):
        inside = (start <= jnp.arange(size)) & (jnp.arange(size) < start + length)
        out = out.at[row].set(jnp.where(inside, jnp.roll(lse[number], start, -1), out[row]))
    return out


@pytest.fixture
def stand_in(monkeypatch):
    module = StandIn()
    monkeypatch.setattr(cudnn_attention, "_module", lambda: module)
    return module


def gradients_of(kernel, masking):
    """A program (q, k, v, segments) -> (gradients of q, k and v, output), for any rows."""

    def scalar(q, k, v, segments):
        out = jnp.where((segments > 0)[..., None, None], kernel(q, k, v, segments, **masking), 0.0)
        return (out.astype(jnp.float32) * jnp.sin(jnp.arange(out.shape[-1]))).sum(), out

    return jax.jit(jax.grad(scalar, argnums=(0, 1, 2), has_aux=True))


@pytest.fixture(scope="module")
def compiled_once():
    """Programs by what was chosen when they were traced: rows are only their input."""
    return {}


@pytest.fixture(params=[True, False], ids=["mask", "blocks"])
def small_mask(request, monkeypatch):
    """Whether a mask is small enough for rows that neither the plain nor the packed kernel takes."""
    monkeypatch.setattr(cudnn_attention, "MOST_MASK", cudnn_attention.MOST_MASK if request.param else 0)
    return request.param


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("rows", "masking"),
    [(rows, PLAIN) for rows in ROWS]
    + [("packed", {**PLAIN, "window": 7}), ("packed", {**PLAIN, "causal": False})],
)
def test_whatever_rows_hold_a_token_sees_its_own_document(
    stand_in, small_mask, compiled_once, rows, masking, packed
):
    """Values and gradients are those of the plain square, with the packed layout and without."""
    arguments = (*inputs(dtype=jnp.float32), jnp.array(ROWS[rows]))
    key = tuple(masking.values())
    square = compiled_once.setdefault(key, gradients_of(attention.xla, masking))
    kernel = functools.partial(cudnn_attention.cudnn, packed=packed)
    ours, calls = compiled_once.setdefault(
        (*key, packed, small_mask), (gradients_of(kernel, masking), stand_in.calls)
    )
    wanted, found = square(*arguments), ours(*arguments)
    for a, b in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5)
    assert {kind for kind, _ in calls} == {"plain", *["packed"] * packed, *["masked"] * small_mask}


@pytest.mark.parametrize("rows", ROWS)
def test_the_rows_decide_which_kernel_runs(rows):
    segments, masking = jnp.array(ROWS[rows]), cudnn_attention.Masking(**PLAIN)
    index, ways = cudnn_attention._ways((2, T, 4, 8), segments, masking, True)
    assert len(ways) == 3 and int(index) == ("plain", "packed", "any").index(rows.partition(",")[0])
    index, ways = cudnn_attention._ways((2, T, 4, 8), segments, masking, False)
    assert len(ways) == 2 and int(index) == (rows != "plain")
    assert len(cudnn_attention._ways((2, T, 4, 8), None, masking, True)[1]) == 1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("segments", [None, jnp.array([one_row(T)[:9]] * 2)])
def test_an_odd_row_gets_a_position_of_padding(stand_in, segments, causal):
    """jax refuses an odd T in training, see its check_is_flash_attention."""
    arguments = (*(x[:, :9] for x in inputs(dtype=jnp.float32)), segments)
    masking = {**PLAIN, "causal": causal}
    found = cudnn_attention.cudnn(*arguments, packed=True, **masking)
    np.testing.assert_allclose(found, attention.xla(*arguments, **masking), atol=1e-5)
    assert stand_in.calls


def test_padding_before_a_document_is_no_plain_row(stand_in):
    """A causal query would see it; on both sides, so would padding after it."""
    after, before = (jnp.array([row], jnp.int32) for row in ([1, 1, 0], [0, 1, 1]))
    assert cudnn_attention._one_document(after, True)
    assert not cudnn_attention._one_document(before, True)
    assert not cudnn_attention._one_document(after, False)
    assert cudnn_attention._one_document(jnp.ones((1, 3), jnp.int32), False)


def test_documents_are_offsets_and_lengths():
    """As jax documents them: row by row, -1 beyond a row's last; padding is one."""
    offsets, lengths = cudnn_attention.documents(
        jnp.array([[1, 1, 1, 2, 0, 0], [1, 1, 1, 1, 1, 1], [1, 2, 3, 3, 4, 0]]), 5
    )
    assert offsets.tolist() == [[0, 3, 4, -1, -1, -1], [0, -1, -1, -1, -1, -1], [0, 1, 2, 4, 5, -1]]
    assert lengths.tolist() == [[3, 1, 2, -1, -1], [6, -1, -1, -1, -1], [1, 1, 2, 1, 1]]


def test_fewer_key_heads_are_repeated_where_jax_counts_their_offsets_wrong(stand_in, monkeypatch):
    for right, heads in ((jax.__version_info__, 2), ((99, 0, 0), 4)):
        stand_in.calls.clear()
        monkeypatch.setattr(cudnn_attention, "RIGHT_KEY_OFFSETS", right)
        jax.eval_shape(
            functools.partial(cudnn_attention.cudnn, packed=True, **PLAIN),
            *inputs(),
            jnp.array(ROWS["packed"]),
        )
        assert ("packed", heads) in stand_in.calls and ("packed", 6 - heads) not in stand_in.calls


@pytest.fixture
def traceable(monkeypatch):
    """jax's own function, traced as on a Hopper GPU with cuDNN 9.10."""
    module = cudnn_attention._module()
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91002)
    monkeypatch.setattr(module, "check_compute_capability", lambda least: True)
    monkeypatch.setattr(module, "is_cuda_compute_capability_equal", lambda capability: capability == "9.0")


def live_kernels(f, *arguments):
    """The number of (forward, backward) kernels of a function's trace whose results are used."""
    traced = jax.make_jaxpr(f)(*arguments).jaxpr
    text = str(partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))[0])
    return text.count("dot_product_attention_fwd_wrapper["), text.count("dot_product_attention_bwd_wrapper[")


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_backward_pass_starts_from_what_was_saved(traceable, kv_heads):
    """What the forward kernel would compute again is replaced, so that XLA drops it."""
    q, k, v = inputs(kv_heads)
    segments = jnp.array(ROWS["packed"])
    for way in cudnn_attention._ways(q.shape, segments, cudnn_attention.Masking(**PLAIN), True)[1]:
        out, lse = jax.eval_shape(way.forward, q, k, v, segments)
        assert lse.shape == (2, 4, T)
        assert live_kernels(way.backward, q, k, v, segments, out, lse, q) == (0, 1)


def test_saved_by_their_names_no_kernel_runs_twice(traceable):
    """Of the plain, the packed and the masked kernel, one of which runs."""
    kernel = functools.partial(
        cudnn_attention.cudnn, segments=jnp.array(ROWS["packed"]), packed=True, **PLAIN
    )

    def step(policy, q, k, v):
        out, pull = jax.vjp(jax.checkpoint(kernel, policy=policy), q, k, v)
        return pull(out)

    policies = jax.checkpoint_policies
    assert live_kernels(functools.partial(step, policies.nothing_saveable), *inputs()) == (6, 3)
    assert live_kernels(
        functools.partial(step, policies.save_only_these_names(*attention.SAVED)), *inputs()
    ) == (3, 3)


def test_every_argument_of_the_private_function_is_there():
    """Else `auto` takes blocks, and says so: with the versions that are tested it takes cuDNN."""
    assert cudnn_attention._missing() == ""


def test_a_jax_without_the_function_is_named(monkeypatch):
    def absent():
        raise ImportError

    monkeypatch.setattr(cudnn_attention, "_module", absent)
    assert f"jax {jax.__version__} has no cuDNN attention" in cudnn_attention._missing()
    module = types.SimpleNamespace(dot_product_attention=lambda q, k, v, q_seqlen: None)
    monkeypatch.setattr(cudnn_attention, "_module", lambda: module)
    assert "takes no kv_offsets, kv_seqlen, mask_type" in cudnn_attention._missing()


def test_a_soft_cap_is_refused():
    with pytest.raises(ConfigError, match="--attention=auto"):
        cudnn_attention.cudnn(*inputs(), None, causal=True, window=0, softcap=1.0, packed=True)
