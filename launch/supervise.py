#!/usr/bin/env python3
"""Runs a command, and runs it again when it fails.

  launch/supervise.py [options] -- launch/run pretrain --workdir=runs/a

A stage resumes from its last checkpoint, so running the same command again loses little. Exit status 2 says
that it would fail again (a wrong flag, a workdir of another config): it is not repeated. 42 is the watchdog's: the
command hung, and has written where. --max-restarts bounds the restarts in a row; with --workdir among the command's
flags a run that has saved a new checkpoint counts as progress. SIGTERM, SIGINT and SIGHUP are passed on, and end the
supervision; a command that has not ended --stop-within seconds later is killed. Needs Python 3.8 and nothing else.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time

SAME_AGAIN, HUNG = 2, 42
LONGEST_WAIT = 300.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def say(message: str) -> None:
    print(f"supervise: {message}", file=sys.stderr, flush=True)


def newest_step(command: list) -> int:
    """The newest checkpoint in the folder that the command's --workdir names; -1 where that is not known."""
    folders = [word.partition("=")[2] for word in command if word.startswith("--workdir=")]
    try:
        steps = [int(name) for name in os.listdir(os.path.join(folders[-1], "checkpoints")) if name.isdigit()]
    except (IndexError, OSError):
        return -1
    return max(steps, default=-1)


def run(command: list, received: list, stop_within: float) -> int:
    """Runs the command once, passing signals on; its exit status, 128 + n when signal n ended it."""
    # A session of its own: the terminal's Ctrl-C would reach it a second time.
    within = {"JAXTRAIN_STOP_WITHIN": str(max(1, int(stop_within)))}  # a long step ends by itself before that
    child = subprocess.Popen(command, start_new_session=True, env={**within, **os.environ})
    passed_on, until = 0, 0.0
    while True:
        for number in received[passed_on:]:
            child.send_signal(number)
            passed_on += 1
            until = until or time.monotonic() + stop_within
        if until and time.monotonic() > until:
            say(f"the command has not ended {stop_within:g} s after a signal; killing it")
            os.killpg(child.pid, signal.SIGKILL)
        try:
            status = child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
        return status if status >= 0 else 128 - status


def supervise(
    command: list, max_restarts: int, backoff: float, healthy_after: float, stop_within: float
) -> int:
    """The exit status of the last run. One of `healthy_after` seconds, or with a new checkpoint, starts the count anew.

    One that hung is `healthy` by its checkpoints alone: it has lasted as long as its watchdog waits.
    """
    received: list = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
    restarts = 0
    while True:
        start, saved = time.monotonic(), newest_step(command)
        status = run(command, received, stop_within)
        lasted = time.monotonic() - start
        if status in (0, SAME_AGAIN) or received:
            return status
        if newest_step(command) > saved or (lasted >= healthy_after and status != HUNG):
            restarts = 0
        why = " (it hung)" if status == HUNG else ""
        if restarts == max_restarts:
            say(
                f"exit status {status}{why} after {lasted:.0f} s; giving up after {restarts} restarts in a row"
            )
            return status
        wait = min(backoff * 2**restarts, LONGEST_WAIT)
        restarts += 1
        say(
            f"exit status {status}{why} after {lasted:.0f} s; restart {restarts} of {max_restarts} in {wait:g} s"
        )
        until = time.monotonic() + wait
        while time.monotonic() < until and not received:
            time.sleep(0.1)
        if received:
            return 128 + received[0]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="launch/supervise.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--dry-run", action="store_true", help="print the command and stop")
    option("--max-restarts", type=int, default=10, help="restarts in a row (default: 10)")
    option("--backoff", type=float, default=5.0, help="seconds to the first restart; doubles, up to 300")
    option("--healthy-after", type=float, default=600.0, help="a run of so many seconds resets the count")
    option(
        "--stop-within",
        type=float,
        default=300.0,
        help="seconds to save and end after a signal (default: 300)",
    )
    option("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("name a command: launch/supervise.py -- launch/run pretrain")
    if args.dry_run:
        print(shlex.join(command))
        return 0
    try:
        return supervise(command, args.max_restarts, args.backoff, args.healthy_after, args.stop_within)
    except OSError as error:
        say(f"cannot run {command[0]}: {error}")
        return SAME_AGAIN


if __name__ == "__main__":
    sys.exit(main())
