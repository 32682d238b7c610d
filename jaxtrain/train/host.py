"""The host process: settings of its memory and clock that training on a CPU feels."""

import contextlib
import ctypes
import os
import sys
import time
from pathlib import Path

# Control groups, versions 2 and 1.
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed, where JAX_PLATFORMS=cpu. Returns whether it took the settings.

    XLA:CPU allocates its scratch buffer anew at every step, hundreds of MB, which malloc by default maps from the
    system and gives back: 100,000 page faults a step, a fifth of its CPU time. Call it before there are threads: one
    that has a heap of its own by then goes on mapping.
    """
    if sys.platform != "linux" or os.environ.get("JAX_PLATFORMS") != "cpu":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return all(
        mallopt(name, value) for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))
    )


def seconds_since_start() -> float:
    """Seconds since the kernel started this process; NaN where that is not known (outside Linux)."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
            return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except OSError:
        return float("nan")


def peak_memory() -> int:
    """Most bytes of memory this process has held at once."""
    import resource  # not on every platform

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def memory() -> int | None:
    """Bytes of memory of this machine, or of the container that this process runs in; None where it is not known."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not on every platform
        return None
    for limit in _CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or `max`: no limit
            found = min(found, int(Path(limit).read_text()))
    return found


def clocks() -> tuple[float, float]:
    """(wall, own CPU) seconds."""
    return time.perf_counter(), time.process_time()
