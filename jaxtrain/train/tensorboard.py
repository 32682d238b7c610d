"""TensorBoard events of a run: metrics in groups, held-out ones beside training, flags as hyper-parameters, texts.

The names of metrics.jsonl stay as they are; metric_names.grouped is what TensorBoard and trackers call them.
"""

import importlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain.train.metric_names import AFTER, BEFORE, grouped, is_training

FOLDER, HELD_OUT = "tensorboard", "held_out"

# What the tab of hyper-parameters shows of each run, where it has it.
RESULTS = ("train/loss", "eval/loss", "eval/accuracy", "eval/rewards/accuracies", "judge/gold")


def before_after(values: Mapping[str, float]) -> str:
    """The measures before/NAME and after/NAME as a table in Markdown; empty where there are none."""
    names = [name.removeprefix(BEFORE) for name in values if name.startswith(BEFORE)]
    rows = [
        f"| {name} | {values[BEFORE + name]:.4f} | {values.get(AFTER + name, math.nan):.4f} |"
        for name in names
    ]
    return "\n".join(["| measure | before | after |", "|---|---:|---:|", *rows]) if rows else ""


# What tensorboardX imports where it is installed: a name of a type, and writers to buckets. A run's files are local.
_UNUSED = ("torch", "boto3", "google.cloud.storage")


def _tensorboardx() -> Any:
    """tensorboardX without the packages that it has no use for here, which take 3 s to import."""
    if "tensorboardX" in sys.modules:
        return sys.modules["tensorboardX"]
    hidden = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # to import one raises ImportError
    try:
        return importlib.import_module("tensorboardX")
    finally:
        for name in hidden:
            del sys.modules[name]


class EventWriter:
    """Writes the events of a run. Held-out metrics that training has, too, such as the loss, are also written in a run
    of their own, HELD_OUT, under the name of the training's, so that TensorBoard draws both on one card.

    start_step: events of later steps are forgotten. flags: name -> value, the hyper-parameters. trained: names of the
    metrics that earlier training lines of the run have.
    """

    def __init__(
        self, folder: Path, start_step: int, flags: Mapping[str, Any], trained: frozenset[str] = frozenset()
    ):
        self._folder, self._purge = folder, start_step + 1 if start_step else None
        self._trained = set(trained)
        self._waiting: list[
            tuple[int, Mapping[str, float]]
        ] = []  # held-out metrics before the first training line
        self._main = self._writer(folder)
        self._beside: Any = None
        if flags:
            from tensorboardX.summary import hparams

            experiment, start, self._end = hparams(dict(flags), dict.fromkeys(RESULTS, 0.0))
            for summary in (experiment, start):
                self._main.file_writer.add_summary(summary)
        else:
            self._end = None

    def _writer(self, folder: Path) -> Any:
        return _tensorboardx().SummaryWriter(str(folder), purge_step=self._purge, flush_secs=10)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The scalars of a line of metrics.jsonl; measures before and after training as a table."""
        training = is_training(values)
        for name, value in values.items():
            if not name.startswith((BEFORE, AFTER)):
                self._main.add_scalar(grouped(name, training), value, step)
        if table := before_after(values):
            self._main.add_text("before and after", table, step)
        if training:
            self._trained |= values.keys()
        held_out = {name.removeprefix("eval/"): x for name, x in values.items() if name.startswith("eval/")}
        self._waiting += [(step, held_out)] if held_out else []
        if self._trained:
            self._write_beside()

    def _write_beside(self) -> None:
        for step, values in self._waiting:
            shared = self._trained & values.keys()
            if shared and self._beside is None:
                self._beside = self._writer(self._folder / HELD_OUT)
            for name in sorted(shared):
                self._beside.add_scalar(grouped(name, True), values[name], step)
        self._waiting = []

    def text(self, step: int, name: str, text: str) -> None:
        """A text, shown as it is, not as Markdown."""
        self._main.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), step)

    def flush(self) -> None:
        for writer in self._both():
            writer.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._end is not None:
            self._main.file_writer.add_summary(self._end)
        for writer in self._both():
            writer.close()

    def _both(self) -> list[Any]:
        return [self._main, *([self._beside] if self._beside is not None else [])]
