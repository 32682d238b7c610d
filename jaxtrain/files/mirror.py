"""Files that grow, in a bucket: object stores have no append, so they are written here and uploaded whole."""

import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from jaxtrain.config import ConfigError, Failure
from jaxtrain.files import paths

UPLOAD_EVERY = 60.0  # seconds: what a process that is killed may lose


class Mirror:
    """A folder of this machine whose files a bucket's folder has as of the last upload, at most UPLOAD_EVERY ago.

    `names`: files that are there already and are written on. Call `close` at the end.
    """

    def __init__(self, target: Path, names: Sequence[str] = ()):
        self._target, self._uploaded = target, {}
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        for name in names:
            if (target / name).exists():
                (self.folder / name).write_bytes((target / name).read_bytes())
        self._one = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def upload(self) -> None:
        """Uploads the files that have changed. Raises Failure where the bucket cannot be written."""
        with self._one:
            states = {file: file.stat() for file in sorted(self.folder.rglob("*")) if file.is_file()}
            now = {
                str(file.relative_to(self.folder)): (stat.st_size, stat.st_mtime_ns)
                for file, stat in states.items()
            }
            paths.upload(self.folder, self._target, [n for n in now if self._uploaded.get(n) != now[n]])
            self._uploaded = now

    def close(self) -> None:
        """Uploads what is left, and removes the folder."""
        self._closed.set()
        self._thread.join()
        self.upload()
        self._temporary.cleanup()

    def _keep(self) -> None:
        while not self._closed.wait(UPLOAD_EVERY):
            try:
                self.upload()
            except (ConfigError, Failure) as error:  # tried again; the last try, in close, is not caught
                print(f"not uploaded yet: {error}", file=sys.stderr, flush=True)
