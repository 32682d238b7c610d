"""A file's lock, which the kernel frees when its process ends, kill -9 included."""

import contextlib
import datetime
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxtrain.config import ConfigError


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def this_process() -> str:
    """This process as the message to another one names it."""
    return f"process {os.getpid()} on {socket.gethostname()}, since {now()}"


@contextlib.contextmanager
def exclusive(file: Path, folder: Path, flag: str = "workdir") -> Iterator[None]:
    """Holds the lock `file`, whose text names the holder; its folder is made.

    Raises ConfigError where another process has it, where the folder cannot be made, or where the file system has no
    locks; the message names `folder`, the value of --`flag`.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = open(file, "a+", encoding="utf-8")  # noqa: SIM115  (closed below; appending keeps what the holder wrote)
    except OSError as error:
        raise ConfigError(f"--{flag}={folder} cannot be used: {error.strerror or error}") from error
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            opened.seek(0)
            holder = opened.read().strip() or "a process that has only just started"
            raise ConfigError(
                f"--{flag}={folder} is in use by {holder}: "
                f"wait for it to end, stop it, or name another --{flag}"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"--{flag}={folder}: its file system has no locks ({error.strerror}), so two runs could write there at "
                "once: name a folder on another disk, or, of a bucket that is mounted, its address, gs://BUCKET/PATH"
            ) from error
        opened.truncate(0)
        opened.write(f"{this_process()}\n")
        opened.flush()
        yield
