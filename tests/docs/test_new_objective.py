"""The README's example of a new stage: what it shows runs as it stands there."""

import re
import sys

import numpy as np
import pytest

from jaxtrain import flags as command_line
from tests.runs import ROOT, arrays, column, quick


@pytest.fixture(scope="module")
def focal(tmp_path_factory):
    """The module that the README prints."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Add an objective")[2]
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
    assert column(other, "loss")[0] == losses[0], "the plain loss is told, whatever is trained on"
    a, b = arrays(one, 4), arrays(other, 4)
    assert any(not np.array_equal(a[path], b[path]) for path in a)


def test_at_gamma_0_it_is_plain_fine_tuning(focal, town):
    flat = trained(focal, town, "flat2", "--gamma=0")
    plain = town.run("sft", "plain2", "--steps=4", "--lr=0.01")
    np.testing.assert_allclose(column(flat, "loss"), column(plain, "loss"), rtol=1e-5)
