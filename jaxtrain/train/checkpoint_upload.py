"""Checkpoints in a bucket that Orbax cannot write (s3://): saved on this machine's disk, uploaded in the background.

The objects of a checkpoint are visible one by one. It counts as complete once it has the file COMMITTED, the last one.
"""

import concurrent.futures
import tempfile
from collections.abc import Callable
from pathlib import Path

from jaxtrain.files import paths
from jaxtrain.train.best_checkpoint import Retain
from jaxtrain.train.workdir import COMMITTED, saved_steps


def needs_upload(folder: Path) -> bool:
    """Whether Orbax cannot write to a folder: its array driver speaks gs:// and disks, and of 0.12 no s3://."""
    return str(folder).startswith("s3://")


class Upload:
    """The uploads of one run's checkpoints from `folder`, on this machine, to `target`."""

    def __init__(self, target: Path):
        self._target = target
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._last: concurrent.futures.Future[None] | None = None

    def start(self, step: int, saved: Callable[[], None], retain: Retain) -> None:
        """Starts the upload of a step; `saved` blocks until it is complete on this machine's disk.

        Then the steps of the target that are not in `retain(all steps)` are deleted.
        """
        self._last = self._pool.submit(self._upload, step, saved, retain)

    def wait(self) -> None:
        """Blocks until the upload is complete, and raises what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Removes the copies on this machine's disk."""
        self._pool.shutdown()
        self._temporary.cleanup()

    def _upload(self, step: int, saved: Callable[[], None], retain: Retain) -> None:
        saved()
        folder, target = self.folder / str(step), self._target / str(step)
        (folder / COMMITTED).unlink(missing_ok=True)
        paths.upload(folder, target)
        (target / COMMITTED).write_text("")
        steps = saved_steps(self._target)
        for old in sorted(set(steps).difference(retain(steps))):
            (self._target / str(old) / COMMITTED).unlink()
            paths.remove_tree(self._target / str(old))
