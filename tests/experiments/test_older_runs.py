"""Runs of an earlier version (commit a1ba922, before modules and classes were renamed) resume, to the same metrics.

older_runs.tar.xz has two tiny runs of four steps: `fim`, a pretraining whose data the class Fim describes, and
`reward`, a reward model from it, whose data the class Choice describes. Fingerprints of data hash their repr.
"""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.runs import call, quick, rows

ARCHIVE = Path(__file__).parent / "older_runs.tar.xz"
SHARED = (
    "--steps=4", "--checkpoint_every=2", "--keep=9", "--batch_size=4", "--warmup=1", "--eval_batches=1",
    "--log_every=1", "--eval_every=0", "--cache_dir=cache",
)  # fmt: skip
FLAGS = {
    "fim": (
        "pretrain", "--workdir=fim", "--model=tinytown-200k,layers=1,width=8,heads=1,ff=16", "--objective=fim",
        "--tokenizer=byte", "--data=tinytown:pretrain?documents=40&held_out=8", "--seq_len=32", "--sample_every=0",
    ),
    "reward": (
        "reward", "--workdir=reward", "--init_from=fim", "--data=tinytown:preferences?documents=24&held_out=8",
        "--seq_len=48", "--prompt_count=4", "--max_new=4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_a_run_of_an_earlier_version_resumes(name, tmp_path, monkeypatch):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    if name == "fim":  # the step that the reward model starts from
        shutil.rmtree("fim/checkpoints/4")
    expected = rows(name)
    with quick():
        assert "resuming from step 2 of 4" in call(*FLAGS[name], *SHARED)
    resumed = rows(name)
    assert [row["step"] for row in resumed] == [row["step"] for row in expected]
    for one, other in zip(expected, resumed, strict=True):
        assert one.keys() <= other.keys()  # a newer version may measure more
        found = [other[key] for key in one]
        np.testing.assert_allclose(found, list(one.values()), rtol=2e-4, atol=1e-6)
