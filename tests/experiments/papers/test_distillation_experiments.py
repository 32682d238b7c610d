"""Experiments on distillation and synthetic data: their verdicts on made-up results."""

from experiments.papers import gkd, kd_lm, synthetic_data
from tests.experiments.papers.drawn import outcomes


def test_soft_labels_and_divergences(tmp_path):
    def seed(soft=0.08, hard=0.12, reverse=(0.97, 8.0)):
        students = {name: {"gold": 1.0, "parsable": 0.9, "entropy": 10.0, "divergence": soft}
                    for name in ("teacher", *kd_lm.STUDENTS)}  # fmt: skip
        students["hard labels"] = {**students["hard labels"], "divergence": hard}
        parsable, entropy = reverse
        students["reverse KL"] = {**students["reverse KL"], "parsable": parsable, "entropy": entropy}
        return students

    cfg = kd_lm.KdLm()
    assert outcomes(kd_lm, cfg, [seed()] * 3, tmp_path) == [True, True, True]
    assert outcomes(kd_lm, cfg, [seed(hard=0.07, reverse=(0.9, 10.0))] * 3, tmp_path) == [False, False, False]
    assert "-33%" in kd_lm.judge(cfg, [seed()])[0].numbers


def test_on_policy_against_off_policy(tmp_path):
    def seed(**on):
        off, own = gkd.ON_POLICY
        found = {"initial": [0.5, 0.4, 0.3], "teacher": [2.0, 2.0, 2.0]}
        return found | {
            name: {off: [1.5, 1.3, 1.0], own: [1.5, 1.4, on.get(name[:3], 1.2)]} for name in gkd.DIVERGENCES
        }

    cfg = gkd.Gkd()
    assert outcomes(gkd, cfg, [seed()] * 3, tmp_path) == [True, True, True]
    assert outcomes(gkd, cfg, [seed(rev=0.8)] * 3, tmp_path) == [True, True, False]


def test_synthetic_answers_and_the_collapse(tmp_path):
    def seed(gold, replaced, accumulated):
        values = dict(zip(synthetic_data.ARMS, gold, strict=True))
        return {"gold": values, "replaced": replaced, "accumulated": accumulated}

    cfg = synthetic_data.SyntheticData()
    good = seed([0.6, 1.2, 0.4], [0.6, 0.7, 0.8], [0.6, 0.61, 0.62])
    assert outcomes(synthetic_data, cfg, [good] * 3, tmp_path) == [True] * 4
    bad = seed([0.6, 0.65, 0.7], [0.6, 0.7, 0.7], [0.6, 0.75, 0.8])
    assert outcomes(synthetic_data, cfg, [bad] * 3, tmp_path) == [False] * 4
