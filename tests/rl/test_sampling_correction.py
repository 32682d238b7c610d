"""The weight between the sampler's policy and the trainer's as a factor of the loss, and what is reported of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.objectives.policy_gradient import policy_gradient
from jaxtrain.ops.policy_gradient import SURROGATES, PolicyGradientSettings
from jaxtrain.rl import sampling_correction
from jaxtrain.rl.config import RolloutSampler
from tests.objectives.test_policy_gradient import ADVANTAGES, BATCH, HERE, LOGITS, MASK, MODEL, OLD

SAMPLER = OLD - np.log(np.array([[1, 0.4, 1.5, 6, 1], [1] * 5, [1, 1, 0.9, 1, 3.0]]))
ROWS = {**BATCH, "sampler_logps": np.where(HERE, SAMPLER, np.nan).astype("f")}


def plain(rows, scores, ended, kl_coef):
    return {"advantages": rows["advantages"]}, {"objective/scores": scores}


def run(rows=ROWS, **flags):
    how = sampling_correction.corrected(plain, RolloutSampler(**flags))
    rows = {name: jnp.asarray(x) for name, x in rows.items()}
    return jax.tree.map(np.asarray, how(rows, jnp.zeros(3), None, 0.0))


def test_without_flags_the_difference_is_reported_and_nothing_changes():
    columns, metrics = run()
    assert np.array_equal(columns["advantages"], BATCH["advantages"], equal_nan=True)
    gap = np.abs(OLD - SAMPLER)
    wanted = [gap[0][HERE[0]].mean(), np.nan, gap[2][HERE[2]].mean()]
    np.testing.assert_allclose(metrics["sampling/logp_difference"], wanted, rtol=1e-4)
    assert metrics["sampling/logp_difference_max"][0] == pytest.approx(np.log(6), rel=1e-4)
    assert "sampling/importance_weight" not in metrics
    _, metrics = run(BATCH)  # a sampler without log-probabilities
    assert metrics.keys() == {"objective/scores"}


@pytest.mark.parametrize("name", SURROGATES)
def test_the_loss_of_a_token_is_multiplied_by_its_weight(name):
    """−w · surrogate by hand, f64: TIS and IcePop have the weight before the clipped term."""
    columns, metrics = run(is_cap=2.0, is_mask="0.5,5")
    batch = {**BATCH, "advantages": np.where(HERE, columns["advantages"], np.nan).astype("f")}
    settings = PolicyGradientSettings(surrogate=name)
    found = policy_gradient(jnp.asarray(LOGITS, jnp.float32), (), batch, None, model=MODEL, settings=settings)
    ratio = np.exp(OLD - SAMPLER)
    weight = np.where((ratio >= 0.5) & (ratio <= 5), np.minimum(ratio, 2), 0)
    shifted = LOGITS - LOGITS.max(-1, keepdims=True)
    logits = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    logps = np.take_along_axis(logits, BATCH["targets"][..., None], -1)[..., 0]
    r = np.exp(logps - OLD)
    terms = {
        "clip": -np.minimum(ADVANTAGES * r, ADVANTAGES * np.clip(r, 0.8, 1.2)),
        "cispo": -np.minimum(r, 1.2) * ADVANTAGES * logps,
        "none": -ADVANTAGES * r,
    }[name]
    assert float(found.total) == pytest.approx((weight * terms)[HERE].sum(), rel=1e-4)
    np.testing.assert_allclose(
        metrics["sampling/importance_weight"], [weight[0][HERE[0]].mean(), np.nan, weight[2][HERE[2]].mean()], rtol=1e-4
    )  # fmt: skip
    np.testing.assert_allclose(metrics["sampling/masked"], [2 / 3, np.nan, 0], rtol=1e-5)


def test_log_probabilities_stand_at_the_tokens_that_they_are_of():
    column = sampling_correction.sampler_logps(MASK, [np.array([1, 2, 3]), np.array([]), np.array([4, 5])])
    assert column["sampler_logps"].tolist() == [[0, 1, 2, 3, 0], [0] * 5, [0, 0, 4, 0, 5]]
    assert sampling_correction.sampler_logps(MASK, [np.zeros(3), np.zeros(0), None]) == {}


@pytest.mark.parametrize("text", ["5", "2,5", "0.5,0.9", "a,b", "0.5,inf", "-1,2", "0.5,2,3"])
def test_bounds_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match=f"--is_mask={text}: write LOW,HIGH"):
        RolloutSampler(is_mask=text)


def test_a_level_alone_is_refused():
    with pytest.raises(ConfigError, match="--is_level=sequence: acts only with --is_cap or --is_mask"):
        RolloutSampler(is_level="sequence")
