"""Frontiers of reward and KL: their envelope, the judge, and the objectives of the baselines."""

import copy
import math

import numpy as np
import pytest

from experiments.papers import dpo_frontier, review_models
from experiments.papers.dpo_frontier import DPO, METHODS, PPO, PREFERRED
from tests.experiments.papers import drawn


def result():
    """DPO above PPO at every KL, Preferred-FT below both."""
    gains = dict.fromkeys(METHODS, 0.1) | {DPO: 0.2, PREFERRED: 0.02}
    points = {
        method: [
            {"value": 1, "step": i, "kl": i / 2, "reward": 0.4 + gain * math.sqrt(i / 2)}
            for i in range(1, 13)
        ]
        for method, gain in gains.items()
    }
    return {"points": points, "forwards": dict.fromkeys(METHODS, 36_000), "labels": 3_000,
            "first": {"reward": 0.4, "kl": 0.0}}  # fmt: skip


def outcomes(one, folder):
    return drawn.outcomes(dpo_frontier, dpo_frontier.DpoFrontier(), [one] * 3, folder)


def test_the_envelope_is_the_best_within_a_kl_or_between():
    points = [{"kl": 1.0, "reward": 0.5}, {"kl": 2.0, "reward": 0.4}, {"kl": 3.0, "reward": 0.9}]
    found = [dpo_frontier.envelope(points, kl) for kl in (0.5, 1, 2, 2.5, 3, 4)]
    assert found == pytest.approx([-math.inf, 0.5, 0.7, 0.8, 0.9, 0.9])
    assert dpo_frontier.grid(result()) == pytest.approx([0.6 * i for i in range(1, 11)])


def test_a_result_like_the_papers_passes(tmp_path):
    assert outcomes(result(), tmp_path) == [True] * 3


def test_each_part_of_the_criterion_can_fail(tmp_path):
    wrong = [copy.deepcopy(result()) for _ in range(3)]
    wrong[0]["points"][PPO] = [{**one, "reward": one["reward"] + 0.2} for one in wrong[0]["points"][PPO]]
    wrong[1]["points"][PREFERRED][5]["reward"] = 0.99
    wrong[2]["forwards"][PPO] *= 2
    for i, one in enumerate(wrong):
        assert outcomes(one, tmp_path) == [j != i for j in range(3)]


def test_unlikelihood_by_hand():
    class Model:
        """Logits that are the same everywhere: log 3, 0, 0, ..."""

        @staticmethod
        def hidden(params, batch):
            return np.ones((*batch["tokens"].shape, 1), np.float32)

        @staticmethod
        def head(params):
            from jaxtrain.types import Head

            weight = np.zeros((len(review_models.WORDS), 1), np.float32)
            weight[5] = math.log(3)
            return Head(weight, 0.0, 2**20)

    tokens = review_models.padded([[5, 1], [7, 7, 1]])[None]
    batch = {**review_models.batch_of(tokens), "kl/tokens": np.zeros(1)}
    norm = math.log(3 + len(review_models.WORDS) - 1)
    chosen, rejected = math.log(3) - 2 * norm, -3 * norm
    for alpha in (0.0, 0.5):
        loss = dpo_frontier.unlikelihood(None, (), batch, None, model=Model, alpha=alpha)
        assert (
            float(loss.total) == pytest.approx(alpha * rejected - chosen, rel=1e-5)
            and float(loss.weight) == 1
        )


def test_every_method_has_its_runs():
    for runs in dpo_frontier.RUNS.values():
        assert tuple(runs) == METHODS
    count = {name: sum(map(len, runs.values())) for name, runs in dpo_frontier.RUNS.items()}
    assert count == {"small": 12, "full": 22}
