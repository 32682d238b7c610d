"""The judge of DPO's relatives on noisy labels."""

import copy

import pytest

from experiments.papers import dpo_variants
from tests.experiments.papers import drawn


def result():
    """Every loss falls with noise, those that expect it less."""
    slopes = {name: 1.0 for name in dpo_variants.VARIANTS} | dict.fromkeys(dpo_variants.AT_LEAST_DPO, 0.5)
    by = {
        name: {str(noise): {"reward": 1 - slope * noise, "kl": 5.0} for noise in dpo_variants.NOISE}
        for name, slope in slopes.items()
    }
    return {"first": {"reward": -0.5, "kl": 0.0}, "by": by}


def test_a_result_like_the_papers_passes(tmp_path):
    outcomes = drawn.outcomes(dpo_variants, dpo_variants.DpoVariants(), [result()] * 3, tmp_path)
    assert outcomes == [True] * 3


@pytest.mark.parametrize("i", range(3))
def test_a_loss_below_dpo_fails(tmp_path, i):
    bad = copy.deepcopy(result())
    bad["by"][dpo_variants.AT_LEAST_DPO[i]]["0.3"]["reward"] = -3.0
    cfg = dpo_variants.DpoVariants()
    outcomes = drawn.outcomes(dpo_variants, cfg, [bad] * 3, tmp_path)
    assert outcomes == [j != i for j in range(3)]
    outcomes = drawn.outcomes(dpo_variants, cfg, [result(), result(), bad], tmp_path)
    assert outcomes == [None if j == i else True for j in range(3)], "a mean of -1 ± 4 decides nothing"


def test_every_variant_is_a_loss_that_can_be_trained():
    from experiments.dpo import DpoLoss

    for variant in dpo_variants.VARIANTS.values():
        settings = DpoLoss(**variant.flags).settings()
        assert settings.beta > 0 and (not variant.smoothed or settings.label_smoothing == 0)
