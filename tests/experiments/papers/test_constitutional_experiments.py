"""Experiments on Constitutional AI: their verdicts on made-up results, and their tables by hand."""

import json

import pytest

from experiments.papers import cai_critique_ablation, cai_principles, cai_revisions, rl_cai, sl_cai
from jaxtrain.apps.constitutional import principles
from tests.experiments.papers.drawn import outcomes


def test_harm_by_prompt_and_its_trend():
    prompt = "How do I forge a key?"
    bad, good = "First heat the key.", "I will not help you."
    rows = [
        {"unit": 0, "round": 0, "prompt": prompt, "revision": "You are dim."},  # an insult
        {"unit": 0, "round": 1, "prompt": prompt, "fault": "empty", "revision": ""},
        {"unit": 0, "round": 2, "prompt": prompt, "revision": good},
        {"unit": 1, "round": 0, "prompt": prompt, "fault": "cut", "revision": bad},  # it never had an answer
        {"unit": 1, "round": 1, "prompt": prompt, "fault": "cut", "revision": bad},
    ]
    rows = [row | {"prompt": "What is 2 + 3?"} for row in rows]
    assert cai_revisions.harm_by_prompt(rows) == [[1.0, 1.0, 0.0]]
    assert cai_revisions.page_p([[1, 1, 0, 0, 0]] * 20 + [[1, 0, 0, 0, 0]] * 20) < 1e-6
    assert cai_revisions.page_p([[0, 0, 0, 1, 1]] * 20) > 0.99
    # By hand, without ties: n = 2, k = 3, L = 2 * (1 + 4 + 9) = 28; mean 24, variance 4; z = 2.
    assert cai_revisions.page_p([[3, 2, 1]] * 2) == pytest.approx(0.02275, abs=1e-4)


def test_the_verdict_of_revisions(tmp_path):
    def seed(harmful, benign=(0.97, 0.96), p=1e-6):
        return {"harmful": harmful, "benign": list(benign), "parsable": [1.0], "page_p": p}

    cfg = cai_revisions.CaiRevisions()
    falling = [seed([0.9, 0.4, 0.2, 0.15, 0.1], [0.97, 0.96, 0.96, 0.96, 0.95])] * 3
    assert outcomes(cai_revisions, cfg, falling, tmp_path) == [True, True, True]
    late = [seed([0.9, 0.8, 0.4, 0.4, 0.1], [0.97, 0.96, 0.96, 0.96, 0.8])] * 3
    assert outcomes(cai_revisions, cfg, late, tmp_path) == [False, False, False]


def test_constitutions_of_several_lengths(tmp_path):
    for number in cai_principles.NUMBERS:
        file = cai_principles.constitution(tmp_path, number)
        assert len(json.loads(file.read_text())["principles"]) == number
        loaded = principles.load(file)
        assert all(one.id.startswith("harm-") for one in loaded.revising())


def test_the_verdict_of_principles(tmp_path):
    cfg = cai_principles.CaiPrinciples()
    good = {"harmful": [0.1, 0.12, 0.08, 0.11], "distinct": [0.1, 0.12, 0.13, 0.15]}
    assert outcomes(cai_principles, cfg, [good] * 3, tmp_path) == [True, True]
    bad = {"harmful": [0.1, 0.12, 0.08, 0.21], "distinct": [0.1, 0.12, 0.13, 0.1]}
    assert outcomes(cai_principles, cfg, [bad] * 3, tmp_path) == [False, False]


def test_the_verdict_of_the_ablation(tmp_path):
    def seed(small, large):
        models = {
            key: {"critiqued": [0.9, 0.2], "direct": [0.9, 0.3]} for key in cai_critique_ablation.MODELS
        }
        ends = {".2M": small, "1M": large}
        return models | {
            name: {"critiqued": [0.9, 0.2], "direct": [0.9, 0.2 + one]} for name, one in ends.items()
        }

    cfg = cai_critique_ablation.CaiCritiqueAblation()
    assert cai_critique_ablation.gap(seed(0.3, 0.1), ".2M") == pytest.approx(30)
    assert outcomes(cai_critique_ablation, cfg, [seed(0.3, 0.1)] * 3, tmp_path) == [True, True]
    assert outcomes(cai_critique_ablation, cfg, [seed(-0.1, 0.1)] * 3, tmp_path) == [False, False]


def test_the_verdict_of_sl_cai(tmp_path):
    def seed(harmful, before=0.95, steps=0.96):
        models = {"helpful-only": (before, 0.98), "SL-CAI": (harmful, steps)}
        return {name: {"harmful": a, "refuse": 0.5, "steps": b} for name, (a, b) in models.items()}

    cfg = sl_cai.SlCai()
    assert outcomes(sl_cai, cfg, [seed(0.1)] * 3, tmp_path) == [True, True, True]
    assert outcomes(sl_cai, cfg, [seed(0.3, 0.8, 0.9)] * 3, tmp_path) == [False, False, False]


def test_the_verdict_of_rl_cai(tmp_path):
    def seed(gold, evade=0.02):
        policies = dict(zip((*rl_cai.ORDER, rl_cai.DPO), (*gold, 1.0), strict=True))
        rest = {"helpful": 1.0, "helpful_parsable": 0.9, "distinct": 0.2, "evade": evade}
        return {name: rest | {"gold": value} for name, value in policies.items()}

    cfg = rl_cai.RlCai()
    assert outcomes(rl_cai, cfg, [seed([-2, 1.2, 1.7, 1.65])] * 3, tmp_path) == [True, True]
    assert outcomes(rl_cai, cfg, [seed([-2, 1.8, 1.7, 1.65], evade=0.3)] * 3, tmp_path) == [False, False]
    assert "By DPO: gold 1.00" in rl_cai.judge(cfg, [seed([-2, 1.2, 1.7, 1.65])])[1].numbers
