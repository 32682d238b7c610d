"""Rollouts on disk: they come back to the bit, and only those that no checkpoint needs are deleted."""

import json
import types

import numpy as np
import pytest

from jaxtrain.config import Failure
from jaxtrain.rl import rollout_store
from jaxtrain.rl.rollout_store import Rollout


def session_in(path, *saved, primary=True):
    for step in saved:
        (path / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    return types.SimpleNamespace(path=path, primary=primary)


def rollout(first, seed=0):
    columns = {"tokens": np.random.default_rng(seed).integers(0, 9, (4, 3)).astype(np.int32)}
    columns["old_logps"], columns["ref_logps"] = (
        np.random.default_rng(seed).normal(size=(2, 4, 3)).astype("f")
    )
    columns["stats/objective/kl"] = np.float32([0.1, np.nan, 1e30, 0])
    return Rollout(first, first // 4, 8 * first, 0.1 + 1e-9 * first, columns, 8 * first + 8, 0.3)


def stored(path):
    return sorted(int(file.stem) for file in (path / "rollouts").iterdir())


def test_a_rollout_comes_back_to_the_bit(tmp_path):
    session = session_in(tmp_path)
    assert rollout_store.load_rollout(session, 0, 0.25) == Rollout(0, -1, 0, 0.25, {}, 0, 0.25)
    for first in (0, 4, 8):
        rollout_store.save_rollout(session, rollout(first, first))
    for step, first in ((0, 0), (3, 0), (4, 4), (7, 4), (30, 8)):
        loaded, wanted = rollout_store.load_rollout(session, step, 9.0), rollout(first, first)
        assert loaded._replace(columns={}) == wanted._replace(columns={})
        assert loaded.columns.keys() == wanted.columns.keys()
        for name, x in wanted.columns.items():
            assert loaded.columns[name].dtype == x.dtype and loaded.columns[name].tobytes() == x.tobytes()
    rollout_store.save_rollout(session_in(tmp_path, primary=False), rollout(12))
    assert stored(tmp_path) == [0, 4, 8]


def test_only_rollouts_that_no_checkpoint_needs_are_deleted(tmp_path):
    session = session_in(tmp_path)
    for first in (0, 4, 8):
        rollout_store.save_rollout(session, rollout(first))
    session_in(tmp_path, 6, 10)  # step 6 resumes in the middle of the rollout of 4
    rollout_store.save_rollout(session, rollout(12))
    assert stored(tmp_path) == [4, 8, 12]
    (tmp_path / "checkpoints" / "6").rmdir()
    rollout_store.save_rollout(session, rollout(16))
    assert stored(tmp_path) == [8, 12, 16]


def test_a_rollout_that_is_damaged_or_gone_stops_the_run_with_its_name(tmp_path):
    session = session_in(tmp_path, 6)
    rollout_store.save_rollout(session, rollout(4))
    file = tmp_path / "rollouts" / "00000004.npz"
    whole = file.read_bytes()
    bits = bytearray(whole)
    bits[whole.index(b"NUMPY") + 140] ^= 1  # within the first array
    for damaged in (whole[:-40], whole[:100], b"", bits, whole.replace(b"facts", b"fakes")):
        file.write_bytes(damaged)
        with pytest.raises(Failure, match=rf"{file} is damaged .*start again in another --workdir"):
            rollout_store.load_rollout(session, 6, 0.1)
    file.unlink()
    with pytest.raises(Failure, match="has no rollout of step 6 or before"):
        rollout_store.load_rollout(session, 6, 0.1)


def test_the_keys_on_disk_stay_those_of_earlier_versions(tmp_path):
    """Runs that are under way resume from the files that they wrote."""
    session = session_in(tmp_path)
    rollout_store.save_rollout(session, rollout(4))
    file = tmp_path / "rollouts" / "00000004.npz"
    with np.load(file) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    assert columns.keys() == {"tokens", "old", "reference", "stats/objective/kl", "facts"}
    assert json.loads(str(columns["facts"])).keys() == {
        "first", "iteration", "taken", "kl_coef", "next_taken", "next_kl_coef",
    }  # fmt: skip
