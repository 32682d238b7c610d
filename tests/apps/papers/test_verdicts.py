"""Verdicts over seeds, by hand."""

import math

import pytest

from jaxtrain.apps.papers import verdicts
from jaxtrain.apps.papers.verdicts import Check


@pytest.mark.parametrize(
    ("each", "passed"),
    [
        ([True, True, True], True),
        ([True, True, False], True),
        ([True, False, False], False),
        ([False], False),
        ([True, False], None),
        ([True, True, False, False], None),
    ],
)
def test_two_thirds_of_the_seeds_decide(each, passed):
    check = verdicts.by_seed("is true", each, lambda one: (one, str(one)))
    assert check == Check("is true", passed, "; ".join(map(str, each)))


def test_the_mean_and_its_interval():
    # Standard deviation 1 of three values, t = 4.303 at two degrees of freedom.
    assert verdicts.mean_and_interval([1, 2, 3]) == (2.0, pytest.approx(4.303 / math.sqrt(3)))
    assert verdicts.mean_and_interval([5])[0] == 5 and math.isnan(verdicts.mean_and_interval([5])[1])
    many = verdicts.mean_and_interval([0.0, 1.0] * 20)
    assert many == (0.5, pytest.approx(1.96 * math.sqrt(10 / 39) / math.sqrt(40)))
    assert verdicts.on_mean("high", [1, 2, 3], low=2) == Check("high", True, "2.000 ± 2.484")
    assert verdicts.on_mean("high", [1, 2, 3], low=2.1).passed is None  # 2 ± 2.484 reaches it
    assert verdicts.on_mean("high", [1, 2, 3], low=4.5).passed is False
    assert verdicts.on_mean("both", [1, 2, 3], low=-1, high=-0.4).passed is None
    assert verdicts.on_mean("both", [1, 2, 3], low=-1, high=-0.5).passed is False
    assert verdicts.on_mean("low", [0.5], high=0.4, digits=1) == Check("low", False, "0.5")
    assert verdicts.on_mean("a number", [math.nan, 1], low=0).passed is False


def test_a_mean_above_zero_with_its_interval():
    assert verdicts.above_zero("x", [2, 3, 4], digits=1) == Check("x", True, "3.0 ± 2.5")
    assert verdicts.above_zero("x", [1, 3, 5]).passed is None  # 3 ± 4.97
    assert verdicts.above_zero("x", [-2, -3, -4]).passed is False
    assert verdicts.above_zero("x", [3]).passed is None


@pytest.mark.parametrize(
    ("passed", "seeds", "wanted"),
    [
        ([True, True], 3, verdicts.REPRODUCED),
        ([True, False], 3, verdicts.NOT_REPRODUCED),
        ([None, False], 3, verdicts.NOT_REPRODUCED),
        ([True, None], 3, verdicts.INCONCLUSIVE),
        ([True, True], 2, verdicts.INCONCLUSIVE),
        ([False], 1, verdicts.INCONCLUSIVE),
        ([], 3, verdicts.INCONCLUSIVE),
    ],
)
def test_the_verdict_of_all_checks(passed, seeds, wanted):
    assert verdicts.verdict([Check("", one, "") for one in passed], seeds) == wanted
