"""Damage does what it says, to one file; and what is silent, unnamed or a traceback does not hold."""

import random

import pytest

from jaxtrain.apps.soak import faults
from jaxtrain.apps.soak.warm import Ended

TRACE = "Traceback (most recent call last):\nValueError: bad\n"


class FakeAttempt:
    """An attempt whose command ends as given, with files of its own."""

    def __init__(self, folder, ended, difference=""):
        self.here, self.rng, self.ended, self.difference = (
            folder / "here",
            random.Random(3),
            ended,
            difference,
        )
        self.target = type("Target", (), {"trains": True})
        self.reference = type("Reference", (), {"folder": folder})
        self.but = None

    def stopped(self, index):
        return self.here

    def reset(self, run=None, *, cold=None):
        (self.here / "run").mkdir(parents=True)
        (self.here / "run" / "state").write_bytes(bytes(range(64)))

    def run(self, injected=None):
        return self.ended

    def was_done(self, ended):
        return False

    def compare(self, tolerance=0.0, *, but=""):
        self.but = but
        return self.difference


@pytest.mark.parametrize("damage", [faults.bit_flip, faults.truncation, faults.deletion])
@pytest.mark.parametrize(
    ("ended", "difference", "held"),
    [
        (Ended(0, 1.0, ""), "", True),
        (Ended(0, 1.0, ""), "w differs", False),
        (Ended(1, 1.0, "error: {here}/run/state is damaged\n"), "w differs", True),
        (Ended(2, 1.0, "error: something\n"), "", False),
        (Ended(1, 1.0, TRACE), "", False),
        (Ended(0, 1.0, TRACE), "", False),
        (Ended(None, 99.0, ""), "", False),
        (Ended(134, 1.0, "error: {here}/run/state\n"), "", False),
    ],
)
def test_damage_holds_where_it_is_named_or_changes_nothing(tmp_path, damage, ended, difference, held):
    attempt = FakeAttempt(
        tmp_path, ended._replace(output=ended.output.format(here=tmp_path / "here")), difference
    )
    what, why = damage(attempt)
    assert (why == "") == held, (what, why)
    path = tmp_path / "here" / "run" / "state"
    assert (path.read_bytes() if path.exists() else b"") != bytes(range(64)) and "run/state" in what


@pytest.mark.parametrize(
    ("status", "output", "held"),
    [(0, "", True), (137, "", True), (1, "error: Timeout waiting for a key\n", False), (None, "", False)],
)
def test_no_clock_jump_ends_a_command(tmp_path, monkeypatch, status, output, held):
    attempt = FakeAttempt(tmp_path, Ended(status, 1.0, output))
    monkeypatch.setattr(faults, "event_fault", lambda *_: (faults.events.At("open", 1), faults.Injected()))
    attempt.moment, attempt.resume = lambda: 0.1, lambda: ""
    assert (faults.clock_jump(attempt)[1] == "") == held


def test_a_flip_changes_the_bits_that_it_says(tmp_path):
    attempt = FakeAttempt(tmp_path, Ended(0, 1.0, ""))
    what, _ = faults.bit_flip(attempt)
    body = (tmp_path / "here" / "run" / "state").read_bytes()
    changed = [8 * i + bit for i, (a, b) in enumerate(zip(body, range(64), strict=True))
               for bit in range(8) if (a ^ b) >> bit & 1]  # fmt: skip
    said = [int(text) for text in what.removeprefix("bits ").partition(" of ")[0].split(", ")]
    assert len(body) == 64 and changed == sorted(said)


def test_a_disk_in_memory_fills_up_and_has_room_again(tmp_path):
    if not faults.can_mount(tmp_path / "disk"):
        pytest.skip("no right to mount a file system")
    with faults.Tmpfs(tmp_path / "disk") as disk:
        disk.resize(disk.used() + 8192)
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "disk" / "x").write_bytes(bytes(100_000))
        disk.resize(1 << 20)
        (tmp_path / "disk" / "x").write_bytes(bytes(100_000))
    assert not (tmp_path / "disk").is_mount()


def test_names_are_said_once():
    names = [fault.name for fault in faults.FAULTS]
    assert len(names) == len(set(names)) and not any(":" in name or "," in name for name in names)


@pytest.mark.parametrize(("done", "held"), [(True, True), (False, False)])
def test_a_command_whose_work_was_done_before_the_second_kill_may_refuse(tmp_path, monkeypatch, done, held):
    attempt = FakeAttempt(tmp_path, Ended(2, 1.0, "error: --out=x: it exists already; name another\n"))
    attempt.was_done, attempt.resume = lambda ended: done, lambda: ""
    monkeypatch.setattr(faults, "event_fault", lambda *_: (faults.events.At("open", 1), None))
    assert (not faults.kill_at_event(attempt)[1]) == held
