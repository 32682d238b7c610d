"""Rollouts on disk: they come back to the bit or not at all, and only those that no checkpoint needs are deleted."""

import json
import random
import types

import numpy as np
import pytest

from jaxtrain.rl.config import Watch
from jaxtrain.rl.rollout_store import Rollout, RolloutStore

NAMES = {"first", "iteration", "taken", "kl_coef", "next_taken", "next_kl_coef"}


def store_in(path, *saved, primary=True, stop_kl=0.0, updates=4, steps=40):
    """The store of a run with checkpoints of these steps."""
    for step in saved:
        (path / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    samples = types.SimpleNamespace(stop_kl=stop_kl, epochs=1, minibatches=updates)
    cfg = types.SimpleNamespace(run=types.SimpleNamespace(steps=steps), samples=samples, watch=Watch())
    return RolloutStore(cfg, types.SimpleNamespace(path=path, primary=primary), 0.25)


def rollout(first, seed=0):
    columns = {"tokens": np.random.default_rng(seed).integers(0, 9, (4, 3)).astype(np.int32)}
    columns["old_logps"], columns["ref_logps"] = (
        np.random.default_rng(seed).normal(size=(2, 4, 3)).astype("f")
    )
    columns["stats/objective/kl"] = np.float32([0.1, np.nan, 1e30, 0])
    return Rollout(
        first, first // 4, 8 * first, 0.1 + 1e-9 * first, columns, 8 * first + 32, 0.1 + 1e-9 * (first + 4)
    )  # fmt: skip


def saved(path, *firsts, **options):
    """(a store with these rollouts, the meta of a checkpoint by the rollout of its last update)."""
    store, metas = store_in(path, **options), {}
    for first in firsts:
        store.save(rollout(first, first))
        metas[first] = json.loads(json.dumps(store.meta()))
    return store, metas


def file_of(path, first):
    return path / "rollouts" / f"{first:08d}.npz"


def stored(path):
    return sorted(int(file.stem) for file in (path / "rollouts").iterdir())


def require_same(one, other):
    assert one._replace(columns={}) == other._replace(columns={})
    assert one.columns.keys() == other.columns.keys()
    for name, x in other.columns.items():
        assert one.columns[name].dtype == x.dtype and one.columns[name].tobytes() == x.tobytes()


EMPTY = Rollout(0, -1, 0, 0.25, {}, 0, 0.25)


@pytest.mark.parametrize("release", ["this", "an earlier"])
def test_a_rollout_comes_back_to_the_bit(tmp_path, release):
    assert store_in(tmp_path).current() == EMPTY
    _, metas = saved(tmp_path, 0, 4, 8)
    for step, first in ((0, 0), (3, 0), (4, 4), (7, 4), (10, 8)):
        store = store_in(tmp_path)
        assert store.unusable(step, metas[first] if release == "this" else {}) == ""
        require_same(store.current(), rollout(first, first))
        assert store.meta() == metas[first]
    store = store_in(tmp_path)
    assert store.unusable(4, metas[0]) == "" and store.meta() == metas[4], (
        "later checkpoints are of the new one"
    )
    require_same(store.current(), rollout(4, 4))
    store_in(tmp_path, primary=False).save(rollout(12))
    assert stored(tmp_path) == [0, 4, 8]


def test_only_rollouts_that_no_checkpoint_needs_are_deleted(tmp_path):
    saved(tmp_path, 0, 4, 8)
    store = store_in(tmp_path, 6, 10)  # step 6 resumes in the middle of the rollout of 4
    store.save(rollout(12))
    assert stored(tmp_path) == [4, 8, 12]
    store.save(rollout(16))
    store_in(tmp_path, 14).save(rollout(20))
    assert stored(tmp_path) == [4, 8, 12, 16, 20]
    (tmp_path / "checkpoints" / "10").rmdir()  # step 6 stays as the best
    store.save(rollout(24))
    assert stored(tmp_path) == [4, 12, 16, 20, 24]


def damages(whole: bytes):
    draw = random.Random(5)
    yield from (
        whole[:-40],
        whole[:100],
        b"",
        whole.replace(b"facts", b"fakes"),
        whole.replace(b"old.npy", b"odd.npy"),
    )
    for _ in range(200):
        bits = bytearray(whole)
        bits[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        yield bytes(bits)


def test_no_damage_gives_other_batches(tmp_path, capsys):
    """In the middle of an iteration: its own rollout, or that training cannot go on from this checkpoint."""
    _, metas = saved(tmp_path, 4)
    file, seen = file_of(tmp_path, 4), 0
    whole = file.read_bytes()
    for damaged in damages(whole):
        file.write_bytes(damaged)
        store = store_in(tmp_path)
        why = store.unusable(6, metas[4])
        if why:
            seen += 1
            assert why.startswith(f"{file} is damaged (") and store.current() == EMPTY and store.meta() == {}
        else:
            require_same(store.current(), rollout(4, 4))
    assert seen > 150
    file.unlink()
    assert store_in(tmp_path).unusable(6, metas[4]) == f"{file} is missing"
    assert store_in(tmp_path).unusable(6, {}).endswith("00000006.npz is missing")
    other = rollout(4, seed=9)
    store_in(tmp_path).save(other)
    assert store_in(tmp_path).unusable(6, metas[4]) == f"{file} is of another attempt"
    capsys.readouterr()
    for step in (6, 8):
        assert store_in(tmp_path, steps=step).unusable(step, metas[4]) == "", (
            "a run that is finished needs none"
        )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", ["missing", "damaged", "of another attempt"])
def test_the_policy_of_the_checkpoint_samples_what_is_lost(tmp_path, capsys, damage):
    _, metas = saved(tmp_path, 0, 4)
    file = file_of(tmp_path, 4)
    if damage == "of another attempt":
        store_in(tmp_path).save(rollout(4)._replace(kl_coef=3.0))
    elif damage == "damaged":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    for meta in (metas[0], metas[4]):  # saved at the end of its iteration, or at the start of the next
        store, wanted = store_in(tmp_path), rollout(4)
        assert store.unusable(4, meta) == ""
        empty = store.current()
        assert empty.columns == {} and empty.iteration == 0
        if meta is metas[0]:
            assert (empty.taken, empty.kl_coef) == (rollout(0).next_taken, rollout(0).next_kl_coef)
        else:
            assert (empty.taken, empty.kl_coef) == (wanted.taken, wanted.kl_coef)
        said = capsys.readouterr().out
        assert f"{file} is {damage}" in said and said.endswith(": sampled from the policy of step 4\n")


def test_checkpoints_of_earlier_releases_do_not_take_the_rollout_of_another_iteration(tmp_path):
    saved(tmp_path, 0, 4, 8)
    file_of(tmp_path, 4).unlink()
    assert store_in(tmp_path).unusable(6, {}).endswith("00000006.npz is missing")
    assert store_in(tmp_path).unusable(7, {}) != "" and store_in(tmp_path).unusable(9, {}) == ""
    file_of(tmp_path, 8).write_bytes(b"")
    assert "is damaged" in store_in(tmp_path).unusable(9, {})
    saved(tmp_path, 4)
    store = store_in(tmp_path)
    assert store.unusable(8, {}) == "" and store.current().columns == {}
    assert store.current().taken == rollout(4).next_taken
    assert store_in(tmp_path, stop_kl=0.1).unusable(8, {}) != "", "its iterations may be shorter"


def test_the_keys_on_disk_stay_those_of_earlier_versions(tmp_path):
    """Runs that are under way resume from the files that they wrote."""
    saved(tmp_path, 4)
    file = file_of(tmp_path, 4)
    with np.load(file) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    assert columns.keys() == {"tokens", "old", "reference", "stats/objective/kl", "facts"}
    facts = json.loads(str(columns["facts"]))
    assert facts.keys() == NAMES | {"digest"}
    del facts["digest"]
    np.savez(file, **{**columns, "facts": np.array(json.dumps(facts))})
    store = store_in(tmp_path)
    assert store.unusable(5, {}) == ""
    require_same(store.current(), rollout(4, 4))
