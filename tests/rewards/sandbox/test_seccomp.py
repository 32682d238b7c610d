"""The filter of system calls, run as the kernel would: which calls fail, on both architectures."""

import platform
import re
from pathlib import Path

import pytest

from jaxtrain.rewards.sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
NUMBERS = {
    "read": (0, 63),
    "openat": (257, 56),
    "mmap": (9, 222),
    "exit_group": (231, 94),
    "futex": (202, 98),
}


def outcome(machine, number, argument=0, architecture=None, second=0):
    """What the filter returns for a call: classic BPF over struct seccomp_data."""
    audit = seccomp.ARCHITECTURES[machine][0] if architecture is None else architecture
    data, accumulator, at = {0: number, 4: audit, 16: argument, 24: second}, 0, 0
    program = list(seccomp.instructions(machine, 77))
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = data[value]
            case 0x06:
                return value
            case _:
                holds = {
                    0x15: accumulator == value,
                    0x35: accumulator >= value,
                    0x45: bool(accumulator & value),
                }
                at += if_true if holds[code] else if_false


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_denied_calls_fail_and_others_do_not(machine):
    column = seccomp.ARCHITECTURES[machine][1]
    fails = {name: outcome(machine, n[column]) for name, n in seccomp.DENIED.items() if n[column] is not None}
    assert len(fails) > 80 and set(fails.values()) == {0x00050001}
    assert {outcome(machine, n[column]) for n in NUMBERS.values()} == {ALLOW}
    assert outcome(machine, NUMBERS["read"][column], architecture=0x40000003) == KILL
    assert outcome(machine, seccomp.CLONE3[column]) == 0x00050000 | 38
    for call, good, bad in (
        (seccomp.CLONE, 0x3D0F00, 0x1200011),  # a thread of glibc, a fork of it
        (seccomp.TGKILL, 77, 78),
        (seccomp.PRLIMIT, 0, 78),
        (seccomp.PRCTL, 15, 1),
    ):
        assert (outcome(machine, call[column], good), outcome(machine, call[column], bad)) == (
            ALLOW,
            0x00050001,
        )
    owners = {
        second: outcome(machine, seccomp.FCNTL[column], 3, second=second) for second in (1, 3, 8, 10, 15)
    }
    assert owners == {1: ALLOW, 3: ALLOW, 8: 0x00050001, 10: 0x00050001, 15: 0x00050001}
    if machine == "x86_64":
        assert outcome(machine, 0x40000000 + 59) == 0x00050000 | 38


HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_are_those_of_the_kernel(column):
    if not HEADERS[column].is_file():
        pytest.skip("no headers of Linux here")
    text = HEADERS[column].read_text()
    numbers = {name: int(n) for name, n in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    table = {**seccomp.DENIED, "clone": seccomp.CLONE, "clone3": seccomp.CLONE3, "tgkill": seccomp.TGKILL,
             "prlimit64": seccomp.PRLIMIT, "prctl": seccomp.PRCTL, "fcntl": seccomp.FCNTL}  # fmt: skip
    ours = {name: each[column] for name, each in table.items() if each[column] is not None}
    wrong = {
        name: (number, numbers[name]) for name, number in ours.items() if numbers.get(name, number) != number
    }
    assert not wrong and len(ours.keys() & numbers.keys()) > 80


def test_another_system_or_machine_says_so(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert seccomp.install() == "Darwin has none"
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert seccomp.install() == "no table for riscv64"
