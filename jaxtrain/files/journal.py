"""A journal of finished batches of work, from which a process that was killed at any point resumes."""

import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.config import ConfigError, ConfigT
from jaxtrain.files import checksums


class Journal:
    """A file of JSON lines: the config, then a line a batch. A line counts once it is whole and on the disk.

    Each line has its checksum. `run` is a random name of all the work, the same in every process that resumes it.
    Raises ConfigError where another process writes it, where it is damaged, or where it is another command's, with the
    differences.
    """

    def __init__(self, path: Path, cfg: ConfigT):
        self._path, self._file, self.batches = path, path.open("ab+"), []
        self.run = uuid.uuid4().hex
        try:
            self._open(cfg)
        except BaseException:
            self.close()
            raise

    def add(self, batch: dict[str, Any]) -> None:
        """Appends a batch; it is on the disk when this returns."""
        self._write(batch)
        self.batches.append(batch)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Deletes the file, when all work is done."""
        self._path.unlink()
        self.close()

    def _open(self, cfg: ConfigT) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{self._path}: another process writes it; wait for it, or name another --out"
            ) from error
        self._file.seek(0)
        lines = self._file.read().split(b"\n")[:-1]  # the last one is empty, or cut off by a kill
        self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write({"config": config.to_dict(cfg), "run": self.run})
            return
        head, *self.batches = (self._read(i, line) for i, line in enumerate(lines))
        self.run = head.get("run", self.run)  # that of an earlier release has none
        if changed := config.difference(head["config"], cfg):
            raise ConfigError(
                "\n  ".join([f"{self._path} is of another command; name another --out, or:", *changed])
            )

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(checksums.sealed(value), ensure_ascii=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, i: int, line: bytes) -> dict[str, Any]:
        try:
            return checksums.unsealed(json.loads(line))
        except ValueError as error:
            raise ConfigError(
                f"{self._path}:{i + 1} is damaged ({error}): remove the file to start again; responses of endpoints "
                "are in the request cache"
            ) from error
