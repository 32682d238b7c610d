"""The faults, as data: what each does to a command, and what must hold after it."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxtrain.apps.soak import events
from jaxtrain.apps.soak.attempt import TRACEBACK, Attempt, described, event_fault, named, unexplained
from jaxtrain.apps.soak.observe import TOLERANCE
from jaxtrain.apps.soak.reference import STOPS
from jaxtrain.apps.soak.warm import Ended, Injected
from jaxtrain.train import orbax_errors

Injection = Callable[[Attempt], tuple[str, str]]  # -> (what was done, why it did not hold)

# Files whose damage loses what they show and nothing else: they are no state, and no digest covers them.
SHOWN = ("metrics.jsonl", "tensorboard", "samples", "logs", "lock")
FLIPS = (1, 1, 1, 2, 8)  # bits of one flip
_MOST = 1 << 30  # bytes of a disk that has room again
_PROGRAMS = 3  # compiled programs among the files of which one is damaged
_PAGE = 4096  # bytes that a file is rounded up to


class Fault(NamedTuple):
    """A fault. `share` is how often it comes beside the others; `training`: whether it is for training stages alone."""

    name: str
    inject: Injection
    share: int
    training: bool = False


def kill_at_event(attempt: Attempt) -> tuple[str, str]:
    """kill -9 once, twice or three times, each at an event; then the same command."""
    attempt.reset()
    what = []
    for _ in range(attempt.rng.choice((1, 1, 2, 3))):
        when, injected = event_fault(attempt, events.kill)
        what.append(f"{when.kind} {when.count}")
        ended = attempt.run(injected)
        if ended.status not in (0, 128 + signal.SIGKILL) and not attempt.was_done(ended):
            return ", ".join(what), f"before the kill: {described(ended)}"
    return ", ".join(what), attempt.resume()


def kill_at_time(attempt: Attempt) -> tuple[str, str]:
    """kill -9 at a time: it meets what compiled code writes."""
    attempt.reset()
    moment = attempt.moment()
    ended = attempt.run(Injected(signals=[(moment, signal.SIGKILL)]))
    if ended.status not in (0, 128 + signal.SIGKILL):
        return f"{moment:.2f} s", f"before the kill: {described(ended)}"
    return f"{moment:.2f} s", attempt.resume()


def kill_real(attempt: Attempt) -> tuple[str, str]:
    """kill -9 of a process that Python started afresh, as a user does."""
    attempt.reset()
    moment = attempt.rng.uniform(1.0, 6.0 + attempt.reference.seconds)
    ended = attempt.run(Injected(signals=[(moment, signal.SIGKILL)], afresh=True))
    if ended.status not in (0, 128 + signal.SIGKILL):
        return f"{moment:.2f} s", f"before the kill: {described(ended)}"
    return f"{moment:.2f} s", attempt.resume(injected=Injected(afresh=True))


def _after_sigterm(attempt: Attempt, ended: Ended) -> str:
    if ended.status not in (0, 128 + signal.SIGTERM) or TRACEBACK in ended.output:
        return f"after SIGTERM: {described(ended)}"
    return attempt.resume()


def sigterm_at_event(attempt: Attempt) -> tuple[str, str]:
    """SIGTERM at an event."""
    attempt.reset()
    when, injected = event_fault(attempt, events.signalled(signal.SIGTERM))
    return f"{when.kind} {when.count}", _after_sigterm(attempt, attempt.run(injected))


def sigterm_at_time(attempt: Attempt) -> tuple[str, str]:
    """SIGTERM at a time."""
    attempt.reset()
    moment = attempt.moment()
    ended = attempt.run(Injected(signals=[(moment, signal.SIGTERM)]))
    return f"{moment:.2f} s", _after_sigterm(attempt, ended)


def frozen(attempt: Attempt) -> tuple[str, str]:
    """SIGSTOP at an event, SIGCONT later: nothing may change."""
    attempt.reset()
    when, injected = event_fault(attempt, events.signalled(signal.SIGSTOP))
    what, ended = f"{when.kind} {when.count}", attempt.run(injected)
    return what, attempt.compare() if ended.status == 0 else described(ended)


def clock_jump(attempt: Attempt) -> tuple[str, str]:
    """The clock jumps at an event, and the times of all files before the command is given again."""
    attempt.reset()
    seconds = attempt.rng.choice(events.JUMPS)
    when, jumped = event_fault(attempt, events.clock_jump(seconds))
    moment = attempt.moment()
    ended = attempt.run(jumped._replace(signals=[(moment, signal.SIGKILL)]))
    what = f"{seconds:g} s at {when.kind} {when.count}, kill at {moment:.2f} s"
    if ended.status not in (0, 128 + signal.SIGKILL):
        return what, f"before the kill: {described(ended)}"
    for path in attempt.here.rglob("*"):
        stat = path.stat()
        os.utime(path, (stat.st_atime + seconds, stat.st_mtime + seconds))
    return what, attempt.resume()


def no_space_at_event(attempt: Attempt) -> tuple[str, str]:
    """From an event on, whatever Python opens for writing, renames or makes fails with ENOSPC; then there is room."""
    attempt.reset()
    when, injected = event_fault(attempt, events.no_space, onward=True)
    ended = attempt.run(injected)
    return f"{when.kind} {when.count}", unexplained(ended) or attempt.resume(but=orbax_errors.FILE)


def file_size_limit(attempt: Attempt) -> tuple[str, str]:
    """RLIMIT_FSIZE: writing beyond a size fails with EFBIG, in compiled code too; then the limit is gone."""
    attempt.reset()
    size = int(4 ** attempt.rng.uniform(4, 9.5))  # 256 bytes to 500 kB

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    ended = attempt.run(Injected(limit))
    return f"{size} bytes", unexplained(ended) or attempt.resume(but=orbax_errors.FILE)


def full_disk(attempt: Attempt) -> tuple[str, str]:
    """run/ and cache/ lie on a tmpfs that fills up; then it has room. Needs the right to mount."""
    share = attempt.rng.uniform(0.0, 1.0)
    with Tmpfs(attempt.here) as disk:
        attempt.reset()
        grown = _pages(attempt.reference.folder / "run") + attempt.cold * _pages(
            attempt.reference.folder / "cache"
        )
        disk.resize(disk.used() + int(share * grown) + _PAGE)
        ended = attempt.run()
        disk.resize(_MOST)
        why = unexplained(ended) or attempt.resume(but=orbax_errors.FILE)
        if why:
            attempt.preserve()
        return f"room for {share:.2f} of {grown} bytes", why


class Tmpfs:
    """A file system in memory at a folder, with a size. Raises CalledProcessError where it cannot be mounted."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __enter__(self) -> "Tmpfs":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={_MOST}", "tmpfs")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True, capture_output=True)

    def resize(self, size: int) -> None:
        """Gives it another size, in bytes."""
        self._mount("-o", f"remount,size={size}")

    def used(self) -> int:
        """Its bytes in use."""
        stat = os.statvfs(self._folder)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self._folder)], check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a file system in memory."""
    try:
        with Tmpfs(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def other_devices(attempt: Attempt) -> tuple[str, str]:
    """SIGTERM at an event, then on another number of devices: within 1e-5, and the same order of data."""
    attempt.reset(cold=False)
    when, injected = event_fault(attempt, events.signalled(signal.SIGTERM))
    devices = attempt.rng.choice((2, 4))
    what, ended = f"{devices} devices after {when.kind} {when.count}", attempt.run(injected)
    if ended.status not in (0, 128 + signal.SIGTERM):
        return what, f"after SIGTERM: {described(ended)}"
    return what, attempt.resume(TOLERANCE, Injected(devices=devices))


def _pages(folder: Path) -> int:
    return sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in folder.rglob("*") if path.is_file())


def _damaged(
    attempt: Attempt, damage: Callable[[Attempt, Path], str], *, empty: bool = False
) -> tuple[str, str]:
    """Damages a file of a stopped or finished run, or of its cache, and gives the command again."""
    # Of a training stage the finished run too: it is read again. What another command has written is its user's.
    index = attempt.rng.randrange(len(STOPS) + attempt.target.trains)
    finished = index == len(STOPS)
    run = attempt.reference.folder / "run" if finished else attempt.stopped(index)
    attempt.reset(run, cold=False)
    files = sorted(path for path in attempt.here.rglob("*") if path.is_file() and not path.is_symlink())
    files = [path for path in files if empty or path.stat().st_size]
    programs = [path for path in files if "compiled" in path.parts]  # there are more than of all others
    few = attempt.rng.sample(programs, min(_PROGRAMS, len(programs)))
    path = attempt.rng.choice([*(path for path in files if path not in programs), *few])
    name = path.relative_to(attempt.here)
    what = f"{damage(attempt, path)} of {name}, {run.name}"
    ended = attempt.run()
    if why := unexplained(ended):
        return what, why
    shown = next((part for part in name.parts if part in SHOWN), "")
    if ended.status and not attempt.was_done(ended):
        return what, "" if named(ended, path, attempt.here) else f"the file is not named: {described(ended)}"
    if TRACEBACK in ended.output:
        return what, described(ended)
    why = attempt.compare(but=str(name.relative_to(name.parts[0])) if shown else "")
    return what, f"a silent other state: {why}" if why else ""


def bit_flip(attempt: Attempt) -> tuple[str, str]:
    """One bit, two or eight of a file."""

    def flip(attempt: Attempt, path: Path) -> str:
        body, count = bytearray(path.read_bytes()), attempt.rng.choice(FLIPS)
        places = [attempt.rng.randrange(8 * len(body)) for _ in range(count)]
        for place in places:
            body[place // 8] ^= 1 << place % 8
        path.write_bytes(body)
        return f"bits {', '.join(map(str, places))}"

    return _damaged(attempt, flip)


def truncation(attempt: Attempt) -> tuple[str, str]:
    """A file loses its end."""

    def truncate(attempt: Attempt, path: Path) -> str:
        size = attempt.rng.randrange(path.stat().st_size)
        os.truncate(path, size)
        return f"all but {size} bytes"

    return _damaged(attempt, truncate)


def deletion(attempt: Attempt) -> tuple[str, str]:
    """A file is gone."""

    def delete(_: Attempt, path: Path) -> str:
        path.unlink()
        return "deletion"

    return _damaged(attempt, delete, empty=True)


FAULTS = (
    Fault("kill -9 at an event", kill_at_event, 6),
    Fault("kill -9 at a time", kill_at_time, 3),
    Fault("kill -9 of a fresh process", kill_real, 1),
    Fault("SIGTERM at an event", sigterm_at_event, 2),
    Fault("SIGTERM at a time", sigterm_at_time, 1),
    Fault("SIGSTOP and SIGCONT", frozen, 1),
    Fault("clock jump", clock_jump, 1),
    Fault("no space from an event on", no_space_at_event, 1),
    Fault("file size limit", file_size_limit, 1),
    Fault("full disk", full_disk, 1),
    Fault("other devices", other_devices, 1, training=True),
    Fault("bit flip", bit_flip, 9),
    Fault("truncation", truncation, 2),
    Fault("deletion", deletion, 2),
)
