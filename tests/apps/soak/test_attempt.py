"""How an end is judged: explained or not, the damaged file named or not."""

import random
from pathlib import Path

import pytest

from jaxtrain.apps.soak import attempt
from jaxtrain.apps.soak.warm import Ended

TRACE = "Traceback (most recent call last):\n  File x\nValueError: bad\n"
ERROR = "error: the disk is full\n"


@pytest.mark.parametrize(
    ("status", "output", "explained"),
    [
        (0, "", True),
        (0, TRACE, True),
        (1, ERROR, True),
        (2, ERROR, True),
        (1, ERROR + TRACE, True),
        (1, TRACE + ERROR, False),
        (1, TRACE, False),
        (1, "", False),
        (134, ERROR, False),
        (137, "", False),
        (None, ERROR, False),
    ],
)
def test_an_end_is_explained_by_a_message_before_any_traceback(status, output, explained):
    assert (attempt.unexplained(Ended(status, 1.0, output)) == "") == explained


def test_an_end_is_described_by_the_line_that_says_why():
    said = attempt.described(Ended(1, 1.0, f"step 1\n{TRACE}later\n"))
    assert said == "a traceback, exit status 1: ValueError: bad"
    assert (
        attempt.described(Ended(None, 61.2, "step 9\n")) == "hung for 61 s and was killed; last line: step 9"
    )
    assert attempt.described(Ended(137, 1.0, "")) == "exit status 137: no output"


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ("error: /h/run/checkpoints/4/state is damaged", True),
        ("error: /h/run/check\n   points/4 is damaged", True),
        ("error: manifest.ocdbt is damaged", False),
        ("/h/run/checkpoints/4 is damaged\nerror: no room", False),
        ("error: saving step 5 in /h/run/checkpoints failed", False),
        ("error: /h/run: something is wrong", False),
        ("error: no", False),
    ],
)
def test_a_file_is_named_by_its_path_or_the_folder_of_its_checkpoint(output, named):
    path = Path("/h/run/checkpoints/4/state/manifest.ocdbt")
    assert attempt.named(Ended(1, 1.0, output), path, Path("/h")) == named


def test_a_file_of_the_run_itself_is_named_by_its_path():
    ended = Ended(2, 1.0, "error: --workdir=/h/run: /h/run/config.json cannot be read")
    assert attempt.named(ended, Path("/h/run/config.json"), Path("/h"))
    assert not attempt.named(ended, Path("/h/run/metrics.jsonl"), Path("/h"))


def judged(tmp_path, monkeypatch, output, trains=False, left=None):
    """What `resume` says of a command that ends with status 2 and this output, where run/ has these values."""
    place = type("Place", (), {"here": tmp_path, "folder": tmp_path, "order": tmp_path / "order.jsonl"})
    place.run = lambda *_: Ended(2, 1.0, output)
    place.observe = lambda out: ""
    wanted = type("Reference", (), {"seconds": 1.0, "order": {}, "observed": lambda self: {"rows.json": 1}})()
    monkeypatch.setattr(attempt.observe, "read", lambda out: left or {"rows.json": 1})
    target = attempt.SoakTarget("x", ("x",), trains)
    one = attempt.Attempt(target, wanted, place, random.Random(0), tmp_path / "failed")
    return one.resume(but="save_errors.txt")


def test_work_that_was_done_is_what_a_command_refuses_to_do_again(tmp_path, monkeypatch):
    done = "error: --out=/h/run/rows.jsonl: it exists already; name a new file, or remove it\n"
    assert judged(tmp_path, monkeypatch, done) == ""
    assert judged(tmp_path, monkeypatch, done, left={"rows.json": 1, "sft/save_errors.txt": "x"}) == ""
    assert "rows.json differs" in judged(tmp_path, monkeypatch, done, left={"rows.json": 2})
    assert "is there, and without" in judged(tmp_path, monkeypatch, done, left={"rows.json": 1, "work/a": 1})
    assert "exit status 2" in judged(tmp_path, monkeypatch, done, trains=True)
    assert "exit status 2" in judged(tmp_path, monkeypatch, "error: --judge: none")
