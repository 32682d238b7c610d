"""Experiments on reward models: their verdicts on made-up results, and their data by hand."""

import numpy as np
import pytest

from experiments.papers import rm_data_scaling, rm_heldout_annotators, rm_kwise
from tests.experiments.papers.drawn import outcomes


def test_scaling_with_data(tmp_path):
    cfg = rm_data_scaling.RmDataScaling()
    assert rm_data_scaling.pairs(cfg) == [128, 512, 2048, 8192]
    assert rm_data_scaling.slope([0, 1, 2], [1, 3, 5]) == pytest.approx(2)

    def seed(small, big):
        return {"0.2M": {"accuracy": small}, "1M": {"accuracy": big}}

    rising = [seed([0.6, 0.65, 0.7, 0.74 + i / 500], [0.6, 0.66, 0.72, 0.76]) for i in range(3)]
    assert outcomes(rm_data_scaling, cfg, rising, tmp_path) == [True] * 4
    flat = [seed([0.6, 0.65, 0.7, 0.74], [0.72, 0.72, 0.72, 0.72 + i / 100]) for i in (-1, 0, 1)]
    assert outcomes(rm_data_scaling, cfg, flat, tmp_path) == [True, True, None, False]


def test_annotators_of_two_groups(tmp_path):
    cfg = rm_heldout_annotators.RmHeldoutAnnotators()
    apart = [{"A": {"A": 0.76, "B": 0.70}, "B": {"A": 0.71, "B": 0.75}}] * 3
    assert rm_heldout_annotators.own_and_other(apart[0]) == (pytest.approx(0.755), pytest.approx(0.705))
    assert outcomes(rm_heldout_annotators, cfg, apart, tmp_path) == [True, True]
    alike = [{"A": {"A": 0.74, "B": 0.745}, "B": {"A": 0.74, "B": 0.74}}] * 3
    assert outcomes(rm_heldout_annotators, cfg, alike, tmp_path) == [False, False]
    opposed = [{"A": {"A": 0.76, "B": 0.3}, "B": {"A": 0.3, "B": 0.75}}] * 3
    assert outcomes(rm_heldout_annotators, cfg, opposed, tmp_path) == [True, False]


def test_rankings_of_distinct_completions():
    prompt, other = "What is 2 + 3?", "What is 4 + 3?"
    texts = ["2 plus 3 makes 5.", "5", "2 plus 3 makes 6.", "no", "no", "word"]
    records = [{"prompt": prompt, "completion": text} for text in texts]
    records += [{"prompt": other, "completion": text} for text in ("7", "8", "9")]
    (one,) = rm_kwise.rankings(records, np.random.default_rng(0))  # three are too few
    assert one["prompt"] == prompt and 4 <= len(one["completions"]) == len({*one["completions"]})
    assert sorted(one["ranking"]) == list(range(1, len(one["ranking"]) + 1))
    pairs = rm_kwise.as_pairs({"prompt": prompt, "completions": ["b", "a", "c"], "ranking": [2, 1, 3]})
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_the_noise_of_rankings_is_bradley_terry():
    prompt = "What is 2 + 3?"
    texts = ["2 plus 3 makes 5.", "nonsense", "wrong", "bad"]  # gold 2.5, -1, -1, -1
    records = [{"prompt": prompt, "completion": text} for text in texts]
    rng, first = np.random.default_rng(1), []
    for _ in range(2_000):
        (one,) = rm_kwise.rankings(records, rng)
        best = {text: rank for text, rank in zip(one["completions"], one["ranking"], strict=True)}
        first.append(best[texts[0]] < best[texts[1]])
    assert np.mean(first) == pytest.approx(1 / (1 + np.exp(-3.5 / rm_kwise.TEMPERATURE)), abs=0.01)


def test_rankings_against_shuffled_pairs(tmp_path):
    def seed(rankings, pairs, twice):
        curves = {"rankings": rankings, "pairs": pairs, "rankings, 2 epochs": twice}
        curves = {name: {"epochs": [0.5, 1.0], "loss": [1.0, loss]} for name, loss in curves.items()}
        return curves | {"comparisons": 100, "rankings ": 10, "forward": {"rankings": 60, "pairs": 200}}

    cfg = rm_kwise.RmKwise()
    assert outcomes(rm_kwise, cfg, [seed(0.5, 0.6, 0.55)] * 3, tmp_path) == [True, True, True]
    assert outcomes(rm_kwise, cfg, [seed(0.6, 0.5, 0.55)] * 3, tmp_path) == [False, True, False]
