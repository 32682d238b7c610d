"""The rewards of iterations in a checkpoint: wherever a run was killed, it ends at the same step."""

import json

import numpy as np
import pytest

from jaxtrain.rl.reward_history import META, RewardHistory
from tests.rl.test_overoptimisation import PEAK, RISING, N, noisy

SCORES, WATCH = noisy(RISING, 1), noisy(PEAK, 2)


def columns(i, rows=4):
    """A rollout's columns; one row has no number."""
    spread = np.arange(rows) - (rows - 1) / 2
    return {
        "stats/objective/scores": np.append(SCORES[i] + spread, np.nan).astype(np.float32),
        "stats/objective/watch_reward": np.append(WATCH[i] - spread, np.nan).astype(np.float32),
    }


def first_end(history, start=0):
    """The iteration at which a history ends training; each has 3 updates."""
    for i in range(start, N):
        history.add(3 * i, columns(i))
        if history.ended():
            return i
    return None


def test_training_ends_once_the_watched_reward_has_turned():
    history = RewardHistory(stop=True)
    end = first_end(history)
    assert 30 < end < N
    assert "the watched reward turned at step 10" in history.ended()
    assert "standard errors, and the trained reward did not (--stop_on_overoptimisation)" in history.ended()


def test_without_the_flag_it_is_recorded_and_goes_on():
    history = RewardHistory(stop=False)
    assert first_end(history) is None
    assert len(history.meta()[META]) == N and history.meta()[META][0][0] == 0


@pytest.mark.parametrize("killed", [1, 20, 40])
def test_a_run_that_was_killed_ends_at_the_same_step(killed):
    whole, before = RewardHistory(stop=True), RewardHistory(stop=True)
    end = first_end(whole)
    for i in range(killed):
        before.add(3 * i, columns(i))
    meta = json.loads(json.dumps(before.meta()))
    after = RewardHistory(stop=True)
    after.restore(3 * killed, meta)
    assert first_end(after, max(0, killed - 2)) == end, "iterations that are sampled again count once"
    assert after.meta() == whole.meta() and after.ended() == whole.ended()
    # A later attempt's iterations are not those of the one that goes on.
    back = RewardHistory(stop=True)
    back.restore(3 * 10, meta)
    assert all(step <= 30 for step, *_ in back.meta().get(META, []))


def test_what_is_not_watched_or_has_no_number_is_no_point():
    history = RewardHistory(stop=True)
    history.add(0, {"stats/objective/scores": np.ones(2, np.float32)})
    history.add(3, columns(0) | {"stats/objective/watch_reward": np.full(5, np.nan, np.float32)})
    history.restore(6, {})
    assert history.meta() == {} and history.ended() == ""


def test_a_fall_without_noise_is_described():
    history = RewardHistory(stop=True)
    flat = {"stats/objective/scores": np.ones(1, np.float32)}
    for i in range(60):
        level = np.float32(1.0 if i < 20 else 0.0)
        history.add(i, flat | {"stats/objective/watch_reward": np.array([level])})
    assert "it fell from 1 to" in history.ended()
