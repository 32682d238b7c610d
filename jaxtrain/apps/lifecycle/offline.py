"""What the metrics of a stage on fixed data suggest, in words; rl/diagnosis.py has those of an on-policy stage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtrain.rl.overoptimisation import series

Rows = Sequence[Mapping[str, Any]]

FEWEST = 10  # lines of a metric
PART = 0.2  # of the lines: the end, and what is before it
FALLS = 0.02  # of the loss: more between the two parts is not yet level
GAP = 1.15  # held-out loss to training loss


def diagnose(rows: Rows, stage: str) -> list[str]:
    """Sentences about a run of a stage; none where nothing stands out."""
    found = []
    loss, held_out = ends(rows, "loss"), series(rows, "eval/loss")[1]
    if loss and len(held_out) and held_out[-1] > GAP * loss[1]:
        found.append(
            f"The held-out loss is {held_out[-1]:.3g}, the training loss {loss[1]:.3g}: the model memorises its "
            "data. Use more data, or fewer --steps."
        )
    elif loss and loss[0] - loss[1] > FALLS * abs(loss[0]):
        found.append(
            f"The training loss still falls at the end, from {loss[0]:.3g} to {loss[1]:.3g}: more --steps."
        )
    chosen = ends(rows, "rewards/chosen") if stage == "dpo" else None
    if chosen and chosen[1] < 0:
        found.append(
            f"The chosen completions have become less likely than under the reference model (rewards/chosen "
            f"{chosen[1]:.2g}): a greater --nll_weight or --beta, or a lower --lr."
        )
    return found


def ends(rows: Rows, name: str) -> tuple[float, float] | None:
    """(mean of a metric over the lines before its last fifth, as many, mean over the last fifth); None of few lines."""
    values = series(rows, name)[1]
    if len(values) < FEWEST:
        return None
    count = max(2, round(PART * len(values)))
    return float(np.mean(values[-2 * count : -count])), float(np.mean(values[-count:]))
