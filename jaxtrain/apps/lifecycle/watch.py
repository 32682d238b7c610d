"""What the metrics of a stage show: the score against gold over training, and why a stage falls short."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.apps.lifecycle.plan import LifecycleStep
from jaxtrain.config import ConfigError
from jaxtrain.rl import curves, diagnosis
from jaxtrain.stages import loss_diagnosis
from jaxtrain.train import workdir

ON_POLICY = ("ppo", "grpo")


def notes(
    step: LifecycleStep, rows: Sequence[Mapping[str, Any]], folder: Path, short: Sequence[str]
) -> list[str]:
    """Sentences about a stage that falls short; `short` are the stages before it that do."""
    on_policy = step.stage in ON_POLICY
    found = (
        diagnosis.diagnose(rows, _config(folder / step.name))
        if on_policy
        else loss_diagnosis.diagnose(rows, step.stage)
    )
    if parents := [name for name in step.needs if name in short]:
        verb = "falls" if len(parents) == 1 else "fall"
        found.append(f"It starts from {' and '.join(parents)}, which {verb} short too.")
    return found or ["Nothing in its metrics says why; look at its completions in the report."]


def figures(
    step: LifecycleStep, rows: Sequence[Mapping[str, Any]], folder: Path, taken: int | None = None
) -> list[dict[str, Any]]:
    """[{"title", "charts"}]: an on-policy stage's score and gold, KL, entropy, length and capped share over its steps.

    The step where gold turns is marked, and `taken`, that of the best checkpoint where it is the one taken.
    """
    if step.stage not in ON_POLICY or not rows:
        return []
    updates = diagnosis.updates_of(_config(folder / step.name))
    return [{"title": step.title, "charts": curves.charts(rows, best=taken, updates=updates)}]


def _config(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The flags of a run; none where its config.json cannot be read, which its own command refuses."""
    try:
        return workdir.read_run(folder)["config"]
    except ConfigError:
        return {}
