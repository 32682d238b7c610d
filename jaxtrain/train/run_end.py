"""How a run ends before its last step: the watchdog, a signal before its first step, a full disk."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jaxtrain import full_disk, signals
from jaxtrain.config import StageConfig
from jaxtrain.train import watchdog, workdir


@contextlib.contextmanager
def explained(cfg: StageConfig, path: Path, process: int) -> Iterator[None]:
    """The run of a workdir, under the watchdog. What ends it says from where the same command goes on."""

    def safe() -> str:
        step = 0 if cfg.run.dry_run else workdir.newest_step(path)
        if not step:
            return (
                "no step is saved yet: the same command starts again, and prepared data is not prepared again"
            )
        return f"step {step} of {cfg.run.steps} is saved in {path}: the same command goes on from there"

    with watchdog.watch(cfg.run.timeout(), path, process), signals.explaining(safe):
        try:
            yield
        except OSError as error:
            if full_disk.is_full(error):
                error.add_note(safe())
            raise
