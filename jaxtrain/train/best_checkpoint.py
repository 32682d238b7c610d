"""The best checkpoint of a run by a metric of its evaluation. jax is not imported here.

Every checkpoint of a run with --keep_best holds that flag and its step's evaluation. So the checkpoints on disk, each
of which appears whole, are the record of which one is best: there is no other that could contradict them.
"""

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.train import checkpoint_files

Retain = Callable[[list[int]], Collection[int]]  # ascending steps -> those that are not deleted

BEST = "best"  # RUN@best
METRIC, EVALUATION = "keep_best", "evaluation"  # keys of a checkpoint's meta
# Names of what samples are measured by: which ones a run has is known after its first samples.
OF_SAMPLES = ("completions/", "judge/")

# Words of metrics of which less, and more, is better.
_LOWER = set("loss nll perplexity byte ece kl error divergence clipped brier".split())
_HIGHER = set(
    "accuracy accuracies margin margins score scores gold agreement correct reward acc core exact f1 bleu".split()
)


@dataclasses.dataclass
class BestCheckpoint:
    """A metric of evaluation, and the checkpoint of a run that is best by it so far."""

    metric: str  # as metrics.jsonl calls it
    mode: str  # max or min
    step: int | None = None
    value: float = math.nan
    names: set[str] = dataclasses.field(default_factory=set)  # metrics that evaluations had

    def __str__(self) -> str:
        return f"{self.metric}:{self.mode}"

    def better(self, values: Mapping[str, Any]) -> bool:
        """Whether an evaluation is better than the best before it: equal and NaN are not."""
        value = _finite(values.get(self.metric))
        if value is None:
            return False
        return self.step is None or (value > self.value if self.mode == "max" else value < self.value)

    def update(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes a step as the best where its evaluation is better."""
        if self.better(values):
            self.step, self.value = step, float(values[self.metric])

    def require(self, names: Iterable[str], *, more: bool, note: str = "") -> None:
        """Raises ConfigError unless evaluations have this metric, or `more` are to come with it: samples.

        names: metrics of evaluations that are not in `self.names` yet. note: the end of the message.
        """
        self.names |= set(names)
        if self.metric in self.names or (more and self.metric.startswith(OF_SAMPLES)):
            return
        have = ", ".join(sorted(self.names)) or "none"
        raise ConfigError(
            f"--keep_best={self.metric}: evaluation has no such metric; choose one of {have}{note}"
        )


def parse(text: str) -> BestCheckpoint | None:
    """The metric of --keep_best=METRIC[:max|min], None without one. Raises ConfigError for a direction not known."""
    if not text:
        return None
    metric, _, mode = text.rpartition(":") if ":" in text else (text, "", "")
    if not metric or mode not in ("", "max", "min"):
        raise ConfigError(
            f"--keep_best={text}: write METRIC, METRIC:max or METRIC:min, such as eval/loss:min"
        )
    lower = higher = False
    for part in reversed(metric.split("/")):  # eval/bits_per_byte/SOURCE says it before its last part
        words = set(re.split(r"[^a-z0-9]+", part.lower()))
        lower, higher = bool(words & _LOWER), bool(words & _HIGHER)
        if lower or higher:
            break
    if not mode and lower == higher:
        raise ConfigError(f"--keep_best={text}: say whether more is better: {metric}:max or {metric}:min")
    return BestCheckpoint(metric, mode or ("min" if lower else "max"))


def resume(text: str, checkpoints: Path, steps: Sequence[int]) -> BestCheckpoint | None:
    """`parse`, with the best of the checkpoints that are there."""
    best = parse(text)
    if best:
        for step, meta in _metas(checkpoints, steps):
            best.names |= set(meta.get(EVALUATION, ()))
            best.update(step, meta.get(EVALUATION, {}))
    return best


def record(best: BestCheckpoint | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's meta has of a step's evaluation; without --keep_best nothing."""
    if best is None:
        return {}
    return {METRIC: str(best), EVALUATION: {name: _finite(value) for name, value in values.items()}}


def best_step(checkpoints: Path, steps: Sequence[int], source: str) -> int:
    """The step of the best checkpoint, by the --keep_best of the newest one. Raises ConfigError where none is."""
    metas = dict(_metas(checkpoints, steps))
    flags = [meta[METRIC] for meta in metas.values() if meta.get(METRIC)]
    best = parse(flags[-1]) if flags else None
    for step, meta in metas.items() if best else ():
        best.update(step, meta.get(EVALUATION, {}))
    if best is None or best.step is None:
        why = (
            f"none was evaluated with a finite {best.metric}"
            if best
            else "it was not trained with --keep_best"
        )
        have = ", ".join(map(str, steps)) or "none"
        raise ConfigError(f"{source}: the run has no best checkpoint, {why}; name a step: {have}")
    return best.step


def retained(steps: Sequence[int], newest: int, best: int | None) -> set[int]:
    """Of ascending steps those that stay: the newest ones, and the best."""
    return {*steps[-newest:], *({best} & set(steps))}


def _metas(checkpoints: Path, steps: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, meta) of each checkpoint whose meta is intact, with a warning for each other."""
    for step in steps:
        try:
            yield step, dict(checkpoint_files.read_meta(checkpoints / str(step))["meta"])
        except checkpoint_files.DamagedMeta as error:
            warnings.warn(f"{error}; step {step} does not count as the best", stacklevel=3)


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
