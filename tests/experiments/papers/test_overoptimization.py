"""The forms of overoptimization, the judges of both experiments on it, and an ensemble's rules."""

import copy
import math

import numpy as np
import pytest

from experiments.papers import overoptimization, rm_ensembles
from experiments.papers.overoptimization import COUNTS, PAIRS, PROXIES
from tests.experiments.papers import drawn


def test_the_fit_finds_the_form():
    d = np.linspace(0.5, 4, 20)
    best = overoptimization.fit(d, d * (1.2 - 0.3 * d), d)
    assert best == pytest.approx({"a": 1.2, "b": 0.3, "r2": 1})
    rl = overoptimization.fit(d, d * (0.9 - 0.5 * np.log(d)), np.log(d))
    assert rl == pytest.approx({"a": 0.9, "b": 0.5, "r2": 1})
    assert overoptimization.fit(d, d * (0.9 - 0.5 * np.log(d)), d)["r2"] < 0.999
    assert math.isnan(overoptimization.fit(d[:2], d[:2], d[:2])["r2"])


def test_where_a_curve_reaches_a_reward():
    assert overoptimization.first_reaches([0, 1, 3], [0, 1, 2], 1.5) == 2
    assert overoptimization.first_reaches([0.5, 1], [1, 2], 0.5) == 0.5
    assert overoptimization.first_reaches([0, 1], [0, 1], 2) == math.inf


def test_the_kl_at_equal_reward_is_over_the_whole_curve():
    bon = {"gold": [0.2 * i for i in range(12)]}
    needed = overoptimization.kl_needed({"bon": bon, "kl": [0, 1, 2], "gold": [0, 1, 1.5]})
    assert len(needed) == overoptimization.LEVELS and needed[-1][0] == pytest.approx(2)
    assert needed[0][0] == pytest.approx(0.15)  # a tenth of 1.5
    assert needed[0][1] == pytest.approx(0.75 * overoptimization.kl_of_best(2))


def test_ranks():
    assert overoptimization.spearman([1, 2, 3], [10, 20, 20]) == pytest.approx(math.sqrt(3) / 2)
    assert overoptimization.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert overoptimization.spearman([1, 2], [5, 5]) == 0
    assert overoptimization.smoothed([0, 0, 5, 0, 0]).tolist() == [5 / 3, 5 / 4, 1, 5 / 4, 5 / 3]


def result():
    """What the paper has: every curve rises and falls, later with more data, and RL spends more."""
    distance = [math.sqrt(overoptimization.kl_of_best(n)) for n in COUNTS]
    bon = {name: {} for name in PROXIES}
    for name in PROXIES:
        for i, pairs in enumerate(PAIRS):
            gold = [d * (1.2 - (0.34 - 0.05 * i) * d) for d in distance]
            bon[name][str(pairs)] = {"gold": gold, "peak": COUNTS[int(np.argmax(gold))], "r2": 0.99}
    d = np.linspace(0, 7, 60)
    gold = d * (0.6 - 0.4 * np.log(np.maximum(d, 1)))
    rl = {"kl": (d**2).tolist(), "distance": d.tolist(), "gold": gold.tolist(), "proxy": d.tolist(), "r2": 0.95,
          "a": 0.6, "b": 0.4}  # fmt: skip
    return {"bon": bon, "rl": {name: [{**rl, "bon": bon[name]["1000"]} for _ in range(2)] for name in PROXIES},
            "distance": distance, "gold": {"gold": distance}}  # fmt: skip


def outcomes(one):
    return [check.passed for check in overoptimization.judge(overoptimization.Overoptimization(), [one] * 3)]


def test_a_result_like_the_papers_passes_and_is_drawn(tmp_path):
    cfg = overoptimization.Overoptimization()
    assert drawn.outcomes(overoptimization, cfg, [result()] * 3, tmp_path) == [True] * 7


def test_each_part_of_the_criterion_can_fail():
    wrong = [copy.deepcopy(result()) for _ in range(7)]
    wrong[0]["bon"]["MLP-8"]["4000"]["r2"] = 0.8
    wrong[1]["bon"]["linear"]["250"]["gold"][-1] = 9.0
    for by_pairs in wrong[2]["bon"].values():
        peaks = [one["peak"] for one in by_pairs.values()]
        for one, peak in zip(by_pairs.values(), reversed(peaks), strict=True):
            one["peak"] = peak
    falls, rises, fits = wrong[3]["rl"]["MLP-64"][1], wrong[4]["rl"]["linear"][1], wrong[5]["rl"]["MLP-8"][1]
    falls["gold"] = falls["proxy"]
    rises["proxy"] = [-x for x in rises["proxy"]]
    fits["r2"] = math.nan
    for rl in wrong[6]["rl"]["linear"]:
        rl["kl"] = [x / 100 for x in rl["kl"]]
    for i, one in enumerate(wrong):
        failed = [j for j, passed in enumerate(outcomes(one)) if not passed]
        assert i in failed, (i, failed)
        assert set(failed) <= {i, 4, 6} if i == 3 else failed == [i]


def test_an_ensembles_rules():
    scores = rm_ensembles.normalised(np.array([[0.0, 2.0, 4.0], [10.0, 30.0, 50.0], [4.0, 2.0, 0.0]]))
    assert scores.mean(1) == pytest.approx([0, 0, 0]) and scores.std(1) == pytest.approx([1, 1, 1])
    rules = rm_ensembles.combined(scores, 0.5)
    assert rules["mean"] == pytest.approx(scores.mean(0), abs=1e-6)
    assert rules["min"] == pytest.approx(scores.min(0), abs=1e-6)
    assert rules["penalised"] == pytest.approx(scores.mean(0) - 0.5 * scores.var(0), abs=1e-6)


def test_ensembles_have_to_beat_single_models():
    good = {
        "single": [[0, 1.0], [0, 2.0]],
        "rules": {"mean": [0, 1.0], "min": [0, 1.6], "penalised": [0, 1.7]},
    }
    bad = {**good, "rules": {**good["rules"], "penalised": [0, 1.4]}}

    def passed(*results):
        return [check.passed for check in rm_ensembles.judge(rm_ensembles.RmEnsembles(), results)]

    assert passed(good, good, good) == [True, True]
    assert passed(good, bad, bad) == [True, False]
