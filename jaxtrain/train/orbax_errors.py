"""What Orbax and tensorstore print of a save or a read that fails: tracebacks, for a file in the workdir.

They would come before our own message, and hide it.
"""

import collections
import functools
import logging
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from jaxtrain import signals

FILE = "save_errors.txt"  # in the workdir
_printed: collections.deque[str] = collections.deque(maxlen=100)


@functools.cache
def collect() -> None:
    """From now on keeps the errors that Orbax logs, and those of its threads and reads, in place of stderr.

    A read that fails leaves others pending. They raise in threads of C++, and where Python collects their coroutines.
    """
    before = sys.unraisablehook

    def hook(args: Any) -> None:
        if threading.current_thread() is threading.main_thread() and not _is_coroutine_of_orbax(args.object):
            before(args)
        else:
            _printed.append(
                "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
            )

    def is_printed(record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or "orbax" not in record.pathname:
            return True
        _printed.append(logging.Formatter("%(levelname)s %(message)s").format(record))
        return False

    sys.unraisablehook = hook
    logging.getLogger("absl").addFilter(is_printed)


def innermost(error: BaseException) -> BaseException:
    """The error that all others were raised from. Raises it where it is a signal's: Orbax makes of any an Exception."""
    if isinstance(signal := signals.behind(error), KeyboardInterrupt):
        raise signal
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def write(workdir: Path) -> tuple[str, str]:
    """(a sentence that says where the tracebacks are, the tracebacks themselves where no file could be written)."""
    text = "\n".join(_printed)
    _printed.clear()
    if not text:
        return "", ""
    try:
        (workdir / FILE).write_text(text, encoding="utf-8")
    except OSError:
        return "", text
    return f" The tracebacks of Orbax are in {workdir / FILE}.", ""


def _is_coroutine_of_orbax(value: Any) -> bool:
    code = getattr(value, "cr_code", None)
    return code is not None and "orbax" in code.co_filename
