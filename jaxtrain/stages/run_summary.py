"""The summary of a finished run: held-out numbers, time and where it went, goodput, what is wrong, what comes next."""

import datetime
from collections.abc import Mapping

from jaxtrain.config import is_remote
from jaxtrain.files import terminal
from jaxtrain.stages import loss_diagnosis, next_commands
from jaxtrain.stages.session import Session, print_lines
from jaxtrain.train import metrics, workdir
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
    fast = f", {total['tokens_per_s']:,.0f} tokens/s" if total else ""
    table = [
        *((name, text.format(**numbers)) for name, (text, needs) in formats.items() if needs in numbers),
        ("time", f"{seconds / 60:.1f} min{fast}"),
        ("time split", speed.text(seconds)),
        *([("goodput", text)] if resumed and (text := _goodput(session)) else []),
        ("checkpoint", str(session.path / "checkpoints" / str(steps))),
    ]
    rows, stage = metrics.read_rows(session.path / metrics.FILE)[0], workdir.read_run(session.path)["stage"]
    said = metrics_say(loss_diagnosis.faults(rows, stage))
    lines = [f"finished {steps} steps", *terminal.lines(table), *said, *next_commands.lines(session.path)]
    print_lines(lines, session.primary)


def metrics_say(diagnosis: list[str]) -> list[str]:
    """The sentences of a diagnosis as lines that fit a terminal; of none no line."""
    lines = [line for text in diagnosis for line in terminal.wrapped(text, "  ")]
    return ["what the metrics say", *lines] if lines else []


def _goodput(session: Session) -> str:
    """What share of the time since the first start the steps took; empty for a run in a bucket."""
    if is_remote(session.path):
        return ""
    started = datetime.datetime.fromisoformat(workdir.read_run(session.path)["started"])
    seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    share = goodput(metrics.read_rows(session.path / metrics.FILE)[0], seconds)
    span = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return f"{share:.0%} of the {span} since the first start were steps that count"
