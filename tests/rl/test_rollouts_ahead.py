"""The next iteration's completions in a thread: what is taken, waited for, stored, and what goes wrong."""

import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.files import progress
from jaxtrain.rl import rollouts_ahead
from jaxtrain.rl.config import RolloutSampler
from jaxtrain.rl.rollout_store import FOLDER, Rollout
from jaxtrain.rl.rollouts_ahead import RolloutsAhead
from jaxtrain.rl.scoring import ScoredBatch
from jaxtrain.types import TrainState


def config_of(async_steps=1, steps=8, dry_run=False):
    return types.SimpleNamespace(
        sampler=RolloutSampler(async_steps=async_steps, is_cap=2.0 * async_steps),
        samples=types.SimpleNamespace(epochs=1, minibatches=2),
        run=types.SimpleNamespace(steps=steps, dry_run=dry_run),
    )


def batch(taken, turns=False):
    extra = {"note": np.array(["a", None], object), "number": np.array([1.5, 2], object)}
    turns = [[{"role": "user", "content": "é"}], [{"role": "assistant", "content": "x", "reward": 0.1}]]
    column = np.empty(2, object)
    column[:] = turns
    return ScoredBatch(
        rows={"tokens": np.full((2, 3), taken, np.int32), "sampler_logps": np.array([[0.1, -2, 3]] * 2, "f")},
        scores=np.array([1.0, np.nan], "f"),
        ended=np.array([True, False]),
        stats={"completions/mean_length": np.array([2.0, np.nan])},
        texts=np.array([["q", "a\n"], ["p", ""]], object),
        extra=extra,
        turns=column if turns else None,
    )


def state(value=1.0):
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, {"w": jnp.full(2, value)}, {"m": jnp.zeros(9)}, None, zero, zero)


def rollout(first=2, taken=10, columns=True, iteration=1):
    return Rollout(first, iteration, taken, 0.1, {"tokens": np.zeros(2)} if columns else {}, taken + 5, 0.1)


def opened(tmp_path, draw=None, **flags):
    (tmp_path / FOLDER).mkdir(exist_ok=True)
    ahead = RolloutsAhead(config_of(**flags), types.SimpleNamespace(path=tmp_path, primary=True))
    calls = []

    def recorded(state, taken):
        calls.append(
            (taken, float(state.params["w"][0]), threading.current_thread() is threading.main_thread())
        )
        return draw(state, taken) if draw else (batch(taken), taken + 5)

    return ahead, ahead.of(recorded), calls


def test_the_next_iteration_is_sampled_by_the_policy_at_its_begin(tmp_path):
    ahead, draw, calls = opened(tmp_path)
    now = state(3.0)
    ahead.start(now, rollout())
    now.params["w"].delete()  # as the step does, which donates the state
    found, after = draw(state(4.0), 15)
    assert found.rows["tokens"][0, 0] == 15 and after == 20
    assert calls == [(15, 3.0, False)]
    draw(state(4.0), 20)
    assert calls[1:] == [(20, 4.0, True)], "nothing was sampled ahead"


def test_other_prompts_than_those_sampled_ahead_are_sampled_now(tmp_path):
    ahead, draw, calls = opened(tmp_path)
    ahead.start(state(), rollout())
    found, _ = draw(state(5.0), 99)
    assert found.rows["tokens"][0, 0] == 99 and calls[-1] == (99, 5.0, True)


@pytest.mark.parametrize("flags, first", [({"async_steps": 0}, 2), ({"dry_run": True}, 2), ({}, 6)])
def test_nothing_is_sampled_ahead_that_nobody_needs(tmp_path, flags, first):
    ahead, _draw, calls = opened(tmp_path, **flags)
    ahead.start(state(), rollout(first))
    assert ahead.wait() is None and ahead.meta() == {} and calls == []


def test_what_the_sampling_raises_is_raised_where_it_is_waited_for(tmp_path):
    def failing(state, taken):
        raise ValueError("no more prompts")

    ahead, draw, _ = opened(tmp_path, failing)
    ahead.start(state(), rollout())
    assert ahead.meta() == {}, "a checkpoint is saved all the same"
    with pytest.raises(ValueError, match="no more prompts"):
        draw(state(), 15)


def test_a_stop_point_of_the_thread_stops_nothing(tmp_path):
    def stopping(state, taken):
        progress.stop_point("sampling")
        return batch(taken), taken + 5

    def stop():
        raise KeyboardInterrupt

    ahead, _draw, _ = opened(tmp_path, stopping)
    with progress.checking(stop):
        ahead.start(state(), rollout())
        assert ahead.wait().taken == 15
        with pytest.raises(KeyboardInterrupt):
            progress.stop_point("here")


def test_others_wait_before_they_sample(tmp_path):
    release, order = threading.Event(), []

    def slow(state, taken):
        release.wait(60)
        order.append("sampled")
        return batch(taken), taken + 5

    ahead, _draw, _ = opened(tmp_path, slow)
    ahead.start(state(), rollout())
    threading.Timer(0.05, release.set).start()
    assert ahead.waiting(lambda x: order.append(x))("evaluated") is None
    assert order == ["sampled", "evaluated"]
    assert ahead.waiting(None) is None
    idle, _, _ = opened(tmp_path, async_steps=0)
    assert idle.waiting(order.append) == order.append


def test_a_checkpoint_has_what_a_resumed_run_goes_on_with(tmp_path):
    ahead, draw, _ = opened(tmp_path)
    ahead.start(state(), rollout())
    meta = ahead.meta()
    assert meta == ahead.meta() and meta[rollouts_ahead.META]["first"] == 2
    other, draw, calls = opened(tmp_path)
    assert other.unusable(3, meta, rollout()) == ""
    assert other.meta() == meta
    found, after = draw(state(), 15)
    wanted = batch(15)
    assert after == 20 and calls == []
    for name in ("scores", "ended"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    for part in ("rows", "stats"):
        for name, x in getattr(wanted, part).items():
            np.testing.assert_array_equal(getattr(found, part)[name], x)
            assert getattr(found, part)[name].dtype == x.dtype
    assert found.texts.tolist() == wanted.texts.tolist() and found.turns.tolist() == wanted.turns.tolist()
    assert {name: x.tolist() for name, x in found.extra.items()} == {
        "note": ["a", None],
        "number": [1.5, 2],
    }


def test_a_checkpoint_whose_completions_are_lost_is_not_usable(tmp_path):
    ahead, _, _ = opened(tmp_path)
    ahead.start(state(), rollout())
    meta = ahead.meta()
    other, _, _ = opened(tmp_path)
    between = rollout(columns=False)._replace(taken=15)
    assert other.unusable(4, meta, between) == ""
    assert other.unusable(4, meta, between._replace(taken=99)).endswith("00000002.next is of another attempt")
    assert other.unusable(2, {}, rollout()) == "", "its rollout is there, and the next one begins now"
    lost = other.unusable(2, meta, rollout(columns=False))
    assert lost == "the rollout of step 2 was sampled by an earlier policy, and is lost"
    assert other.unusable(0, {}, rollout(first=0, columns=False, iteration=-1)) == ""
    assert other.unusable(8, meta, rollout(columns=False)) == "", "the run is over"
    file = tmp_path / FOLDER / "00000002.next"
    file.write_bytes(b"x" + file.read_bytes())
    assert other.unusable(3, meta, rollout()).endswith(
        "00000002.next is damaged (it differs from what was written)"
    )
    file.unlink()
    assert other.unusable(3, meta, rollout()).endswith("00000002.next is missing")


def test_files_that_no_checkpoint_needs_are_deleted(tmp_path):
    (tmp_path / FOLDER).mkdir()
    for step in (3, 6, 7):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    for first in (0, 2, 4, 6, 8):
        rollouts_ahead.save(tmp_path, first, b"data")
    left = sorted(file.name for file in (tmp_path / FOLDER).iterdir())
    # Step 3 needs that of 2, step 6, which ends an iteration, that of 4, step 7 that of 6.
    assert left == ["00000002.next", "00000004.next", "00000006.next", "00000008.next"]
