"""The summary of a finished run: held-out numbers, time and where it went, goodput, what is wrong, what comes next."""

import datetime
from collections.abc import Mapping
from typing import Any

from jaxtrain.config import is_remote
from jaxtrain.files import terminal
from jaxtrain.stages import loss_diagnosis, next_commands
from jaxtrain.stages.session import Session, print_lines
from jaxtrain.train import metrics, workdir
from jaxtrain.train.metric_series import Rows
from jaxtrain.train.time_split import TimeSplit, goodput


def show(
    session: Session,
    steps: int,
    numbers: Mapping[str, float],
    speed: TimeSplit,
    seconds: float,
    resumed: bool,
) -> None:
    """Prints the summary in a few lines; `seconds` are those of this start, `numbers` the last evaluation's."""
    if not session.primary:
        return
    formats = {
        "held-out loss": ("{loss:.4f}" + ", perplexity {perplexity:.2f}" * ("perplexity" in numbers), "loss"),
        "accuracy": ("{rewards/accuracies:.4f}", "rewards/accuracies"),
        "agreement": ("{accuracy:.4f} with the labels, calibration error {ece:.4f}", "ece"),
        "with gold": ("{gold_accuracy:.4f}", "gold_accuracy"),
        "bits per byte": ("{bits_per_byte:.4f}", "bits_per_byte"),
        "above entropy": ("{bits_per_byte_above_entropy:.4f}", "bits_per_byte_above_entropy"),
    }
    total = speed.total()
    record, (rows, _) = workdir.read_run(session.path), metrics.read_rows(session.path / metrics.FILE)
    fast = f", {total['tokens_per_s']:,.0f} tokens/s" if total else ""
    table = [
        *((name, text.format(**numbers)) for name, (text, needs) in formats.items() if needs in numbers),
        ("time", f"{seconds / 60:.1f} min{fast}"),
        ("time split", speed.text(seconds)),
        *([("goodput", _goodput(record, rows))] if resumed and not is_remote(session.path) else []),
        ("checkpoint", str(session.path / "checkpoints" / str(steps))),
    ]
    said = metrics_say(loss_diagnosis.faults(rows, record["stage"]))
    lines = [f"finished {steps} steps", *terminal.lines(table), *said, *next_commands.lines(session.path)]
    print_lines(lines, session.primary)


def metrics_say(diagnosis: list[str]) -> list[str]:
    """The sentences of a diagnosis as lines that fit a terminal; of none no line."""
    lines = [line for text in diagnosis for line in terminal.wrapped(text, "  ")]
    return ["what the metrics say", *lines] if lines else []


def _goodput(record: Mapping[str, Any], rows: Rows) -> str:
    """What share of the time since the first start the steps took."""
    started = datetime.datetime.fromisoformat(record["started"])
    seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    share = goodput(rows, seconds)
    span = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return f"{share:.0%} of the {span} since the first start were steps that count"
