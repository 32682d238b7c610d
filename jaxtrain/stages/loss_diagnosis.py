"""What the metrics of a stage on fixed data suggest, in words; rl/diagnosis.py has those of an on-policy stage."""

from jaxtrain.train.metric_series import Rows, ends, series

FALLS = 0.02  # of the loss: more between two parts of its end is not yet level
GAP = 0.15  # of the training loss: the held-out loss is above it by so much


def faults(rows: Rows, stage: str) -> list[str]:
    """Sentences about what is wrong in a run of a stage, whatever its targets; none where nothing stands out."""
    sentences = []
    loss, held_out = ends(rows, "loss"), series(rows, "eval/loss")[1]
    if loss and len(held_out) and held_out[-1] - loss[1] > GAP * abs(loss[1]):
        sentences.append(
            f"The held-out loss is {held_out[-1]:.3g}, the training loss {loss[1]:.3g}: the model memorises its "
            "data. Use more data, or fewer --steps."
        )
    chosen = ends(rows, "rewards/chosen") if stage == "dpo" else None
    if chosen and chosen[1] < 0:
        sentences.append(
            f"The chosen completions have become less likely than under the reference model (rewards/chosen "
            f"{chosen[1]:.2g}): a greater --nll_weight or --beta, or a lower --lr."
        )
    return sentences


def diagnose(rows: Rows, stage: str) -> list[str]:
    """Sentences about a run that falls short of a target: its faults, or that it had not come to its end."""
    sentences, loss = faults(rows, stage), ends(rows, "loss")
    if not sentences and loss and loss[0] - loss[1] > FALLS * abs(loss[0]):
        sentences.append(
            f"The training loss still falls at the end, from {loss[0]:.3g} to {loss[1]:.3g}: more --steps."
        )
    return sentences
