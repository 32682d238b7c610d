"""The names of metrics: as metrics.jsonl has them, and in groups, as TensorBoard and trackers show them."""

from collections.abc import Mapping
from typing import Any

# Columns of metrics.jsonl that differ between two runs of the same command.
TIMES = (
    *("time", "tokens_per_s", "step_time", "flops_per_s", "mfu"),
    *("hosts/step_time_max", "hosts/slowest"),
)
# Measures of answers by the model before and after training, which the last line of a run may have.
BEFORE, AFTER = "before/", "after/"


def is_training(values: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is of training steps, which alone have a learning rate, or of an evaluation."""
    return "lr" in values


def grouped(name: str, training: bool) -> str:
    """The name of a metric with its group, train/, eval/, judge/ or time/; `training`: whether its line is_training."""
    if name in TIMES:
        return f"time/{name}"
    if training:
        return f"train/{name}"
    return name if name.startswith(("eval/", "judge/", BEFORE, AFTER)) else f"eval/{name}"
