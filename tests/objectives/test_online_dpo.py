"""Online DPO and XPO by hand in float64: the loss on a pair, the exploration term, and what does not count."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.objectives.online_dpo import online_dpo
from jaxtrain.types import LM, Head
from tests.objectives.cases import SETTINGS

B, T, V, BETA = 3, 4, 5, 0.3
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(B * 2, T, V))
TARGETS = RNG.integers(0, V, (B, 2, T))
MASK = np.array([[[0, 1, 1, 0], [0, 1, 1, 1]], [[0, 0, 0, 0]] * 2, [[1, 1, 0, 0], [1, 0, 0, 0]]], "f")
REFERENCE = RNG.normal(-4, 1, (B, 2))
FROM_REFERENCE = np.array([[0, 1], [0, 1], [1, 0]], "f")
MODEL = LM(*[None] * len(LM._fields))._replace(
    hidden=lambda params, batch, rng=None: params, head=lambda params: Head(jnp.eye(V), 0.0, 2**20)
)
BATCH = {
    **dict.fromkeys(("tokens", "positions"), np.zeros((B, 2, T), np.int32)),
    "segments": np.ones((B, 2, T), np.int32),
    "targets": TARGETS,
    "mask": MASK,
    "ref_logps": np.where(MASK.any(-1), REFERENCE, np.nan).astype("f"),
    "from_reference": FROM_REFERENCE,
    "stats/objective/scores": np.array([[1, 2], [3, 3], [np.nan, 5]], "f"),
}


def of(loss="sigmoid", batch=BATCH, **changes):
    settings = SETTINGS._replace(beta=BETA)
    return online_dpo(
        jnp.asarray(LOGITS, jnp.float32),
        (),
        batch,
        None,
        model=MODEL,
        loss=loss,
        settings=settings,
        **changes,
    )


def means(found):
    return {name: float(total) / float(count) for name, (total, count) in found.metrics.items()}


def logps(temperature=1.0):
    x = LOGITS.reshape(B, 2, T, V) / temperature
    x = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return (np.take_along_axis(x, TARGETS[..., None], -1)[..., 0] * MASK).sum(-1)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_online_dpo_and_xpo_by_hand(alpha):
    """−log σ(β (h_w − h_l)) + α log π(y_ref), over the pairs that are decided, with the sampling temperature."""
    found, tau = of(temperature=0.7, exploration=alpha), 0.7
    pi, here = logps(tau), [0, 2]
    h = pi - REFERENCE
    margin = BETA * (h[:, 0] - h[:, 1])
    dpo = np.log1p(np.exp(-margin))
    explored = (FROM_REFERENCE * pi).sum(1)
    wanted = (dpo + alpha * explored)[here]
    assert float(found.weight) == 2 and float(found.total) == pytest.approx(wanted.sum(), rel=1e-5)
    said = means(found)
    assert said["loss"] == pytest.approx(wanted.mean(), rel=1e-5)
    assert said["rewards/margins"] == pytest.approx(margin[here].mean(), rel=1e-4)
    assert said["rewards/accuracies"] == (margin[here] > 0).mean()
    assert said["logps/rejected"] == pytest.approx(pi[here, 1].mean(), rel=1e-5)
    assert said["objective/scores"] == pytest.approx(14 / 5), "of all completions that have a score"
    if alpha:
        assert said["loss/exploration"] == pytest.approx(alpha * explored[here].mean(), rel=1e-5)
    else:
        assert "loss/exploration" not in said


def test_ipo_is_of_means_a_token():
    h = (logps() - REFERENCE) / np.maximum(MASK.sum(-1), 1)
    wanted = ((h[:, 0] - h[:, 1] - 1 / (2 * BETA)) ** 2)[[0, 2]].sum()
    assert float(of("ipo").total) == pytest.approx(wanted, rel=1e-4)


def test_losses_that_need_more_than_a_rollout_has_are_refused():
    with pytest.raises(ValueError, match="loss=bco_pair: it reads shift, which rollouts do not have"):
        of("bco_pair")
    with pytest.raises(ValueError, match="loss=nothing"):
        of("nothing")
