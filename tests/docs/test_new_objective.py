"""The example of a new stage in docs/new_objective.md: it runs as it stands there, in one process and in two."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from jaxtrain import flags as command_line
from tests.runs import ROOT, arrays, column, quick


@pytest.fixture(scope="module")
def focal(tmp_path_factory):
    """The module that the page prints."""
    text = (
        (ROOT / "docs" / "new_objective.md").read_text(encoding="utf-8").partition("## A whole new stage")[2]
    )
    folder = tmp_path_factory.mktemp("example")
    (folder / "focal.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1], encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        import focal
    finally:
        sys.path.remove(str(folder))
    return focal


def trained(focal, town, name, *flags):
    given = (*town.flags("sft", "--steps=4", "--lr=0.01", *flags), f"--workdir={town / name}")
    with quick():
        focal.main(command_line.from_flags(focal.Focal, list(given)))
    return town / name


def test_the_example_trains_and_its_flag_acts(focal, town):
    one, other = trained(focal, town, "focal"), trained(focal, town, "flat", "--gamma=0")
    losses = column(one, "loss")
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert column(other, "loss")[0] == losses[0], "the plain loss is logged, whatever is trained on"
    a, b = arrays(one, 4), arrays(other, 4)
    assert any(not np.array_equal(a[path], b[path]) for path in a)


def test_at_gamma_0_it_is_plain_fine_tuning(focal, town):
    flat = trained(focal, town, "flat2", "--gamma=0")
    plain = town.run("sft", "plain2", "--steps=4", "--lr=0.01")
    np.testing.assert_allclose(column(flat, "loss"), column(plain, "loss"), rtol=1e-5)


def test_two_processes_are_one_with_two_devices(focal, town, free_port):
    """Each process reads its own rows of a batch, and the first alone writes."""
    shared = {
        "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "JAX_NUM_CPU_DEVICES": "1",
        "JAXTRAIN_COORDINATOR": f"127.0.0.1:{free_port}", "JAXTRAIN_NUM_PROCESSES": "2",
    }  # fmt: skip
    flags = town.flags("sft", "--steps=4", "--lr=0.01", f"--workdir={town / 'two'}")
    processes = [
        subprocess.Popen(
            [sys.executable, focal.__file__, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **shared, "JAXTRAIN_PROCESS_ID": str(i)}, encoding="utf-8",
        )
        for i in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "finished 4 steps" in printed[0] and "finished 4 steps" not in printed[1]
    one = trained(focal, town, "one")
    np.testing.assert_allclose(column(town / "two", "loss"), column(one, "loss"), rtol=1e-4)
