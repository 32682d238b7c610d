"""Hand-computed values in float64, the identities at step 0, and settings that act or are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.objectives.dpo import dpo, kto
from jaxtrain.ops import preference
from jaxtrain.ops.logprobs import completion_logps
from jaxtrain.types import LM, Head
from tests.objectives.cases import CASES, SETTINGS, build

B, T, V = 3, 4, 5
RNG = np.random.default_rng(0)
LOGITS, TARGETS = RNG.normal(size=(B, 2, T, V)), RNG.integers(0, V, (B, 2, T))
# Completions of 2, 3 | 1, 4 | 3, 2 tokens; whatever is behind them is padding, and so may be what is before.
MASK = np.array(
    [[[0, 1, 1, 0], [0, 1, 1, 1]], [[0, 0, 0, 1], [1, 1, 1, 1]], [[0, 1, 1, 1], [0, 1, 1, 0]]], "f"
)
LOGP = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
SUMS = (np.take_along_axis(LOGP, TARGETS[..., None], -1)[..., 0] * MASK).sum(-1)
COUNTS = MASK.sum(-1)
REFERENCE = SUMS + RNG.normal(size=SUMS.shape)
BATCH = {
    **dict.fromkeys(("tokens", "segments", "positions"), np.zeros((B, 2, T), np.int32)),
    "targets": TARGETS,
    "mask": MASK,
    "ref_logps": REFERENCE.astype("f"),
    "shift": np.array([0.1, 0.1, 0.1], "f"),
    "partner": np.array([0.5, -1.0, 2.0], "f"),
    "label": np.array([1, 0, 1], "f"),
    "kl": np.full(3, 0.2, "f"),
}


# A model whose hidden states are its parameters f32[B, N, T, V], so that the logits are these.
def _hidden(params, batch, rng=None):
    n = len(batch["targets"]) // len(params)
    return params[:, :n].reshape(-1, T, V)


MODEL = LM(None, {}, _hidden, lambda params: Head(jnp.eye(V), 0.0, 2**20), None, None)
PAIRED = tuple(name for name in preference.LOSSES if name != "kto")


def legal(loss):
    return SETTINGS._replace(label_smoothing=0.1 if loss in ("exo_pair", "robust") else 0.0)


def of(loss="sigmoid", batch=None, logits=LOGITS, **changes):
    settings, logits = legal(loss)._replace(**changes), jnp.asarray(logits, jnp.float32)
    if loss == "kto":
        return kto(logits, (), batch or BATCH, None, model=MODEL, settings=settings)
    return dpo(logits, (), batch or BATCH, None, model=MODEL, loss=loss, settings=settings)


@jax.jit
def gradients(logits, batch):
    """{loss: (Loss, gradient)}, all in one program."""

    def one(loss):
        def total(logits):
            out = of(loss, batch, logits)
            return out.total, out

        grad, out = jax.grad(total, has_aux=True)(logits)
        return out, grad

    return {loss: one(loss) for loss in preference.LOSSES}


def means(loss):
    return {name: float(total) / float(count) for name, (total, count) in loss.metrics.items()}


def nls(z):
    return np.logaddexp(0, -z)


def test_completion_logps_are_sums_over_the_mask():
    sums, counts = completion_logps(MODEL, jnp.asarray(LOGITS, jnp.float32), BATCH)
    np.testing.assert_allclose(sums, SUMS, rtol=1e-5)
    np.testing.assert_array_equal(counts, COUNTS)
    half, _ = completion_logps(MODEL, jnp.asarray(LOGITS, jnp.float32), BATCH, temperature=0.5)
    doubled, _ = completion_logps(MODEL, jnp.asarray(2 * LOGITS, jnp.float32), BATCH)
    np.testing.assert_allclose(half, doubled, rtol=1e-5)


def test_sigmoid_with_the_nll_of_the_chosen_by_hand():
    loss = of(nll_weight=0.3, label_smoothing=0.2)
    h = SUMS - REFERENCE
    z = 0.1 * (h[:, 0] - h[:, 1])
    nll = -SUMS[:, 0] / COUNTS[:, 0]
    np.testing.assert_allclose(loss.total, (0.8 * nls(z) + 0.2 * nls(-z) + 0.3 * nll).sum(), rtol=1e-5)
    assert float(loss.weight) == 3
    wanted = {
        "loss": float(loss.total) / 3,
        "rewards/chosen": 0.1 * h[:, 0].mean(),
        "rewards/rejected": 0.1 * h[:, 1].mean(),
        "rewards/margins": z.mean(),
        "rewards/accuracies": (z > 0).mean(),
        "logps/chosen": SUMS[:, 0].mean(),
        "logps/rejected": SUMS[:, 1].mean(),
        "nll_loss": nll.mean(),
    }
    assert means(loss) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_every_loss_is_its_link_on_these_numbers():
    h = SUMS - REFERENCE
    columns = (jnp.asarray(BATCH[name]) for name in ("shift", "partner", "kl", "label"))
    pair = preference.PairLogps(*(jnp.asarray(x, jnp.float32) for x in (SUMS, h, COUNTS)), *columns)
    for name, link in preference.LOSSES.items():
        np.testing.assert_allclose(of(name).total, link(pair, legal(name)).sum(), rtol=2e-5, err_msg=name)


def test_where_policy_is_the_reference():
    same = {
        **BATCH,
        "ref_logps": np.asarray(completion_logps(MODEL, jnp.asarray(LOGITS, jnp.float32), BATCH)[0]),
    }
    loss = of(batch=same)
    assert float(loss.total) / 3 == pytest.approx(np.log(2), rel=1e-7)
    found = means(loss)
    assert [found[f"rewards/{x}"] for x in ("chosen", "rejected", "margins", "accuracies")] == [0, 0, 0, 0]
    for divergence in preference.DIVERGENCES:
        assert means(of(batch=same, divergence=divergence))["rewards/chosen"] == 0


def test_a_real_model_is_its_own_reference_to_the_bit():
    case = CASES["dpo"]
    model, batch = build(case), case.batch(4)
    params = model.init(jax.random.key(0))
    reference, _ = jax.jit(functools.partial(completion_logps, model))(params, batch)

    @jax.jit
    def step(params, batch):
        def total(params):
            out = case.objective(model)(params, (), batch, None)
            return out.total, out

        return jax.value_and_grad(total, has_aux=True)(params)

    (total, loss), _ = step(params, {**batch, "ref_logps": reference})
    assert float(total) / 4 == pytest.approx(np.log(2), rel=1e-6)
    assert all(means(loss)[f"rewards/{x}"] == 0 for x in ("chosen", "rejected", "accuracies"))


@pytest.mark.parametrize("which", [0, 1])
def test_a_pair_of_which_one_completion_is_empty_counts_nothing(which):
    mask = MASK.copy()
    mask[1, which] = 0
    found, whole = (
        of(batch={**BATCH, "mask": mask}),
        of(batch={**BATCH, "mask": MASK * [[[1]], [[0]], [[1]]]}),
    )
    assert float(found.weight) == 2
    np.testing.assert_allclose(found.total, whole.total, rtol=1e-6)


def test_a_row_without_completions_counts_nothing():
    logits = jnp.asarray(LOGITS, jnp.float32)

    def only(*rows):
        there = np.isin(np.arange(B), rows)[:, None]
        reference = np.where(there, REFERENCE, np.nan).astype("f")
        return gradients(logits, {**BATCH, "mask": MASK * there[..., None], "ref_logps": reference})

    whole, some, rest = only(0, 1, 2), only(0, 2), only(1)
    for name, (wanted, grad) in whole.items():
        assert float(some[name][0].weight) == 2, name
        for a, b, c in zip(*map(jax.tree.leaves, (wanted, some[name][0], rest[name][0])), strict=True):
            np.testing.assert_allclose(b + c, a, rtol=1e-5, atol=1e-6, err_msg=name)
        assert not some[name][1][1].any() and not rest[name][1][::2].any(), name
        np.testing.assert_allclose(some[name][1] + rest[name][1], grad, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("loss", PAIRED)
def test_a_setting_of_the_objective_acts_or_is_refused(loss):
    changes = {
        "reference_free": {"reference_free": True},
        "divergence": {"divergence": "js"},
        "nll_weight": {"nll_weight": 0.5},
        "length_penalty": {"length_penalty": 0.3},
    }
    plain = float(of(loss).total)
    for name, change in changes.items():
        if name in preference.ACTS[loss]:
            assert float(of(loss, **change).total) != plain, name
        else:
            with pytest.raises(ValueError, match=f"{name}=.* does nothing in loss={loss}"):
                of(loss, **change)


def test_the_order_of_alpha_acts_and_what_is_held_is_counted():
    ends = [float(of(divergence="alpha", alpha=a).total) for a in (1e-4, 0.5, 0.9999)]
    kls = [float(of(divergence=name).total) for name in ("reverse_kl", "forward_kl")]
    assert ends[1] not in kls
    np.testing.assert_allclose([ends[0], ends[2]], kls, rtol=1e-3)
    far = {**BATCH, "ref_logps": BATCH["ref_logps"] + np.array([[100, 0], [0, 0], [0, 0]], "f")}
    assert means(of(batch=far, divergence="forward_kl"))["rewards/held"] == pytest.approx(1 / 6)


def test_soft_labels_are_the_mean_over_the_label():
    p = np.array([0.8, 0.5, 0.3], "f")
    prefer = np.zeros((3, 2, 2), "f")
    prefer[:, 0, 1], prefer[:, 1, 0] = p, 1 - p
    h = SUMS - REFERENCE
    z = 0.1 * (h[:, 0] - h[:, 1])
    loss = of(batch={**BATCH, "prefer": prefer})
    np.testing.assert_allclose(loss.total, (p * nls(z) + (1 - p) * nls(-z)).sum(), rtol=1e-5)
    right, decided = (float(x) for x in loss.metrics["rewards/accuracies"])
    assert (right, decided) == (float(z[0] > 0) + float(z[2] < 0), 2.0)  # the tie of row 1 is not in it


def test_kto_by_hand_and_the_mismatched_completion_is_no_part_of_it():
    batch = {
        **BATCH,
        "targets": np.where([[[0], [1]]], -7, TARGETS),
        "mask": np.where([[[0], [1]]], np.nan, MASK),
    }
    loss = of("kto", batch)
    h = (SUMS - REFERENCE)[:, 0]
    good, bad = 1 / (1 + np.exp(0.1 * (h - 0.2))), 1.5 / (1 + np.exp(-0.1 * (h - 0.2)))
    np.testing.assert_allclose(loss.total, good[0] + bad[1] + good[2], rtol=1e-5)
    wanted = {
        "loss": float(loss.total) / 3,
        "kl": 0.2,
        "rewards/chosen": 0.1 * h[[0, 2]].mean(),
        "rewards/rejected": 0.1 * h[1],
        "logps/chosen": SUMS[[0, 2], 0].mean(),
        "logps/rejected": SUMS[1, 0],
    }
    assert means(loss) == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(ValueError, match="its completions are not pairs"):
        dpo((), (), batch, None, model=MODEL, loss="kto", settings=SETTINGS)
