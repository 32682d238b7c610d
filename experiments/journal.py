"""Work that is done a batch at a time, kept in a file as it is done, so that a process killed at any point goes on."""

import json
import os
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.config import ConfigError, ConfigT


class Journal:
    """A file of JSON lines: the config, then a line a batch. A line counts once it is whole and on the disk.

    Raises ConfigError where the file is another command's, with what differs.
    """

    def __init__(self, path: Path, cfg: ConfigT):
        self._path, self.batches = path, []
        lines = (
            path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        )  # what has no end was torn by a kill
        if lines:
            head, *self.batches = (self._read(i, line) for i, line in enumerate(lines))
            if changed := config.difference(head["config"], cfg):
                raise ConfigError(
                    "\n  ".join([f"{path} is of another command; name another --out, or:", *changed])
                )
        with path.open("ab") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write({"config": config.to_dict(cfg)})

    def add(self, batch: dict[str, Any]) -> None:
        self._write(batch)
        self.batches.append(batch)

    def remove(self) -> None:
        self._path.unlink()

    def _write(self, value: dict[str, Any]) -> None:
        with self._path.open("ab") as file:
            file.write(json.dumps(value, ensure_ascii=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, i: int, line: bytes) -> dict[str, Any]:
        try:
            return json.loads(line)
        except ValueError as error:
            raise ConfigError(
                f"{self._path}:{i + 1} is damaged ({error}): remove the file to begin anew; what endpoints answered is "
                "in the request cache"
            ) from error


def write_whole(path: Path, text: str) -> None:
    """The file has its name once it is whole and on the disk."""
    part = path.with_name(f"{path.name}.tmp")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
