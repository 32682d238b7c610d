"""The order of prompts, and the rows of each update."""

import numpy as np
import pytest

from jaxtrain.rl import rollouts
from jaxtrain.rl.rollout_store import Rollout
from tests.rl.test_scoring import settings


@pytest.mark.parametrize("count, more", [(7, 3), (5, 5), (3, 8)])
def test_every_prompt_comes_once_an_epoch(count, more):
    order = [i for taken in range(0, 60, more) for i in rollouts.prompt_order(count, 1, taken, more)]
    epochs = [order[i : i + count] for i in range(0, len(order) - count + 1, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert rollouts.prompt_order(count, 1, 4, more) == order[4 : 4 + more]
    assert [*rollouts.prompt_order(count, 2, 0, 60)] != order


def test_an_epoch_of_updates_takes_each_row_of_the_rollout_once():
    cfg = settings()
    rollout = Rollout(6, 1, 0, 0.1, {"tokens": np.zeros((12, 2))}, 0, 0.1)
    epochs = [np.concatenate([rollouts._rows(cfg, rollout, 3 * e + i) for i in range(3)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    other = np.concatenate([rollouts._rows(cfg, rollout._replace(first=12), i) for i in range(3)])
    assert other.tolist() != epochs[0].tolist()
