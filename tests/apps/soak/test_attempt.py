"""How an end is judged: explained or not, the damaged file named or not."""

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
        ("error: manifest.ocdbt is damaged", True),
        ("error: /h/run: something is wrong", False),
        ("error: no", False),
    ],
)
def test_a_file_is_named_by_its_path_its_name_or_its_folder(output, named):
    path = Path("/h/run/checkpoints/4/state/manifest.ocdbt")
    assert attempt.named(Ended(1, 1.0, output), path, Path("/h")) == named
