"""A filter of system calls: no new program or process, socket, signal to others, mount, nor change of a file's owner.

Linux with x86-64 or AArch64. What is not denied stays allowed, so that any Python runs; the other layers (confine) hold
files and limits. A call of another architecture ends the process.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

EPERM, ENOSYS = 1, 38
_RETURN_ALLOW, _RETURN_ERRNO, _RETURN_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # opcodes of classic BPF
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER, _PR_SET_PDEATHSIG = 38, 22, 2, 1
_CLONE_THREAD = 0x10000
_SET_OWNER = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_X32 = 0x40000000  # numbers from here on are of x86-64's second table

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH, column of the table

# name: (number on x86-64, number on AArch64), None where there is no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # processes and programs
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "setsid": (112, 157),
    "setpgid": (109, 154), "personality": (135, 92),
    # other processes: signals, memory, files, priorities
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "kcmp": (312, 272), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # sockets; io_uring opens them without these calls
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # memory and queues that no limit of a process counts
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    # file systems, and what a read-only view of them does not stop
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mknod": (133, None), "mknodat": (259, 33), "fanotify_init": (300, 262), "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    # the kernel and the machine
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None),
}  # fmt: skip
CLONE, CLONE3, TGKILL, PRLIMIT, PRCTL = (56, 220), (435, 435), (234, 131), (302, 261), (157, 167)
FCNTL = (72, 25)


class _Instruction(NamedTuple):
    """An instruction of classic BPF: struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    value: int


def install() -> str:
    """Filters the system calls of this process from now on; "", or why that is not possible."""
    if os.name != "posix" or platform.system() != "Linux":
        return f"{platform.system()} has none"
    if platform.machine() not in ARCHITECTURES:
        return f"no table for {platform.machine()}"
    program = [struct.pack("HBBI", *each) for each in instructions(platform.machine(), os.getpid())]
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        return os.strerror(ctypes.get_errno())
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.c_char_p(header), zero, zero):
        return os.strerror(ctypes.get_errno())
    return ""


def instructions(machine: str, pid: int) -> Iterator[_Instruction]:
    """The filter's program, for a process that is `pid` in its own namespace."""
    architecture, column = ARCHITECTURES[machine]
    yield _Instruction(_LOAD, 0, 0, _ARCHITECTURE)
    yield _Instruction(_EQUAL, 1, 0, architecture)
    yield _Instruction(_RETURN, 0, 0, _RETURN_KILL)
    yield _Instruction(_LOAD, 0, 0, _NUMBER)
    if machine == "x86_64":
        yield _Instruction(_AT_LEAST, 0, 1, _X32)
        yield _Instruction(_RETURN, 0, 0, _RETURN_ERRNO | ENOSYS)
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            yield from _denied(number, EPERM)
    yield from _denied(CLONE3[column], ENOSYS)  # its flags are in memory; the C library then calls clone
    yield from _allowed_if(CLONE[column], _ANY_BIT, _CLONE_THREAD)  # a thread, not a process
    yield from _allowed_if(TGKILL[column], _EQUAL, pid)  # its own threads: abort() needs it
    yield from _allowed_if(PRLIMIT[column], _EQUAL, 0)  # its own limits, which only fall
    yield from _denied_if(PRCTL[column], 0, (_PR_SET_PDEATHSIG,))  # it ends with its parent
    yield from _denied_if(FCNTL[column], 1, _SET_OWNER)  # whom a file's signals go to
    yield _Instruction(_RETURN, 0, 0, _RETURN_ALLOW)


def _denied(number: int, error: int) -> Iterator[_Instruction]:
    yield _Instruction(_EQUAL, 0, 1, number)
    yield _Instruction(_RETURN, 0, 0, _RETURN_ERRNO | error)


def _allowed_if(number: int, test: int, value: int) -> Iterator[_Instruction]:
    """The call fails unless its first argument passes the test."""
    yield _Instruction(_EQUAL, 0, 4, number)
    yield _Instruction(_LOAD, 0, 0, _FIRST_ARGUMENT)
    yield _Instruction(test, 0, 1, value)
    yield _Instruction(_RETURN, 0, 0, _RETURN_ALLOW)
    yield _Instruction(_RETURN, 0, 0, _RETURN_ERRNO | EPERM)


def _denied_if(number: int, argument: int, values: tuple[int, ...]) -> Iterator[_Instruction]:
    """The call fails where the argument of this index is one of `values`."""
    yield _Instruction(_EQUAL, 0, 2 * len(values) + 2, number)
    yield _Instruction(_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * argument)
    for value in values:
        yield _Instruction(_EQUAL, 0, 1, value)
        yield _Instruction(_RETURN, 0, 0, _RETURN_ERRNO | EPERM)
    yield _Instruction(_RETURN, 0, 0, _RETURN_ALLOW)
