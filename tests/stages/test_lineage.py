"""A run resumes only while the run that it began from is the one that it was."""

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import atomic
from jaxtrain.stages.lineage import require_same_parent

PARENT = {"run": "/runs/sft", "stage": "sft", "step": None, "started": "2026-11-27 20:00:00", "parent": {}}


def _run(tmp_path, parent):
    folder = tmp_path / "dpo"
    folder.mkdir()
    record = {"stage": "dpo", "config": {}, "data": None, "resumed": [], "parent": parent}
    atomic.write_sealed(folder / "config.json", record)
    return folder


def test_a_parent_that_was_trained_anew_ends_the_resume(tmp_path):
    folder = _run(tmp_path, PARENT)
    require_same_parent(folder, PARENT)
    with pytest.raises(
        ConfigError, match=r"/runs/sft as trained on 2026-11-27 20:00:00; .* 21:30:00. Delete .*dpo"
    ):
        require_same_parent(folder, {**PARENT, "started": "2026-11-27 21:30:00"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({key: PARENT[key] for key in PARENT if key != "started"}, PARENT),  # of an older release
        ({**PARENT, "step": 30}, {**PARENT, "step": 60}),  # trained on
        ({}, {}),  # from a named size
        ({"run": None, "origin": "hf:a/b@1"}, {"run": None, "origin": "hf:a/b@2"}),
    ],
)
def test_other_runs_go_on(tmp_path, old, new):
    require_same_parent(tmp_path / "none", new)
    require_same_parent(_run(tmp_path, old), new)
