"""The fit of a scaling law finds the parameters that its points were made with, an outlier aside."""

import itertools

import pytest

from jaxtrain.apps.papers import scaling_fit
from jaxtrain.apps.papers.scaling_fit import ScalingLaw

LAW = ScalingLaw(E=0.5, A=40.0, B=300.0, alpha=0.35, beta=0.45)
POINTS = [(n, d) for n, d in itertools.product((4e4, 1e5, 2e5, 8e5), (2e5, 5e5, 1e6, 4e6))]


def test_a_loss_by_hand():
    law = ScalingLaw(E=1.0, A=100.0, B=10.0, alpha=0.5, beta=1.0)
    assert law.loss(10_000, 100) == pytest.approx(1 + 1 + 0.1)


@pytest.mark.parametrize("outlier", [1.0, 1.3])
def test_the_law_of_exact_points(outlier):
    losses = [LAW.loss(n, d) for n, d in POINTS]
    losses[3] *= outlier  # the Huber loss is of its sign alone
    n, d = zip(*POINTS, strict=True)
    found = scaling_fit.fit(n, d, losses)
    assert found == pytest.approx(LAW, rel=0.05)
    assert found.loss(1e7, 1e8) == pytest.approx(LAW.loss(1e7, 1e8), rel=0.01)
