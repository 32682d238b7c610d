"""--stop_kl: the last update's KL is carried from step to step."""

import dataclasses

import numpy as np

from jaxtrain.rl import stop_kl
from tests.rl.test_scoring import settings


def test_the_kl_of_the_last_update_is_carried_for_stop_kl():
    cfg = settings()
    assert stop_kl.carry(cfg) is None and stop_kl.first_extra(cfg) == ()
    cfg.samples = dataclasses.replace(cfg.samples, stop_kl=0.1)
    assert stop_kl.first_extra(cfg).keys() == {"approxkl"}
    after = stop_kl.carry(cfg)((), {"policy/approxkl_avg": (np.float32(3.0), np.float32(4.0))})
    assert float(after["approxkl"]) == 0.75
