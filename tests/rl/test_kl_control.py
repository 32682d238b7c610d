"""The KL coefficient follows its target."""

import numpy as np

from jaxtrain.rl.kl_control import KlController, next_coef


def test_the_kl_coefficient_follows_its_target():
    far, fixed = KlController(0.1, target=1.0, horizon=100.0), KlController(0.1)
    metrics = {"objective/kl": np.full(4, 3.0, np.float32)}
    assert next_coef(fixed, 0.1, metrics, 4) == 0.1
    assert 0.1 < next_coef(far, 0.1, metrics, 4) < 0.11
    assert next_coef(far, 0.1, {"objective/kl": np.zeros(4, np.float32)}, 4) < 0.1
