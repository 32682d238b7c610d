"""Experiments on PPO: their verdicts on made-up results, and what they ask the runs for."""

import pytest

from experiments.papers import instructgpt, n_details, ppo_kl_sweep, ppo_ptx
from tests.experiments.papers.drawn import outcomes


def test_the_order_of_instructgpt(tmp_path):
    def seed(*rates, small=0.8):
        models = dict(zip(instructgpt.MODELS, rates, strict=True))
        line = {name: {"win_rate": rate, "gold": rate} for name, rate in models.items()}
        return {
            "big": line, "small": line, "small_ppo_over_big": {"base": small, "few-shot": small, "prompted": small},
        }  # fmt: skip

    cfg = instructgpt.InstructGpt()
    good = [seed(0.1, 0.3, 0.05, 0.5, 0.9)] * 3  # the page alone has no place in the order
    assert outcomes(instructgpt, cfg, good, tmp_path) == [True, True]
    bad = [seed(0.1, 0.6, 0.05, 0.5, 0.9, small=0.4)] * 3
    assert outcomes(instructgpt, cfg, bad, tmp_path) == [False, False]
    tied = [seed(0.1, 0.5, 0.05, 0.5, 0.9)] * 3
    assert outcomes(instructgpt, cfg, tied, tmp_path)[0] is False


def test_a_page_with_examples_ends_where_the_answer_begins():
    class Runs:
        seed = 3

    text = instructgpt.examples(Runs)
    assert text.count("Human: ") == 3 == text.count("\nAI: ") and text.endswith("\n")
    assert (instructgpt.PAGE.format(q="Why?")) == "Human: Why?\nAI:"


def test_the_kl_sweep_has_a_maximum_inside(tmp_path):
    def seed(gold, score=(4, 3, 2, 1, 0)):
        return {"gold": list(gold), "score": list(score), "kl": [9, 5, 2, 1, 0]}

    cfg = ppo_kl_sweep.PpoKlSweep()
    assert outcomes(ppo_kl_sweep, cfg, [seed([1.0, 1.5, 2.0, 1.2, 0.8])] * 3, tmp_path) == [True, True]
    assert outcomes(ppo_kl_sweep, cfg, [seed([2.5, 1.5, 2.0, 1.2, 0.8])] * 3, tmp_path) == [False, True]
    ends = seed([1.0, 1.5, 2.0, 1.2, 2.8], score=(4, 3, 2, 1, 5))
    assert outcomes(ppo_kl_sweep, cfg, [ends] * 3, tmp_path) == [False, False]


def test_the_alignment_tax_and_its_cure(tmp_path):
    def seed(plain, ptx, high_kl):
        """(facts, gold) of PPO, of PPO with the largest weight, and of the high KL price."""
        names = {
            "SFT": (0.9, 0.5),
            "0": plain,
            "0.1": plain,
            "0.4": plain,
            "1.6": ptx,
            ppo_ptx.HIGH_KL: high_kl,
        }
        return {name: {"facts": facts, "loss": 1.0, "gold": gold} for name, (facts, gold) in names.items()}

    cfg = ppo_ptx.PpoPtx()
    good = [
        seed((0.8, 2.0), (0.89, 1.95), (0.9, 0.6))
    ] * 3  # a high KL price keeps the facts, and the gold of SFT
    assert ppo_ptx.recovered(good[0], "1.6") == pytest.approx(0.9)
    assert outcomes(ppo_ptx, cfg, good, tmp_path) == [True, True, True]
    costly = [seed((0.8, 2.0), (0.89, 1.8), (0.9, 1.9))] * 3
    assert outcomes(ppo_ptx, cfg, costly, tmp_path) == [True, False, False]
    no_tax = [seed((0.9, 2.0), (0.95, 2.0), (0.9, 0.6))] * 3
    assert outcomes(ppo_ptx, cfg, no_tax, tmp_path) == [False, False, True]


def test_details_switched_off(tmp_path):
    def seed(all_, **off):
        found = {name: {"gold": all_, "ended": 1.0} for name in n_details.OFF} | {
            "SFT": {"gold": 0.5, "ended": 1.0}
        }
        return found | {name.replace("_", " "): {"gold": gold, "ended": 1.0} for name, gold in off.items()}

    cfg = n_details.NDetails()
    assert outcomes(n_details, cfg, [seed(1.5, value_not_clipped=1.2)] * 3, tmp_path) == [True, True]
    assert outcomes(n_details, cfg, [seed(0.8, value_not_clipped=1.2)] * 3, tmp_path) == [False, False]


def test_a_detail_is_not_given_twice():
    assert n_details.clashes("--truncated=replace", ("--truncated=score",))
    assert n_details.clashes("--end_lr=0", ("--schedule=constant",)), (
        "--end_lr acts with other schedules only"
    )
    assert not n_details.clashes("--end_lr=0", ("--truncated=score",))
