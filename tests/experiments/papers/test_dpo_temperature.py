"""The judge of DPO and PPO by temperature."""

import pytest

from experiments.papers import dpo_temperature
from tests.experiments.papers import drawn


def result(dpo, ppo):
    wins = {"first policy": [0.5] * 5, "DPO": dpo, "PPO": ppo}
    return {"wins": wins, "at_1": {name: {"reward": 0.0, "kl": 1.0} for name in wins}}


@pytest.mark.parametrize(
    ("dpo", "ppo", "wanted"),
    [
        ([0.8, 0.81, 0.8, 0.79, 0.75], [0.8, 0.7, 0.6, 0.6, 0.55], [True, True]),
        ([0.8, 0.8, 0.8, 0.7, 0.65], [0.8, 0.7, 0.6, 0.6, 0.55], [False, True]),
        ([0.8, 0.81, 0.8, 0.79, 0.75], [0.7, 0.7, 0.7, 0.7, 0.68], [True, False]),
    ],
)
def test_the_ranges_decide(tmp_path, dpo, ppo, wanted):
    results = [result(dpo, ppo)] * 3
    assert drawn.outcomes(dpo_temperature, dpo_temperature.DpoTemperature(), results, tmp_path) == wanted
