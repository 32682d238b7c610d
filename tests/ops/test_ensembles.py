import numpy as np
import pytest

from jaxtrain.ops.ensembles import COMBINED

SCORES = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 0.5], [-1.0, -4.0, 0.5], [1.0, 2.0, 0.5]])
WANTED = {
    "mean": [1.0, -1.0, 0.5],
    "min": [-1.0, -4.0, 0.5],
    "penalised": [1.0 - 0.25 * 2.0, -1.0 - 0.25 * 5.0, 0.5],  # population variances 2, 5 and 0
}


@pytest.mark.parametrize("name", COMBINED)
def test_one_score_of_four(name):
    found = COMBINED[name](SCORES, 0.25)
    np.testing.assert_allclose(found, WANTED[name], rtol=1e-12)
    stacked = COMBINED[name](np.stack([SCORES, SCORES + 1], -1), 0.25)
    np.testing.assert_allclose(stacked[:, 1], found + 1)
