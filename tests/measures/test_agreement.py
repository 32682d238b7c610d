import math

import numpy as np
import pytest

from jaxtrain.measures import agreement

LOG = math.log


def compared(margins, lengths=None, labels=None):
    """Pairs whose first alternative is the better one and scores `margin` more."""
    scores = np.array([[1.0 + m, 1.0] for m in margins])
    prefer = np.zeros((len(margins), 2, 2), np.float32)
    prefer[:, 0, 1] = 1 if labels is None else labels
    prefer[:, 1, 0] = 1 - prefer[:, 0, 1]
    lengths = np.full((len(margins), 2), 5) if lengths is None else np.array(lengths)
    return scores, prefer, lengths


def test_accuracy_and_calibration_by_hand():
    """σ(log 3) is 3/4 and σ(log 9) is 9/10; confidences of bins [.75, .8) and [.9, .95), one of each wrong."""
    margins = [LOG(3.01), LOG(3.01), -LOG(3.01), LOG(9.01), -LOG(9.01)]
    found = agreement.comparison_metrics(*compared(margins))
    assert found["accuracy"] == 3 / 5 and "length_correlation" not in found
    low, high = 3.01 / 4.01, 9.01 / 10.01
    assert found["ece"] == pytest.approx((3 * abs(low - 2 / 3) + 2 * abs(high - 1 / 2)) / 5)
    assert found["accuracy/longer_+0_to_+8"] == 3 / 5 and len(found) == 4


def test_scores_that_are_equal_are_wrong_and_labels_that_are_ties_are_left_out():
    found = agreement.comparison_metrics(*compared([0.0, 0.0, 2.0, -2.0], labels=[1, 1, 0.5, 0.5]))
    assert found["accuracy"] == 0.0 and found["ece"] == pytest.approx(0.5)
    assert agreement.comparison_metrics(*compared([2.0, 2.0], labels=[0.2, 1.0]))["accuracy"] == 0.5


def test_the_loss_by_hand():
    found = agreement.comparison_metrics(*compared([0.0, LOG(3.0), -1000.0]))
    assert found["loss"] == pytest.approx((LOG(2.0) + LOG(4 / 3) + 1000.0) / 3)


def test_perfect_calibration_and_blind_confidence():
    margins = [LOG(3.01)] * 3 + [-LOG(3.01)]
    assert agreement.comparison_metrics(*compared(margins))["ece"] == pytest.approx(3.01 / 4.01 - 0.75)
    assert agreement.comparison_metrics(*compared([-50.0] * 4))["ece"] == 1.0
    assert agreement.comparison_metrics(*compared([50.0] * 4))["ece"] == pytest.approx(0.0, abs=1e-12)


def test_by_length_difference_and_its_correlation():
    """Pairs of which the better one is 20 shorter, 3 shorter, as long, 8 longer; the scores grow with the length."""
    lengths = [[4, 24], [4, 7], [6, 6], [12, 4]]
    scores, prefer, _ = compared([0, 0, 0, 0])
    scores = np.array(lengths) * 2.0 - 7
    found = agreement.comparison_metrics(scores, prefer, np.array(lengths))
    assert found["length_correlation"] == pytest.approx(1.0)
    by = {name: value for name, value in found.items() if "longer" in name}
    assert by == {
        "accuracy/longer_-inf_to_-8": 0.0,
        "accuracy/longer_-8_to_+0": 0.0,
        "accuracy/longer_+0_to_+8": 0.0,
        "accuracy/longer_+8_to_+inf": 1.0,
    }
    noisy = scores + np.array([[3.0, -1.0], [0.5, 2.0], [0.0, 1.0], [-4.0, 0.0]])
    wanted = np.corrcoef(noisy.ravel(), np.array(lengths).ravel())[0, 1]
    assert agreement.comparison_metrics(noisy, prefer, np.array(lengths))[
        "length_correlation"
    ] == pytest.approx(wanted)


def test_groups_and_rankings_with_absent_alternatives():
    """Row 0 ranks three, row 1 two of three; an absent one has length 0 and no comparison."""
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 1.0, 0.0]])
    prefer = np.zeros((2, 3, 3), np.float32)
    prefer[0, [0, 0, 1], [1, 2, 2]] = 1 / 3
    prefer[1, 0, 1] = 1
    lengths = np.array([[3, 4, 5], [3, 4, 0]])
    found = agreement.comparison_metrics(scores, prefer, lengths, ["x", "y"])
    assert found["accuracy"] == 2 / 4
    assert (found["accuracy/x"], found["accuracy/y"]) == (2 / 3, 0.0)
    there = np.corrcoef([3, 4, 5, 3, 4], [3, 1, 2, 0, 1])[0, 1]
    assert found["length_correlation"] == pytest.approx(there)


def test_gold_rewards_that_are_all_alike_say_nothing_of_scores():
    assert agreement.gold_accuracy(np.zeros((3, 2)), np.ones((3, 2)), ["a"] * 3) == {}


def test_against_gold():
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [5.0, 1.0]])
    gold = np.array([[2.0, -1.0], [2.0, -1.0], [1.0, 0.0], [1.0, 1.0]])
    found = agreement.gold_accuracy(scores, gold, ["a", "b", "b", "c"])
    assert found == {
        "gold_accuracy": 1 / 3,
        "gold_decided": 3,
        "gold_accuracy/a": 1.0,
        "gold_accuracy/b": 0.0,
    }


def test_affine_normalises_each_member():
    scores = np.array([[1.0, 2.0, 6.0], [-10.0, 10.0, 0.0]])
    gain, bias = agreement.score_normalisation(scores)
    assert gain.dtype == bias.dtype == np.float32
    np.testing.assert_allclose(gain, [1 / math.sqrt(14 / 3), 1 / math.sqrt(200 / 3)], rtol=1e-6)
    rewards = gain[:, None] * scores + bias[:, None]
    np.testing.assert_allclose(rewards.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(rewards.var(1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="gives all reference completions one score"):
        agreement.score_normalisation(np.array([[1.0, 2.0], [3.0, 3.0]]))


def test_kappa_of_two_annotators_by_hand():
    first = ["a"] * 25 + ["b"] * 25
    second = ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15
    assert agreement.cohen_kappa(first, second) == pytest.approx(0.4)  # p_o = .7, p_e = .5 · .6 + .5 · .4
    # p_o = .5, p_e = .75 · .75 + .25 · .25 = .625
    assert agreement.cohen_kappa([*"aaab"], [*"baaa"]) == pytest.approx(-1 / 3)
    assert (
        agreement.cohen_kappa(["a", "b"], ["b", "a"]) == -1.0
        and agreement.cohen_kappa(["a", "b"], ["a", "b"]) == 1.0
    )
    assert agreement.cohen_kappa([], []) is None and agreement.cohen_kappa(["a"], ["a"]) is None
    with pytest.raises(ValueError, match="2 labels of one annotator, 1"):
        agreement.cohen_kappa(["a", "b"], ["a"])


def test_each_two_people_are_told_apart():
    labels = {"cy": {1: "a", 2: "b"}, "ann": {1: "a", 2: "a", 3: "b"}, "bob": {3: "b"}, "dot": {9: "a"}}
    found = agreement.annotator_agreement(labels)
    assert [(one["who"], one["count"], one["alike"]) for one in found] == [
        (("ann", "bob"), 1, 1.0),
        (("ann", "cy"), 2, 0.5),
    ]
    assert found[0]["kappa"] is None and found[1]["kappa"] == 0.0
