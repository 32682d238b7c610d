"""Errors of damaged TFDS data sets: TFDS, protobuf and array_record raise types of every kind, without the file."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError

_BLOCK = 1024  # records read at once
_MOST = 1 << 33  # bytes


@contextlib.contextmanager
def explained(folder: str | Path, record: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turns what reading a prepared data set raises into a ConfigError that names its folder and the damaged file.

    `record` returns the name of the one that was read, where no file is damaged.
    """
    from google.protobuf import json_format, message

    types = (RuntimeError, ValueError, LookupError, OSError, AssertionError, TypeError, AttributeError)
    try:
        yield
    except (*types, message.Error, json_format.Error) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ConfigError(
            f"{_damaged(Path(folder)) or f'{folder}{record()}'}: it cannot be read ({why}). Restore it from a copy, or "
            f"delete {folder} and prepare the data set again"
        ) from error


def check_lengths(folder: str | Path, splits: Iterable[Any]) -> None:
    """Raises ConfigError where a file of the splits has more or fewer records than dataset_info.json says.

    TFDS reads as many as that says, and would leave the others unread.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    for split in splits:
        with explained(folder):
            counts = [
                (path, length, ArrayRecordReader(str(path), "readahead_buffer_size:0").num_records())
                for path, length in zip(split.filepaths, split.shard_lengths, strict=True)
            ]
        for path, length, there in counts:
            if there != length:
                raise ConfigError(
                    f"{path}: it has {there:,} records, dataset_info.json says {length:,}. Restore it from a copy, "
                    f"or delete {folder} and prepare the data set again"
                )


def _damaged(folder: Path) -> Path | None:
    """The first file of a data set whose damage shows when it is read by itself; None where it is not known."""
    from array_record.python.array_record_module import ArrayRecordReader

    for name in ("dataset_info.json", "features.json"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return folder / name
    read = 0
    for path in sorted(folder.glob("*array_record*")):
        try:
            reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
            if not reader.num_records():
                return path
            for first in range(0, reader.num_records(), _BLOCK):
                reader.read(first, min(first + _BLOCK, reader.num_records()))
        except (RuntimeError, ValueError, IndexError):
            return path
        read += path.stat().st_size
        if read > _MOST:  # a search that takes longer than a minute; the folder is named
            return None
    return None
