"""Agreement of scores with preferences, and of annotators with one another; NumPy alone."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 10  # of confidence, in the calibration error
LENGTHS = (-8, 0, 8)  # edges of the length differences, in tokens, for accuracy by length


def comparison_metrics(
    scores: np.ndarray, prefer: np.ndarray, lengths: np.ndarray, groups: Sequence[str] = ()
) -> dict[str, float]:
    """Metrics of scores f32[R, N] against preferences f32[R, N, N], on the comparisons without ties.

    `loss`, the mean −log σ(margin) in nats; `accuracy` (a tie of scores is wrong), also by group of the rows and by how
    many tokens longer the better one is, lengths i32[R, N]; `ece`, the expected calibration error of σ(margin) in BINS
    bins of confidence (Guo et al. 2017, arXiv:1706.04599, equation 3); `length_correlation`, Pearson's, of the scores
    with the lengths.
    """
    row, won, lost = np.nonzero(prefer > prefer.swapaxes(1, 2))
    margin = scores[row, won] - scores[row, lost]
    right, longer = margin > 0, lengths[row, won] - lengths[row, lost]
    loss = float(np.logaddexp(0.0, -np.asarray(margin, np.float64)).mean())
    metrics = {"loss": loss, "accuracy": float(right.mean()), "ece": _calibration_error(margin)}
    present = lengths > 0
    if np.ptp(lengths[present]) and np.ptp(scores[present]):
        metrics["length_correlation"] = float(np.corrcoef(lengths[present], scores[present])[0, 1])
    for name in sorted(set(groups)):
        inside = np.asarray(groups, object)[row] == name
        if inside.any():
            metrics[f"accuracy/{name}"] = float(right[inside].mean())
    for low, high in zip((-np.inf, *LENGTHS), (*LENGTHS, np.inf), strict=True):
        inside = (longer >= low) & (longer < high)
        if inside.any():
            metrics[f"accuracy/longer_{low:+.0f}_to_{high:+.0f}"] = float(right[inside].mean())
    return metrics


def gold_accuracy(scores: np.ndarray, gold: np.ndarray, groups: Sequence[str] = ()) -> dict[str, float]:
    """Accuracy of scores f32[R, 2] against gold rewards, overall and by group, on the pairs without gold ties.

    gold_decided is the number of these pairs. Empty where all pairs are ties.
    """
    difference = gold[:, 0] - gold[:, 1]
    decided = difference != 0
    if not decided.any():
        return {}
    right = np.sign(scores[:, 0] - scores[:, 1]) == np.sign(difference)
    metrics = {"gold_accuracy": float(right[decided].mean()), "gold_decided": float(decided.sum())}
    for name in sorted(set(groups)):
        inside = decided & (np.asarray(groups, object) == name)
        if inside.any():
            metrics[f"gold_accuracy/{name}"] = float(right[inside].mean())
    return metrics


def score_normalisation(reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(gain, bias) f32[M] that give each member's scores f32[M, R] of reference completions mean 0 and variance 1.

    Raises ValueError where a member gives all of them one score.
    """
    mean, std = reference.mean(1), reference.std(1)
    if not (std > 0).all():
        raise ValueError("a reward model gives all reference completions one score: there is no scale")
    return (1 / std).astype(np.float32), (-mean / std).astype(np.float32)


def _calibration_error(margin: np.ndarray) -> float:
    p = 0.5 * (1 + np.tanh(np.asarray(margin, np.float64) / 2))
    return calibration_error(np.maximum(p, 1 - p), margin > 0, low=0.5)


def calibration_error(confidence: np.ndarray, right: np.ndarray, low: float = 0.0) -> float:
    """Expected calibration error: Σ_b |Σ confidence − Σ right| / n over BINS bins from `low` to 1 (Guo et al. 2017)."""
    bins = np.minimum(((confidence - low) / (1 - low) * BINS).astype(int), BINS - 1)
    sums = [(confidence[bins == b].sum(), right[bins == b].sum()) for b in range(BINS)]
    return float(sum(abs(a - b) for a, b in sums) / max(1, len(confidence)))


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's κ = (p_o − p_e)/(1 − p_e) of two annotators' labels of the same things (Cohen 1960).

    p_o is the share of equal labels, p_e the share expected by chance from their frequencies. None where
    there are no labels, or both gave one label to everything.
    """
    n = len(first)
    if n != len(second):
        raise ValueError(f"{n} labels of one annotator, {len(second)} of the other")
    expected = sum(first.count(label) * second.count(label) for label in {*first}) / max(1, n * n)
    if not n or expected == 1:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    return (observed - expected) / (1 - expected)


def annotator_agreement(labels: Mapping[str, Mapping[Any, str]]) -> list[dict[str, Any]]:
    """Agreement of each two annotators on what both labelled: names, count, share of equal labels, and Cohen's κ."""
    agreements = []
    for one, other in itertools.combinations(sorted(labels), 2):
        both = [item for item in labels[one] if item in labels[other]]
        if both:
            a, b = [labels[one][item] for item in both], [labels[other][item] for item in both]
            alike = sum(x == y for x, y in zip(a, b, strict=True)) / len(both)
            agreements.append(
                {"who": (one, other), "count": len(both), "alike": alike, "kappa": cohen_kappa(a, b)}
            )
    return agreements
