"""Metrics of a run while it trains: means, speed, metrics.jsonl, TensorBoard events and the progress bar.

rich and tensorboardX are imported when first needed, so that nothing here delays the first step.
"""

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from jaxtrain.config import ConfigT, fixed_flags, is_remote
from jaxtrain.files import atomic, progress
from jaxtrain.files.mirror import Mirror
from jaxtrain.train.metric_names import is_training
from jaxtrain.train.tensorboard import FOLDER, EventWriter
from jaxtrain.train.trackers import TrackerWriter

FILE, UNREADABLE = "metrics.jsonl", "metrics.jsonl.unreadable"

# Peak dense bf16 FLOP/s of one device, by the start of jax's `device_kind`; the longest match counts.
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,  # SXM
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "TPU v4": 275e12,
    "TPU v5": 459e12,  # v5p
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def of_kind(table: Mapping[str, float], device_kind: str) -> float | None:
    """The value of a table whose keys are the starts of jax's `device_kind`; the longest match counts."""
    words = device_kind.replace("-", " ").split()  # "NVIDIA A100-SXM4-80GB"
    known = [name for name in table if words[: len(name.split())] == name.split()]
    return table[max(known, key=len)] if known else None


def peak_flops(device_kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of a device, None where it is not known (a CPU, another accelerator)."""
    return of_kind(PEAKS, device_kind)


class MetricMean:
    """Means over the steps between two lines of metrics: Σ sums / Σ counts of each name.

    `sums`, name -> [sum, count], is plain JSON: kept in a checkpoint's meta, it lets a resumed run go on
    inside a half-full window.
    """

    def __init__(self, sums: Mapping[str, list[float]] | None = None):
        self.sums = {name: list(pair) for name, pair in (sums or {}).items()}

    def add(self, metrics: Mapping[str, tuple[Any, Any]]) -> None:
        """Adds one step's {name: (sum, count)}."""
        for name, (total, count) in metrics.items():
            pair = self.sums.setdefault(name, [0.0, 0.0])
            pair[0] += float(total)
            pair[1] += float(count)

    def take(self) -> dict[str, float]:
        """The means since the last call, NaN where nothing was counted; starts again."""
        sums, self.sums = self.sums, {}
        return {name: total / count if count else math.nan for name, (total, count) in sums.items()}


class SpeedMeter:
    """Steady speed: the first step (compilation) and everything inside `pause` do not count.

    flops: model FLOPs of one step, over all devices. peak: FLOP/s of all devices together, None where it is
    not known. Call `step` when a step's result has arrived, not when it was dispatched.
    """

    def __init__(self, flops: float, peak: float | None, clock: Callable[[], float] = time.perf_counter):
        self._flops, self._peak, self._clock = flops, peak, clock
        self._since: float | None = None  # start of the time that is not yet counted
        self._window = [0, 0, 0.0]  # steps, tokens, seconds since `take`
        self._total = [0, 0, 0.0]

    def step(self, tokens: int) -> None:
        """One more step has finished, of this many tokens over all devices."""
        now = self._clock()
        if self._since is not None:
            for sums in (self._window, self._total):
                sums[0] += 1
                sums[1] += tokens
                sums[2] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time in here (an evaluation, a checkpoint, samples) is not training time."""
        begun = self._clock()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += self._clock() - begun

    def take(self) -> dict[str, float]:
        """Rates since the last call: tokens_per_s, step_time (s), flops_per_s, and mfu (0 to 1) if the peak
        is known.
        """
        window, self._window = self._window, [0, 0, 0.0]
        return self._rates(*window)

    def total(self) -> dict[str, float]:
        """The same rates over the whole run."""
        return self._rates(*self._total)

    def _rates(self, steps: int, tokens: int, seconds: float) -> dict[str, float]:
        if not seconds:
            return {}
        flops = self._flops * steps / seconds
        rates = {"tokens_per_s": tokens / seconds, "step_time": seconds / steps, "flops_per_s": flops}
        return {**rates, "mfu": flops / self._peak} if self._peak else rates


class MetricWriter:
    """Appends to metrics.jsonl, one JSON object a line, and to TensorBoard events. A context manager.

    start_step: the step restored, 0 for a fresh start. Lines of later steps are dropped, on a fresh start all
    lines: those steps run again. `again`: so does the evaluation of start_step. So write what belongs to step k before
    the checkpoint of step k, and a resumed run's file equals an uninterrupted one's, apart from metric_names.TIMES. A
    line that a crash tore is moved to metrics.jsonl.unreadable. `note` says in words what was dropped, empty if nothing
    was. NaN and infinities become null, since JSON has none; TensorBoard keeps them. The flags of `config` are
    TensorBoard's hyper-parameters; `tracker` gets the same lines and texts. Only the `primary` process writes. In a
    bucket the files appear as of the last `sync` or interval of Mirror's.
    """

    def __init__(
        self, workdir: Path, start_step: int, config: ConfigT = None, tracker: TrackerWriter | None = None, *,
        primary: bool = True, again: bool = False,
    ):  # fmt: skip
        self._workdir, self._start, self._primary, self._tracker = workdir, start_step, primary, tracker
        self._flags = fixed_flags(config) if config else {}
        self._events, self._mirror = None, None
        if primary and is_remote(workdir):
            self._mirror = Mirror(workdir, (FILE, UNREADABLE))
            self._workdir = self._mirror.folder
        self.note = _rewind(self._workdir / FILE, start_step, again) if primary else ""
        # Unbuffered: a line is handed to the kernel whole, and survives the death of this process.
        self._file = open(self._workdir / FILE, "ab", buffering=0) if primary else None  # noqa: SIM115

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line with `step`, `time` (seconds since 1970) and these values, and their events in TensorBoard."""
        if self._file is None:
            return
        plain = {name: v if isinstance(v, int) else float(v) for name, v in values.items()}
        row = {"step": step, "time": round(time.time(), 3)}
        row |= {name: value if math.isfinite(value) else None for name, value in plain.items()}
        _append(self._file, json.dumps(row, allow_nan=False).encode() + b"\n")
        self._board().write(step, plain)
        if self._tracker is not None:
            self._tracker.write(step, plain)

    def text(self, step: int, name: str, text: str) -> None:
        """A text, such as a sample, in TensorBoard and the trackers; shown as it is, not as Markdown."""
        if self._primary:
            self._board().text(step, name, text)
            if self._tracker is not None:
                self._tracker.text(step, name, text)

    def _board(self) -> EventWriter:
        if self._events is None:
            rows = read_rows(self._workdir / FILE)[0] if self._start else ()
            trained = frozenset(name for row in rows if is_training(row) for name in row)
            self._events = EventWriter(self._workdir / FOLDER, self._start, self._flags, trained)
        return self._events

    def sync(self) -> None:
        """Uploads both to a workdir in a bucket. Call it before a checkpoint, which goes on from what was written."""
        if self._mirror is not None:
            if self._events is not None:
                self._events.flush()
            self._mirror.upload()

    def close(self) -> None:
        """Flushes and closes both."""
        if self._events is not None:
            self._events.close()
        if self._file is not None:
            self._file.close()
        if self._mirror is not None:
            self._mirror.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _append(file, line: bytes) -> None:
    try:
        written = file.write(line)
    except OSError as error:
        raise OSError(error.errno, f"cannot append to the metrics: {error.strerror}", file.name) from error
    if written != len(line):
        raise OSError(errno.ENOSPC, "cannot append to the metrics: no space left", file.name)


def _rewind(file: Path, step: int, again: bool = False) -> str:
    """Drops the lines after `step`, all lines if it is 0, replacing the file as a whole. Returns what was
    dropped. `again`: of the step itself only the line of training stays, which alone has its learning rate.
    """
    if not file.exists():
        return ""
    later, torn = 0, []
    with open(file, "rb") as lines, atomic.replacing(file) as out, contextlib.ExitStack() as stack:
        aside = None
        for number, line in enumerate(lines, 1):
            at = _step_of(line)
            evaluation = again and at == step and "lr" not in json.loads(line)
            if at is None:
                torn.append(number)
                aside = aside or stack.enter_context(open(file.with_name(UNREADABLE), "ab"))
                aside.write(line.rstrip(b"\n") + b"\n")
            elif at > step or step == 0 or evaluation:
                later += 1
            else:
                out.write(line.rstrip(b"\n") + b"\n")
    again_from = (
        f"after step {step} dropped, these steps run again" if step else "dropped: the run had saved no step"
    )
    notes = [f"{later} lines {again_from}"] if later else []
    notes += [f"{len(torn)} unreadable lines moved to {UNREADABLE}, {line_numbers(torn)}"] if torn else []
    return f"{FILE}: {'; '.join(notes)}" if notes else ""


def read_rows(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """(the lines of a metrics.jsonl, the numbers of those that cannot be read); of a last one under way neither."""
    rows, torn = [], []
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True) if file.exists() else (), 1):
        if _step_of(line) is not None:
            rows.append(json.loads(line))
        elif line.endswith(b"\n"):
            torn.append(number)
    return rows, torn


def line_numbers(numbers: Sequence[int]) -> str:
    """Numbers of lines in words; of many the first ones."""
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:5]))}{more}"


def _step_of(line: bytes) -> int | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None


class TrainingProgress:
    """The progress of a run on `stream` (stdout): a bar on a terminal, else plain lines at widening
    intervals.

    Plain lines are at most 25 · (1 + ln(steps / 25)), some 290 for a million steps. Use as a context manager.
    """

    def __init__(self, total: int, start: int = 0, *, show: bool = True, stream: TextIO | None = None):
        self._total, self._start, self._show, self._stream = total, start, show, stream or sys.stdout
        self._bar = show and self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._live: Any = None
        self._step, self._fields = start, []
        self._first: tuple[int, float] | None = None  # step and time of the first update
        self._next = start  # step from which a next plain line is due
        self._drawn = 0.0

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
            self._live = Live(self._render(console.width), console=console, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """`step` steps are done. `values` are shown in their order; without them only the bar moves.

        tokens_per_s, flops_per_s and mfu are shown with their units, other names as they are.
        """
        now = time.monotonic()
        self._first = self._first or (step, now)
        self._step = step
        if values is not None:
            self._fields = [_field(name, value) for name, value in values.items()]
        if self._live is not None:
            if now - self._drawn > 0.1 or step >= self._total:
                self._drawn = now
                self._draw()
        elif self._show and values is not None and (step >= self._next or step >= self._total):
            self._next = step + 1 + (step - self._start) // 25
            self.print("  ".join([f"step {step}/{self._total}", *self._fields, self._eta()]))

    def print(self, text: str) -> None:
        """A message, above the bar. Control characters, which model output may hold, are shown escaped."""
        if not self._show:
            return
        text = _printable(text, getattr(self._stream, "encoding", None) or "utf-8")
        if self._live is not None:
            self._live.console.print(text, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)
            progress.line_printed()

    def _eta(self) -> str:
        if self._first is None or self._step == self._first[0]:
            return "ETA -"
        step, begun = self._first
        left = (time.monotonic() - begun) / (self._step - step) * (self._total - self._step)
        return f"ETA {_duration(left)}"

    def _draw(self) -> None:
        self._live.update(self._render(self._live.console.width), refresh=True)

    def _render(self, width: int) -> Any:
        """One line: step, bar, fields, ETA. What does not fit is left out, the last fields first."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        left, fields, eta = f"{self._step}/{self._total}", list(self._fields), self._eta()
        while fields and len("  ".join([left, *fields, eta])) + 4 > width:
            fields.pop()
        row = Table.grid(expand=True, padding=(0, 1))
        row.add_column(no_wrap=True)
        row.add_column(ratio=1, min_width=4)
        row.add_column(no_wrap=True)
        row.add_row(
            Text(left),
            ProgressBar(total=self._total, completed=self._step),
            Text("  ".join([*fields, eta])),
        )
        return row


def _field(name: str, value: float) -> str:
    if name == "tokens_per_s":
        return f"{_short(value)} tok/s"
    if name == "flops_per_s":
        return f"{_short(value)}FLOP/s"
    if name == "mfu":
        return f"MFU {value:.0%}" if value >= 0.1 else f"MFU {value:.1%}"
    return f"{name} {value}" if isinstance(value, int) else f"{name} {value:#.4g}"


def _short(value: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02}h" if days else f"{hours}:{minutes:02}:{seconds:02}"


def _printable(text: str, encoding: str) -> str:
    shown = "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
