"""Experiments on pretraining: their verdicts on made-up results, and their formulas."""

import pytest

from experiments.papers import chinchilla_fit, lr_sensitivity
from jaxtrain.apps.papers.scaling_fit import ScalingLaw
from tests.experiments.papers.drawn import outcomes

LAW = ScalingLaw(E=0.5, A=40.0, B=300.0, alpha=0.35, beta=0.45)


def test_sensitivity_by_hand():
    # Ends 1, 2 and (initial, 4, as 9 is worse) 4: less the best, 0, 1 and 3.
    assert lr_sensitivity.sensitivity(
        {"final": [1.0, 2.0, 9.0], "initial": [4.0, 4.0, 4.0]}
    ) == pytest.approx(4 / 3)


def test_the_norm_and_the_z_loss(tmp_path):
    def seed(high, lse=3.0):
        low = [2.0, 1.5, 1.2, 1.0, 1.1, 1.2]
        curves = {"with": low, "without": [*low[:-1], high]}
        found = {name: {"final": final, "initial": [7.0] * 6} for name, final in curves.items()}
        return found | {"z-loss": [1.0, lse], "paper's z-loss": [11.0], "no z-loss": [12.0]}

    cfg = lr_sensitivity.LrSensitivity()
    assert outcomes(lr_sensitivity, cfg, [seed(6.0)] * 3, tmp_path) == [True, True]
    assert outcomes(lr_sensitivity, cfg, [seed(1.3, lse=11.0)] * 3, tmp_path) == [False, False]


def test_the_number_of_parameters():
    small, *_, big = map(chinchilla_fit.parameters, chinchilla_fit.SIZE["cpu"].models)
    # By hand: embeddings, and in a layer attention, feed-forward and two norms; a last norm.
    assert small == 1024 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 48 + 2 * 16) + 16
    assert big == 1024 * 128 + 2 * (4 * 128 * 128 + 3 * 128 * 384 + 2 * 128) + 128
    # Two tables, and the norms of queries and keys.
    deep = chinchilla_fit.parameters(("--depth=2",))
    assert deep == 2 * 1024 * 128 + 2 * (4 * 128 * 128 + 3 * 128 * 384 + 2 * 128 + 2 * 64) + 128


def test_the_law_and_the_entropy(tmp_path):
    def seed(e, entropy, off=1.0):
        budgets = chinchilla_fit.SIZE["cpu"].budgets
        points = [[n, b / 6 / n, LAW.loss(n, b / 6 / n), b] for n in (4e4, 1e5, 2e5, 8e5) for b in budgets]
        law = LAW._replace(E=e)._asdict()
        return {"points": points, "entropy": entropy, "law": law, "predicted": off * points[-1][2]}

    cfg = chinchilla_fit.ChinchillaFit()
    assert outcomes(chinchilla_fit, cfg, [seed(0.5, 0.52)] * 3, tmp_path) == [True, True, True]
    assert outcomes(chinchilla_fit, cfg, [seed(0.3, 0.52, off=1.05)] * 3, tmp_path) == [False, True, False]
    assert outcomes(chinchilla_fit, cfg, [seed(1e-6, 0.52)] * 3, tmp_path) == [False, False, True]
