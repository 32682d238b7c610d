"""Stops between two batches: of an evaluation or a rollout too, and what the run does when it goes on."""

import os
import signal

import jax
import pytest

from jaxtrain import signals
from jaxtrain.files import progress
from jaxtrain.train import stop
from jaxtrain.train.checkpoint import Checkpoints
from tests.runs import rows
from tests.train.test_loop import begin, plan, run_fit  # noqa: F401

HOW = {"steps": 8, "eval_every": 4, "sample_every": 4, "checkpoint_every": 4}


class Interrupted:
    """An evaluation and samples of three batches each; during batch `at` of all of them there is a signal."""

    def __init__(self, at=-1):
        self.at, self.batches = at, 0

    def _batches(self):
        for i in range(3):
            progress.stop_point(f"batch {i}")
            if self.batches == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            self.batches += 1

    def evaluate(self, state):
        self._batches()
        return {"loss": float(state.params["w"])}

    def sample(self, state, step):
        self._batches()
        return f"text of {step}", {"judged": float(step)}


def trained(tmp_path, plan, how, after=None):  # noqa: F811
    """Trains, from the checkpoint of a state `after` if there is one; returns (state, finished, its meta, said)."""
    tmp_path.mkdir(exist_ok=True)
    with Checkpoints(tmp_path, 9) as saved:
        state, meta = begin(), {}
        if after is not None:
            state, meta = saved.restore(
                jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), after)
            )
        state, finished, _, said = run_fit(
            tmp_path, plan, state, saved=saved, evaluate=how.evaluate, sample=how.sample,
            unevaluated=meta.get("unevaluated", False), **HOW,
        )  # fmt: skip
        return state, finished, meta, said


@pytest.mark.parametrize("at", [0, 2, 4, 5, 6, 10])
def test_a_stop_in_an_evaluation_is_made_up_for(tmp_path, plan, at):  # noqa: F811
    """Batches 0 to 2 are of step 4's evaluation, 3 to 5 of its samples, then those of step 8, the last one."""
    trained(tmp_path / "whole", plan, Interrupted())
    how, folder, step = Interrupted(at), tmp_path / "stopped", 4 if at < 6 else 8
    state, finished, _, said = trained(folder, plan, how)
    assert not finished and int(state.step) == step
    assert how.batches == at + 1, "the batch after the signal is not computed"
    assert f"stopped at step {step} of 8; the same command resumes there" in said
    state, finished, meta, _ = trained(folder, plan, Interrupted(), after=state)
    assert finished and int(state.step) == 8 and meta.get("unevaluated", False) == (at != 5)
    assert rows(folder) == rows(tmp_path / "whole")


def test_what_follows_a_stopped_training_is_told(plan):  # noqa: F811
    with stop.stoppable(1) as until_stopped, until_stopped:
        pass
    stop.raise_if_stopped("")
    with stop.stoppable(1) as until_stopped:
        with until_stopped:
            os.kill(os.getpid(), signal.SIGTERM)
            progress.stop_point("a batch")
            raise AssertionError("unreachable")
        saved = True
    with pytest.raises(signals.Stopped) as caught:
        stop.raise_if_stopped("in sft")
    assert (
        saved and signals.number_of(caught.value) == signal.SIGTERM and caught.value.__notes__ == ["in sft"]
    )
    progress.stop_point("outside of training nothing stops")


def test_a_failure_whose_state_is_whole_is_raised_once_it_is_saved(plan):  # noqa: F811
    saved = []
    with pytest.raises(stop.SavedFailure, match="the endpoint is gone"), stop.stoppable(1) as until_stopped:
        with until_stopped:
            raise stop.SavedFailure("the endpoint is gone")
        saved.append(True)
    assert saved
    with pytest.raises(ValueError, match="another"), stop.stoppable(1) as until_stopped:
        with until_stopped:
            raise ValueError("another error is not saved for")
        saved.append(False)
    assert saved == [True]
