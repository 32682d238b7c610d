"""What the metrics of an on-policy stage show: its score against gold over training, and why it falls short."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.apps.lifecycle.plan import LifecycleStep

ON_POLICY = ("ppo", "grpo")


def watched(
    step: LifecycleStep, rows: Sequence[Mapping[str, Any]], folder: Path, reached: bool
) -> dict[str, Any]:
    """{"notes": sentences about a stage that falls short, "figures": [{"title", "svg"}]} of a stage's metrics."""
    return {"notes": [], "figures": []}
