"""Which states are saved, and which checkpoints stay: real checkpoints of a state of a few numbers."""

import jax
import jax.numpy as jnp
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.train import best_checkpoint, parallel, workdir
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.train.checkpoint_saver import CheckpointSaver
from jaxtrain.types import TrainState


@pytest.fixture(scope="module")
def plan():
    return parallel.make(config.Run(), jax.devices()[:1])


def state(step, skipped=0, in_row=0):
    w = {"w": jnp.float32(step - skipped)}
    return TrainState(jnp.int32(step), w, (), jax.random.key(0), jnp.int32(skipped), jnp.int32(in_row))


class Saver:
    """A saver of a run's checkpoints, and what it shows."""

    def __init__(self, folder, plan, keep=2, flag="", first=None):
        self.folder, self.lines = folder / workdir.CHECKPOINTS, []
        self.checkpoints = Checkpoints(folder, keep)
        self.best = best_checkpoint.resume(flag, self.folder, self.steps)
        self.saver = CheckpointSaver(
            self.checkpoints, plan, first or state(0), meta=lambda: {"mean": 1}, show=self.lines.append, best=self.best
        )  # fmt: skip

    @property
    def steps(self):
        self.checkpoints.wait()
        return self.checkpoints.steps()

    def save(self, step, *, skipped=0, in_row=0, values=None, **how):
        if values is not None:
            self.saver.evaluated(step, values)
        self.saver.save(step, state(step, skipped, in_row), **how)
        return self.steps


@pytest.fixture
def saver(tmp_path, plan):
    made = []

    def make(**how):
        made.append(Saver(tmp_path, plan, **how))
        return made[-1]

    yield make
    for each in made:
        each.checkpoints.close()


def test_a_state_is_saved_when_steps_were_applied_since_the_last_one(saver):
    run = saver()
    assert run.save(2, skipped=2, in_row=2) == []
    assert run.save(4, skipped=2) == [4]
    assert run.save(6, skipped=4, in_row=2) == [4], "the same parameters"
    assert run.save(8, skipped=5) == [4, 8] and run.save(9, due=False) == [4, 8]
    again = saver(first=state(8, 5))
    assert again.save(10, skipped=7, in_row=2) == [4, 8] and again.save(12, skipped=8, in_row=0) == [8, 12]


def test_nothing_is_deleted_while_steps_are_being_skipped(saver):
    run = saver()
    assert [run.save(2), run.save(4)][-1] == [2, 4]
    assert run.save(6, skipped=1, in_row=1) == [2, 4, 6], (
        "of an applied step, before a streak that may be its fault"
    )
    assert run.save(8, skipped=3, in_row=3) == [2, 4, 6]
    assert run.save(10, skipped=5, in_row=5, last=True) == [2, 4, 6, 10], (
        "the last state of a run is always there"
    )
    assert saver(first=state(10, 5)).save(12, skipped=5) == [10, 12]


def test_of_one_checkpoint_the_one_before_it_stays_until_the_run_ends(saver):
    """Whether a state is good shows with the next applied step."""
    run = saver(keep=1)
    assert [run.save(2), run.save(4), run.save(6)][-1] == [4, 6]
    assert run.save(8, last=True) == [8]


def test_the_best_is_saved_when_it_is_found_and_stays(saver):
    run = saver(flag="eval/x:max")
    assert run.save(1, values={"eval/x": 1.0}, due=False) == [1]
    assert run.save(2, values={"eval/x": 1.0}, due=False) == [1], "a tie is the earlier's"
    assert run.save(3, values={"eval/x": 5.0}, due=False) == [1, 3]
    for step in (4, 6, 8):
        run.save(step, values={"eval/x": float("nan")})
    assert run.steps == [3, 6, 8] and "step 3: best eval/x:max so far, 5" in run.lines
    again = saver(flag="eval/x:max", first=state(8))
    assert (again.best.step, again.best.value) == (3, 5.0)
    assert again.save(10, values={"eval/x": 4.0}) == [3, 8, 10]
    assert again.save(12, values={"eval/x": 6.0}, skipped=1, in_row=1) == [3, 8, 10, 12]
    assert again.save(14, skipped=1, last=True) == [12, 14]
    assert workdir.saved_steps(again.folder) == [12, 14]


def test_an_evaluation_counts_for_a_checkpoint_of_its_step_alone(saver):
    run = saver(flag="eval/x:max")
    run.saver.evaluated(2, {"eval/x": 3.0}, more=True)
    run.saver.evaluated(2, {"judge/y": 1.0})
    run.save(4)
    assert run.best.step is None
    run.save(6, values={"eval/x": 2.0})
    _, meta = run.checkpoints.restore(jax.eval_shape(lambda: state(6)))
    assert meta == {"mean": 1, "step": 6, "keep_best": "eval/x:max", "evaluation": {"eval/x": 2.0}}


def test_a_metric_that_samples_do_not_have_is_refused_once_the_state_is_saved(saver):
    run = saver(flag="judge/gold")
    run.saver.evaluated(2, {"eval/x": 3.0}, more=True)
    run.saver.save(2, state(2), due=False)
    run.saver.evaluated(2, {"judge/steps": 3.0})
    with pytest.raises(
        ConfigError, match=r"choose one of eval/x, judge/steps\. Step 2 is saved, where the same"
    ):
        run.saver.save(2, state(2), due=False)
    assert run.steps == [2]


def test_nothing_is_fetched_or_saved_without_checkpoints(plan):
    saver = CheckpointSaver(None, plan._replace(get=None), state(0), meta=dict, show=print)
    saver.evaluated(1, {"eval/x": 1.0})
    saver.save(1, state(1), last=True)
    assert saver.steps() == []


def test_an_evaluation_after_its_checkpoint_is_recorded_in_it(saver):
    """A run that was stopped during an evaluation evaluates the state again when it goes on."""
    run = saver(flag="eval/x:max")
    run.save(2)
    again = saver(flag="eval/x:max", first=state(2))
    again.checkpoints.restore(jax.eval_shape(lambda: state(2)))
    again.save(2, values={"eval/x": 3.0})
    found = best_checkpoint.resume("eval/x:max", again.folder, again.steps)
    assert (found.step, found.value) == (2, 3.0)
    restored, meta = again.checkpoints.restore(jax.eval_shape(lambda: state(2)))
    assert int(restored.step) == 2 and meta["evaluation"] == {"eval/x": 3.0}, "and it is intact"
