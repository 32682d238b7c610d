"""The watchdog's second process: ends the first one where its watchdog no longer ticks. Run by watchdog.py alone.

PID SIGNAL FD FILE: the process, the signal that ends it, where its handler writes the stacks, and a copy. Each line on
stdin is a tick: the seconds for which there may be none.
"""

import os
import select
import signal
import sys
import time

TICK = 1.0  # seconds


def running(pid: int) -> bool:
    """Whether a process is not stopped (SIGSTOP, a debugger)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "Tt"
    except OSError:
        return False


def ticked(seconds: float) -> str:
    """What came on stdin in so many seconds; `end` once it is closed."""
    return (os.read(0, 65536).decode() or "end") if select.select([0], [], [], seconds)[0] else ""


def main(pid: int, number: int, stacks: int, file: str) -> None:
    """Watches until one of them ends."""
    limit, still, last = float("inf"), 0.0, time.monotonic()
    while still <= limit:
        text, now = ticked(TICK), time.monotonic()
        if text == "end":
            return
        still, last = still + running(pid) * min(now - last, 2 * TICK), now
        if text.endswith("\n"):
            limit, still = float(text.split()[-1]), 0.0
    head = f"watchdog: no thread of Python's ran for {still:.0f} s, limit {limit:.0f} s. The stacks of all threads:\n"
    os.kill(pid, number)
    if ticked(10.0) != "end":
        os.kill(pid, signal.SIGKILL)
    text = head + os.pread(stacks, 1 << 20, 0).decode(errors="replace")
    sys.stderr.write(text)
    try:
        with open(file, "w", encoding="utf-8") as copy:
            copy.write(text)
        where = f"stacks are in {file}"
    except OSError as error:
        where = f"{file} cannot be written: {error.strerror}"
    sys.stderr.write(f"error: watchdog: the process hangs; {where}; exit status {number}\n")


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for the first process
        signal.signal(each, signal.SIG_IGN)
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
