"""Every term by hand in float64, the identities at the first step, and what does not count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.objectives.policy_gradient import policy_gradient
from jaxtrain.ops.logprobs import token_stats
from jaxtrain.ops.policy_gradient import PolicyGradientSettings
from jaxtrain.types import LM, Head
from tests.objectives.cases import CASES, VOCAB, build

B, T, V = 3, 5, 6
RNG = np.random.default_rng(0)
LOGITS, TARGETS = RNG.normal(size=(B, T, V)), RNG.integers(0, V, (B, T))
MASK = np.array([[0, 1, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 1]], "f")
HERE = MASK > 0
# A model whose hidden states are its parameters f32[B, T, V], so that the logits are these.
MODEL = LM(*[None] * len(LM._fields))._replace(
    hidden=lambda params, batch, rng=None: params, head=lambda params: Head(jnp.eye(V), 0.0, 2**20)
)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def logps(temperature=1.0):
    return np.take_along_axis(log_softmax(LOGITS / temperature), TARGETS[..., None], -1)[..., 0]


OLD = logps() + RNG.normal(0, 0.4, (B, T))
REFERENCE = logps() + RNG.normal(0, 0.4, (B, T))
ADVANTAGES = RNG.normal(size=(B, T))
BATCH = {
    **dict.fromkeys(("tokens", "positions"), np.zeros((B, T), np.int32)),
    "segments": np.repeat(np.array([[1], [0], [1]], np.int32), T, 1),  # the second row only fills the batch
    "targets": TARGETS,
    "mask": MASK,
    "old_logps": np.where(HERE, OLD, np.nan).astype("f"),
    "ref_logps": np.where(HERE, REFERENCE, np.nan).astype("f"),
    "advantages": np.where(HERE, ADVANTAGES, np.nan).astype("f"),
    "stats/objective/kl": np.array([1.5, np.nan, -0.5], "f"),
    "row": np.arange(B, dtype=np.int32),
}


def of(batch=BATCH, **changes):
    settings = PolicyGradientSettings(**changes)
    return policy_gradient(jnp.asarray(LOGITS, jnp.float32), (), batch, None, model=MODEL, settings=settings)


def means(loss):
    return {name: float(total) / float(count) for name, (total, count) in loss.metrics.items()}


def entropy(temperature=1.0):
    p = log_softmax(LOGITS / temperature)
    return -(np.exp(p) * p).sum(-1)


def mean(x):
    return x[HERE].mean()


def exact(r, low, high):
    return -np.minimum(ADVANTAGES * r, ADVANTAGES * np.clip(r, 1 - low, 1 + high))


def test_every_term_by_hand():
    """Divided logits, an entropy bonus and the KL of the reference, over tokens."""
    tau, low, high = 0.7, 0.1, 0.3
    found = of(clip_low=low, clip_high=high, kl_weight=0.3, entropy_weight=0.05, temperature=tau)
    r = np.exp(logps(tau) - OLD)
    d = logps(tau) - REFERENCE
    k3 = np.exp(-d) - 1 + d
    policy = exact(r, low, high)
    held = ((ADVANTAGES > 0) & (r > 1 + high)) | ((ADVANTAGES < 0) & (r < 1 - low))
    assert 0 < held[HERE].sum() < HERE.sum()
    assert float(found.weight) == 5
    assert means(found) == pytest.approx(
        {
            "loss": mean(policy + 0.3 * r * k3 - 0.05 * entropy(tau)),
            "loss/policy_avg": mean(policy),
            "policy/approxkl_avg": mean((r - 1) - np.log(r)),
            "policy/clipfrac_avg": mean(held),
            "policy/entropy_avg": mean(entropy(tau)),
            "val/ratio": mean(r),
            "kl": mean(k3),
            "objective/kl": 0.5,  # of the completions that have tokens
        },
        rel=1e-4,
    )
    assert float(found.total) == pytest.approx(5 * means(found)["loss"], rel=1e-6)


@pytest.mark.parametrize("aggregate, limit", [("token", 0), ("sequence", 0), ("fixed", 10)])
def test_what_the_loss_is_a_mean_over(aggregate, limit):
    """GRPO, equation 3 of arXiv:2402.03300; DAPO over tokens; Dr. GRPO over a constant length."""
    found = of(aggregate=aggregate, limit=limit, kl_weight=0.3, kl="k2", entropy_weight=0.05)
    r, d = np.exp(logps() - OLD), logps() - REFERENCE
    terms = exact(r, 0.2, 0.2) + 0.3 * r * d**2 / 2 - 0.05 * entropy()
    rows = [terms[b][HERE[b]] for b in (0, 2)]
    wanted, units = {
        "token": (sum(x.sum() for x in rows), 5),
        "sequence": (sum(x.mean() for x in rows), 2),
        "fixed": (sum(x.sum() / 10 for x in rows), 2),
    }[aggregate]
    assert float(found.total) == pytest.approx(wanted, rel=1e-5)
    assert float(found.weight) == units


def test_gspo_by_hand():
    """Equation 5 of arXiv:2507.18071: one ratio and one clip a completion, whose advantage is the same everywhere."""
    a = np.array([[1.5], [0.0], [-0.5]]) * np.ones((B, T))
    bounds = {"clip_low": 3e-4, "clip_high": 4e-4}
    batch = {**BATCH, "advantages": a.astype("f")}
    found = of(batch, level="sequence", aggregate="sequence", **bounds)
    r = np.array([np.exp((logps() - OLD)[b][HERE[b]].mean()) for b in (0, 2)])
    both = a[[0, 2], 0]
    wanted = -np.minimum(both * r, both * np.clip(r, 1 - 3e-4, 1 + 4e-4))
    assert float(found.total) == pytest.approx(wanted.sum(), rel=1e-5)
    assert means(found)["val/ratio"] == pytest.approx((3 * r[0] + 2 * r[1]) / 5, rel=1e-5)
    between = of(batch, level="sequence", surrogate="cispo", clip_high=float(r.mean()) - 1)
    assert means(between)["policy/clipfrac_avg"] == pytest.approx((3 if r[0] > r[1] else 2) / 5)


def test_metrics_do_not_count_padding():
    """20 tokens of 1.2 nats in a row of 53 were once reported as -9.0 instead of 24.0."""
    T = 53
    mask = (np.arange(T) < 20).astype("f")[None]
    logits = np.broadcast_to(np.log([-np.expm1(-1.2), np.exp(-1.2)]), (1, T, 2)).astype("f")
    model = MODEL._replace(head=lambda p: Head(jnp.eye(2), 0.0, 2**20))
    batch = {
        **dict.fromkeys(("tokens", "segments", "positions"), np.zeros((1, T), np.int32)),
        "targets": np.ones((1, T), np.int32),
        "mask": mask,
        "old_logps": np.where(mask > 0, 0.0, -1.0).astype("f"),
        "ref_logps": np.where(mask > 0, 0.0, -1.0).astype("f"),
        "advantages": np.ones((1, T), "f"),
    }
    found = policy_gradient(
        jnp.asarray(logits),
        (),
        batch,
        None,
        model=model,
        settings=PolicyGradientSettings(surrogate="cispo", kl_weight=1.0),
    ).metrics
    p = np.exp(-1.2)
    assert float(found["kl"][0]) == pytest.approx(20 * (np.exp(1.2) - 1 - 1.2), rel=1e-4)
    assert float(found["policy/approxkl_avg"][0]) == pytest.approx(20 * (p - 1 + 1.2), rel=1e-4)
    assert float(found["loss/policy_avg"][0]) == pytest.approx(20 * p * 1.2, rel=1e-4)
    assert float(found["policy/entropy_avg"][0]) == pytest.approx(
        20 * (1.2 * p - (1 - p) * np.log(1 - p)), rel=1e-4
    )
    assert {float(count) for _, (_, count) in found.items()} == {20.0}


def test_what_is_outside_the_mask_never_enters_not_even_a_gradient():
    clean = {name: np.nan_to_num(x) if x.dtype == np.float32 else x for name, x in BATCH.items()}

    def grad(batch, logits):
        def total(x):
            return policy_gradient(
                x,
                (),
                batch,
                None,
                model=MODEL,
                settings=PolicyGradientSettings(kl_weight=0.1, level="sequence"),
            ).total

        return np.asarray(jax.grad(total)(jnp.asarray(logits, jnp.float32)))

    found = grad(BATCH, LOGITS)
    assert np.isfinite(found).all() and not found[~HERE].any() and found[HERE].all()
    assert np.array_equal(found, grad(clean, LOGITS))


@functools.cache
def real():
    """(a model with dropout, its parameters, a batch of the policy's own completions)."""
    model = build(CASES["policy_gradient"], dropout=0.5)
    params, batch = model.init(jax.random.key(0)), CASES["policy_gradient"].batch(5)
    look = jax.jit(
        lambda p, b: token_stats(model.hidden(p, b), model.head(p), b["targets"], temperature=0.8)["logps"]
    )
    own = look(params, batch)
    return model, params, {**batch, "old_logps": own, "ref_logps": own}


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_at_the_first_step_the_ratio_is_one_and_nothing_is_clipped(level):
    model, params, batch = real()
    settings = PolicyGradientSettings(
        temperature=0.8, kl_weight=0.5, level=level, clip_low=1e-4, clip_high=1e-4
    )
    loss = jax.jit(functools.partial(policy_gradient, model=model, settings=settings))
    found = loss(params, (), batch, jax.random.key(3))
    values = means(found)
    assert values["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert values["policy/approxkl_avg"] == pytest.approx(0, abs=1e-9)
    assert values["kl"] == pytest.approx(0, abs=1e-9)
    assert values["policy/clipfrac_avg"] == 0
    a, m = batch["advantages"], batch["mask"]
    assert values["loss/policy_avg"] == pytest.approx(-(a * m).sum() / m.sum(), rel=1e-4)


def test_pretraining_rows_add_their_nll():
    model, params, batch = real()

    def loss(batch, **changes):
        settings = PolicyGradientSettings(temperature=0.8, **changes)
        return jax.jit(functools.partial(policy_gradient, model=model, settings=settings))(
            params, (), batch, None
        )

    plain, mixed = loss(batch), loss(batch, ptx_weight=3.0)
    rows = {name.removeprefix("ptx/"): x for name, x in batch.items() if name.startswith("ptx/")}
    logits = np.asarray(jax.jit(model.hidden)(params, rows) @ model.head(params).weight.T)
    found = np.take_along_axis(log_softmax(logits), rows["targets"][..., None], -1)[..., 0]
    nll = -float((found * rows["mask"]).sum())
    assert float(mixed.total - plain.total) == pytest.approx(3.0 * 0.7 * nll, rel=1e-4)
    assert means(mixed)["ptx_loss"] == pytest.approx(nll / rows["mask"].sum(), rel=1e-5)
    assert float(mixed.weight) == float(plain.weight) == batch["mask"].sum()
    assert "ptx_loss" not in plain.metrics


def test_the_entropy_is_there_only_where_it_is_wanted():
    assert "policy/entropy_avg" in of().metrics and "policy/entropy_avg" not in of(entropy=False).metrics
    assert "policy/entropy_avg" in of(entropy=False, entropy_weight=0.1).metrics


def test_entropy_below_0_has_a_price():
    plain, bonus, price = (of(entropy_weight=weight) for weight in (0.0, 0.1, -0.1))
    entropy = float(plain.metrics["policy/entropy_avg"][0])
    assert float(plain.total - bonus.total) == pytest.approx(0.1 * entropy, rel=1e-4) and entropy > 0
    assert float(price.total - plain.total) == pytest.approx(0.1 * entropy, rel=1e-4)


def test_settings_of_values_are_refused():
    for changes in ({"value_weight": 0.5}, {"value_clip": 0.0}):
        with pytest.raises(ValueError, match="does nothing here"):
            of(**changes)


def test_steps_on_the_surrogate_make_the_rewarded_token_likely():
    """Enumerated, so that the gradient is exact: one prompt, every token once, the reward of one of them 1."""
    model, params, _ = real()
    zeros = np.zeros((VOCAB, 1), np.int32)
    batch = {
        **dict.fromkeys(("tokens", "positions"), zeros),
        "segments": zeros + 1,
        "targets": np.arange(VOCAB, dtype=np.int32)[:, None],
        "mask": np.ones((VOCAB, 1), "f"),
        "row": np.arange(VOCAB, dtype=np.int32),
    }

    @jax.jit
    def step(params):
        """(parameters after a step, probability of the rewarded token before it)."""
        p = jax.nn.softmax(model.hidden(params, batch)[0, 0] @ model.head(params).weight.T)[:, None]
        weighed = p * ((batch["targets"] == 7) - p[7])  # as tokens drawn from the policy would be, on average
        columns = {**batch, "old_logps": jnp.log(p), "advantages": weighed}
        grads = jax.grad(
            lambda x: (
                policy_gradient(x, (), columns, None, model=model, settings=PolicyGradientSettings()).total
            )
        )(params)
        return jax.tree.map(lambda x, g: x - 0.5 * g, params, grads), p[7, 0]

    params, before = step(params)
    for _ in range(60):
        params, after = step(params)
    assert before < 0.1 and after > 0.9


def test_a_number_that_does_not_apply_to_a_row_is_left_out_of_its_mean():
    stats = np.array([np.nan, 7.0, -0.5], "f")
    total, count = of({**BATCH, "stats/rewards/one/mean": stats}).metrics["rewards/one/mean"]
    assert (float(total), float(count)) == (-0.5, 1.0)


def test_a_column_of_the_batch_weighs_the_entropy_of_each_row():
    coef = np.array([0.3, 5.0, 0.0], "f")  # the second row has no tokens
    found, without = of({**BATCH, "entropy_coef": coef}, entropy_weight=9.0), of()
    bonus = 0.3 * entropy()[0][HERE[0]].sum()
    assert float(without.total - found.total) == pytest.approx(bonus, rel=1e-5)
    same = of({**BATCH, "entropy_coef": np.full(B, 0.05, "f")})
    assert float(same.total) == pytest.approx(float(of(entropy_weight=0.05).total), rel=1e-6)
