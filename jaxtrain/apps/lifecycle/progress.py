"""Progress of all stages: a table with a row a stage, or plain lines where the output is no terminal."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxtrain.apps.lifecycle import plan
from jaxtrain.apps.lifecycle.plan import LifecycleStep


class ProgressTable:
    """The state of each stage, updated by `start` and `finish`."""

    def __init__(self, steps: Sequence[LifecycleStep], folder: Path, done: set[str], live, heading: str = ""):
        self._steps, self._folder, self._live, self._heading = steps, folder, live, heading
        self._titles = {step.name: step.title for step in steps}
        self._started: dict[str, float] = {}
        self._seconds: dict[str, float | None] = dict.fromkeys(done)
        if heading and not live:
            print(f"{heading}:", flush=True)
        for step in steps:
            if step.name in done and not live:
                print(f"{step.title}: was trained before", flush=True)

    def start(self, name: str) -> None:
        """Notes that a stage, or the sampling of its completions, has started."""
        self._started[name] = time.monotonic()
        if not self._live and name in self._titles:
            print(f"{self._titles[name]} ...", flush=True)

    def finish(self, name: str, seconds: float) -> None:
        """Notes that a stage, or the sampling of its completions, has finished."""
        self._seconds[name] = seconds
        if not self._live and name in self._titles:
            print(f"{self._titles[name]}: {seconds:.0f} s", flush=True)

    def tick(self) -> None:
        """Redraws the table."""
        if self._live:
            self._live.update(self._table(), refresh=True)

    def _table(self):
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column(no_wrap=True)
        if self._heading:
            table.add_row(f"[bold]{self._heading}[/]")
        for step in self._steps:
            if step.name in self._seconds:
                took = self._seconds[step.name]
                time_text = "trained before" if took is None else f"{took:.0f} s"
                sampled = plan.SAMPLED + step.name
                sampling = (
                    "completions ..." if sampled in self._started and sampled not in self._seconds else ""
                )
                bar = ProgressBar(total=1, completed=1, width=20)
                table.add_row(f"[green]✓[/] {step.title}", bar, time_text, sampling)
            elif step.name in self._started:
                at, total, loss = self._at(step)
                elapsed = time.monotonic() - self._started[step.name]
                bar = ProgressBar(total=total or 1, completed=at, width=20, pulse=not at)
                table.add_row(f"[bold]▸ {step.title}[/]", bar, f"{elapsed:.0f} s", loss)
            else:
                table.add_row(f"[dim]· {step.title}[/]", ProgressBar(total=1, completed=0, width=20), "", "")
        return table

    def _at(self, step: LifecycleStep) -> tuple[int, int | None, str]:
        folder = self._folder / step.name
        metrics = plan.latest(plan.rows(folder))
        loss = f"loss {metrics['loss']:.3f}" if "loss" in metrics else ""
        return int(metrics.get("step", 0)), plan.total(folder), loss


@contextlib.contextmanager
def show_progress(
    steps: Sequence[LifecycleStep], folder: Path, done: set[str], heading: str = ""
) -> Iterator[ProgressTable]:
    """The progress of all stages, until the context ends; `heading` says of which seed."""
    if not sys.stderr.isatty():
        yield ProgressTable(steps, folder, done, None, heading)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield ProgressTable(steps, folder, done, live, heading)
