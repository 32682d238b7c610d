"""What confines a process: namespaces, limits of the kernel, Landlock's rules on files, and a filter of system calls.

Each layer is tried. What cannot be set is returned as a line that says what is open without it.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable
from typing import NamedTuple

from jaxtrain.rewards.sandbox import seccomp

NAMESPACES, LANDLOCK, SECCOMP = "namespaces", "landlock", "seccomp"
LAYERS = (NAMESPACES, LANDLOCK, SECCOMP)

_NEW = {  # flag: what is open without it
    0x00020000: ("mounts", "the disk can be written where file rules allow it"),
    0x20000000: ("processes", "other processes can be seen"),
    0x40000000: ("network", "the network is there, unless system calls are filtered"),
    0x08000000: ("messages between processes", "shared memory of others can be seen"),
    0x04000000: ("host name", "the host's name can be seen"),
}
_NEW_USER, _NEW_MOUNTS, _NEW_PROCESSES = 0x10000000, 0x00020000, 0x20000000
_PRIVATE, _RECURSIVE = 0x40000, 0x4000  # MS_PRIVATE, MS_REC
_NO_SETUID_DEVICES_PROGRAMS = 0x2 | 0x4 | 0x8  # MS_NOSUID, MS_NODEV, MS_NOEXEC
_MOUNT_SETATTR, _AT_RECURSIVE, _AT_FDCWD, _READ_ONLY = 442, 0x8000, -100, 1
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # landlock_*
_EXECUTE, _WRITE, _READ, _READ_FOLDER, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE
_SYSTEM_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


class Limits(NamedTuple):
    """What one run may use. Sizes are MiB."""

    seconds: float = (
        10.0  # wall time of all of it; the same of CPU time for each process, rounded up, and one more
    )
    memory: int = 1024  # address space of a process
    disk: int = 64  # the folder, where it can be mounted
    file: int = 16  # one file
    inodes: int = 1000  # files of the folder, where it can be mounted
    open_files: int = 64
    threads: int = 64


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _error() -> str:
    return os.strerror(ctypes.get_errno())


def is_linux() -> bool:
    """Whether there are namespaces, Landlock and seccomp at all."""
    return platform.system() == "Linux"


def unshare(layers: Iterable[str]) -> list[str]:
    """Gives this process's children namespaces of their own; lines on what cannot be set."""
    if NAMESPACES not in layers:
        return []
    if not is_linux():
        return [f"namespaces ({platform.system()} has none): processes, network and disk are the machine's"]
    libc, uid, gid = _libc(), os.geteuid(), os.getegid()
    if libc.unshare(_NEW_USER) == 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    lines = []
    for flag, (name, risk) in _NEW.items():
        if libc.unshare(flag):
            lines.append(f"a namespace of {name} ({_error()}): {risk}")
    return lines


def unshare_processes(layers: Iterable[str]) -> None:
    """Gives the next child a namespace of processes below this one's; where that fails, `unshare` has said so."""
    if NAMESPACES in layers and is_linux():
        _libc().unshare(_NEW_PROCESSES)


def mount_folder(folder: str, limits: Limits, layers: Iterable[str], not_set: list[str]) -> None:
    """Makes all mounts read-only in this namespace, but `folder`, which becomes memory of a limited size."""
    if NAMESPACES not in layers or not is_linux() or any("mounts" in line for line in not_set):
        if NAMESPACES in layers:
            not_set.append(
                "a size of the folder: it can fill the disk with files of the size that is allowed"
            )
        return
    libc = _libc()
    attributes = struct.pack("QQQQ", _READ_ONLY, 0, 0, 0)
    libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE | _RECURSIVE), None)
    done = libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes))
    if done:
        not_set.append(f"read-only mounts ({_error()}): the disk can be written where file rules allow it")
    options = f"size={limits.disk}m,nr_inodes={limits.inodes},mode=700".encode()
    flags = ctypes.c_ulong(_NO_SETUID_DEVICES_PROGRAMS)
    if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", flags, options):
        not_set.append(f"a size of the folder ({_error()}): it can fill the disk")


def limit(limits: Limits, file: int) -> list[str]:
    """Sets the kernel's limits of this process and its children; `file` is MiB. Lines on what cannot be set."""
    seconds, lines = int(limits.seconds) + 2, []
    wanted = {
        "RLIMIT_AS": (limits.memory << 20, "memory"),
        "RLIMIT_CPU": (seconds, "CPU time"),
        "RLIMIT_FSIZE": (file << 20, "the size of a file"),
        "RLIMIT_NOFILE": (limits.open_files, "open files"),
        "RLIMIT_CORE": (0, "core files"),
        "RLIMIT_MEMLOCK": (0, "locked memory"),
    }
    for name, (value, what) in wanted.items():
        try:
            hard = resource.getrlimit(getattr(resource, name))[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, name), (value, value))
        except (OSError, ValueError, AttributeError) as error:
            lines.append(f"a limit of {what} ({error})")
    return lines


def limit_threads(limits: Limits) -> list[str]:
    """Sets a limit of threads and processes, which the kernel counts by user, and not for root. Lines likewise."""
    if os.geteuid() == 0:
        return ["a limit of threads (none holds for root): memory limits them"]
    if not is_linux():
        return ["a limit of processes: it would count all those of the user"]
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    value = limits.threads if hard == resource.RLIM_INFINITY else min(limits.threads, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (value, value))
    return []


def restrict_files(folder: str, readable: Iterable[str], layers: Iterable[str]) -> list[str]:
    """Leaves this process `folder`, the system's libraries, and `readable` to read; lines on what cannot be set."""
    if LANDLOCK not in layers:
        return []
    risk = "files of the user can be read"
    if not is_linux():
        return [f"rules on files ({platform.system()} has no Landlock): {risk}"]
    libc = _libc()
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return [f"rules on files (Landlock: {_error()}): {risk}"]
    rights = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    network, scope = 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0
    attributes = struct.pack("QQQ", rights, network, scope)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return [f"rules on files (Landlock: {_error()}): {risk}"]
    _allow(libc, rules, folder, rights & ~_EXECUTE)
    for path in (*_SYSTEM_FOLDERS, *readable):
        _allow(libc, rules, path, (_EXECUTE | _READ | _READ_FOLDER) & rights)
    for path in _DEVICES:
        _allow(libc, rules, path, (_WRITE | _READ) & rights)
    _no_new_privileges(libc)
    failed = libc.syscall(_RESTRICT, rules, 0)
    os.close(rules)
    return [f"rules on files (Landlock: {_error()}): {risk}"] if failed else []


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    """Adds a rule for what is at `path` and below. What is not there needs none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights &= -1 if os.path.isdir(path) else _OF_FILES
        libc.syscall(_ADD, rules, 1, struct.pack("=Qi", rights, target), 0)
        os.close(target)


def _no_new_privileges(libc: ctypes.CDLL) -> None:
    zero = ctypes.c_ulong(0)
    libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero)  # PR_SET_NO_NEW_PRIVS


def drop_privileges() -> list[str]:
    """Drops the capabilities that the process has in its namespaces, or as root; lines on what cannot be set."""
    number = _CAPSET.get(platform.machine())
    if not is_linux() or number is None:
        return ["the end of privileges: root stays root"] if os.geteuid() == 0 else []
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    if _libc().syscall(number, header, bytes(24)):
        return [f"the end of privileges ({_error()})"]
    return []


def filter_calls(layers: Iterable[str]) -> list[str]:
    """Filters the process's system calls; lines on what cannot be set."""
    if SECCOMP not in layers:
        return []
    why = seccomp.install()
    return [f"a filter of system calls ({why}): processes can be started, sockets opened"] if why else []


def end_with_parent() -> None:
    """Has the kernel kill this process when the thread that started it ends."""
    if is_linux():
        _libc().prctl(1, ctypes.c_ulong(9))  # PR_SET_PDEATHSIG, SIGKILL


def adopt_orphans() -> None:
    """Has processes whose parents end become children of this one, so that it can end them."""
    if is_linux():
        zero = ctypes.c_ulong(0)
        _libc().prctl(36, ctypes.c_ulong(1), zero, zero, zero)  # PR_SET_CHILD_SUBREAPER
