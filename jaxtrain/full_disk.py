"""What to do where a file cannot grow: a full disk, a quota, a limit on the size of files."""

import errno
import os
import shutil
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
AGAIN = "then run the same command again"


def is_full(error: BaseException) -> bool:
    """Whether an error is of a file that could not grow."""
    return isinstance(error, OSError) and error.errno in _FULL


def too_large(error: BaseException | str) -> bool:
    """Whether an error, of Python or in the words of a library, is of a file that may not be so large."""
    return getattr(error, "errno", None) == errno.EFBIG or os.strerror(errno.EFBIG) in str(error)


def remedy(path: Path | str, error: BaseException | str) -> str:
    """What to do about it, for a message: how much room is there, and how to make more."""
    if too_large(error):
        import resource

        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if most == resource.RLIM_INFINITY:
            return f"No file there may be so large: name another disk, {AGAIN}"
        return f"Files may have at most {most:,} bytes here (ulimit -f): raise that to make room, {AGAIN}"
    folder = Path(path)
    while not folder.is_dir():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB are free there: make room, {AGAIN}"
