"""The loop around a step that is a plain function, with a clock that the test moves."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.files import progress
from jaxtrain.train import loop, parallel
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.train.loop import Output, TrainingError, fit
from jaxtrain.train.metrics import MetricMean, MetricWriter, SpeedMeter, TrainingProgress
from jaxtrain.types import TrainState


@pytest.fixture(scope="module")
def plan():
    return parallel.make(config.Run(), jax.devices()[:1])


def begin(step=0):
    zero = jnp.int32(0)
    return TrainState(jnp.int32(step), {"w": jnp.float32(step)}, (), jax.random.key(0), zero, zero)


def stepper(order=None, bad=()):
    """A step whose loss is the batch's number; the steps from batches in `bad` are not finite."""

    def step(state, frozen, batch):
        number = int(np.asarray(batch["number"]).ravel()[0])
        if order is not None:
            order.append(("step", number))
        in_row = int(state.skipped_in_row) + 1 if number in bad else 0
        skipped = int(state.skipped) + (number in bad)
        after = state._replace(
            step=state.step + 1,
            params={"w": state.params["w"] + (number not in bad)},
            skipped=jnp.int32(skipped),
            skipped_in_row=jnp.int32(in_row),
        )
        loss = np.nan if number in bad else number
        return after, {"loss": (loss, 1.0), "skipped": (skipped, 1.0), "skipped_in_row": (in_row, 1.0)}

    return step


def batches(state):
    return {"number": np.full(4, int(state.step), np.int32)}


class Told(TrainingProgress):
    """Keeps what is printed."""

    def __init__(self):
        super().__init__(0, show=False)
        self.said = []

    def print(self, text):
        self.said.append(text)


def run_fit(tmp_path, plan, state=None, *, step=None, saved=None, **settings):
    """Runs `fit` on it all; returns (state, finished, rows of metrics.jsonl, what was printed)."""
    names, unevaluated = ("evaluate", "sample", "expect", "finish"), settings.pop("unevaluated", False)
    hooks = {name: settings.pop(name) for name in names if name in settings}
    defaults = {"steps": 10, "log_every": 1, "eval_every": 0, "sample_every": 0, "checkpoint_every": 0}
    run = config.Run(**{**defaults, **settings})
    state, bar = state or begin(), Told()
    with MetricWriter(tmp_path, int(state.step), again=unevaluated) as writer:
        out = Output(
            writer,
            bar,
            saved,
            SpeedMeter(1.0, None, iter(range(10**6)).__next__),
            4,
            lambda i: i / 10,
            MetricMean(),
            unevaluated=unevaluated,
        )
        try:
            state, finished = fit(state, (), plan, step or stepper(), batches, run=run, out=out, **hooks)
        finally:
            lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    return state, finished, lines, bar.said


@pytest.mark.parametrize("every", [1, 3, 10])
def test_no_step_is_lost_or_counted_twice(tmp_path, plan, every):
    state, finished, lines, _ = run_fit(tmp_path, plan, log_every=every)
    assert finished and int(state.step) == 10
    assert [line["step"] for line in lines] == [i for i in range(1, 11) if i % every == 0 or i == 10]
    done = 0
    for line in lines:
        assert line["loss"] == np.mean(range(done, line["step"]))
        assert line["lr"] == pytest.approx((line["step"] - 1) / 10)
        done = line["step"]


def test_metrics_are_fetched_after_the_next_step_is_on_its_way(tmp_path, plan):
    order = []
    late = plan._replace(get=lambda tree: order.append("get") or plan.get(tree))
    run_fit(tmp_path, late, step=stepper(order), steps=4)
    assert order == ["get", *[("step", 0), ("step", 1), "get", ("step", 2), "get", ("step", 3), "get", "get"]]


def test_the_state_is_finished_once_before_it_is_evaluated_and_saved(tmp_path, plan):
    seen = []

    def evaluate(state):
        seen.append((int(state.step), float(state.params["w"])))
        return {}

    def finish(state):
        return state._replace(params={"w": state.params["w"] + 1000})

    with Checkpoints(tmp_path, 10) as saved:
        state, *_ = run_fit(
            tmp_path,
            plan,
            saved=saved,
            evaluate=evaluate,
            finish=finish,
            steps=4,
            eval_every=2,
            checkpoint_every=2,
        )
        saved.wait()
        kept, _ = saved.restore(jax.eval_shape(lambda: state))
    assert [step for step, _ in seen] == [2, 4] and seen[0][1] < 1000 < seen[1][1]
    assert float(kept.params["w"]) == float(state.params["w"]) == seen[1][1]


def test_a_state_whose_finishing_is_stopped_is_saved_and_finished_when_resumed(tmp_path, plan):
    seen = []

    def stopped(state):
        os.kill(os.getpid(), signal.SIGTERM)
        progress.stop_point("prompt 0")
        pytest.fail("it went on")

    def finish(state):
        return state._replace(params={"w": state.params["w"] + 1000})

    with Checkpoints(tmp_path, 2) as saved:
        state, finished, _, said = run_fit(tmp_path, plan, saved=saved, finish=stopped, steps=4)
        assert not finished and saved.steps() == [4] and float(state.params["w"]) < 1000
        assert "stopped at step 4 of 4; the same command resumes there" in said
    with Checkpoints(tmp_path, 2) as saved:
        state, meta = saved.restore(jax.eval_shape(lambda: state))
        assert meta["unevaluated"]
        state, finished, *_ = run_fit(
            tmp_path, plan, state, saved=saved, finish=finish, steps=4, unevaluated=True,
            evaluate=lambda state: seen.append(float(state.params["w"])) or {},
        )  # fmt: skip
    assert finished and seen == [float(state.params["w"])] and seen[0] > 1000


def test_evaluations_samples_and_checkpoints_come_when_due_and_after_the_last_step(tmp_path, plan):
    seen = {"eval": [], "sample": []}

    def evaluate(state):
        seen["eval"].append(int(state.step))
        return {"loss": float(state.step)}

    def sample(state, step):
        seen["sample"].append((int(state.step), step))
        return f"text of {step}", {"judged": float(step)}

    with Checkpoints(tmp_path, 10) as saved:
        _, _, lines, said = run_fit(
            tmp_path, plan, saved=saved, evaluate=evaluate, sample=sample, steps=7, eval_every=3, sample_every=4,
            checkpoint_every=5,
        )  # fmt: skip
    assert seen == {"eval": [3, 6, 7], "sample": [(4, 4), (7, 7)]}
    assert saved.steps() == [5, 7]
    assert [(line["step"], line["eval/loss"]) for line in lines if "eval/loss" in line] == [
        (3, 3),
        (6, 6),
        (7, 7),
    ]
    assert "step 6: held out  loss 6.0000" in said and "text of 4" in said
    assert [(line["step"], line["judged"]) for line in lines if "judged" in line] == [(4, 4), (7, 7)]
    assert [line["loss"] for line in lines if "loss" in line] == list(range(7))


def test_time_outside_of_steps_is_not_training_time(tmp_path, plan):
    """Each look at the clock is a second later: a step costs one, whatever an evaluation costs."""
    lines = run_fit(tmp_path, plan, evaluate=lambda state: {"loss": 0.0}, eval_every=2, steps=8)[2]
    assert {line["step_time"] for line in lines if "step_time" in line} <= {1.0, 2.0}


def test_what_must_hold_at_the_first_step_stops_before_anything_is_kept(tmp_path, plan):
    with Checkpoints(tmp_path, 2) as saved:
        with pytest.raises(TrainingError, match=r"must have loss = 5 ± 0.1, by construction, and has 0"):
            run_fit(tmp_path, plan, saved=saved, expect={"loss": (5.0, 0.1)}, checkpoint_every=1)
        assert saved.steps() == [] and (tmp_path / "metrics.jsonl").read_text() == ""
        run_fit(tmp_path, plan, saved=saved, expect={"loss": (0.05, 0.1)})
        # A resumed run does not start where it holds.
        run_fit(tmp_path, plan, begin(3), expect={"loss": (5.0, 0.1)})
    assert saved.steps() == [10]
    with pytest.raises(TrainingError, match="has nan"):
        loop.check({"loss": (np.nan, 1.0)}, {"loss": (0.0, 1.0)})
    loop.check({"loss": (0.0, 0.0)}, {"loss": (5.0, 0.1)})  # nothing is in the loss


def test_skipped_steps_are_told_and_end_the_run_after_so_many_in_a_row(tmp_path, plan):
    state, finished, lines, said = run_fit(
        tmp_path, plan, step=stepper(bad={2, 4, 5}), max_skips=3, log_every=2
    )
    assert finished and float(state.params["w"]) == 7
    assert [line.get("loss") for line in lines] == [0.5, 3.0, None, 6.5, 8.5]
    assert [line["skipped"] for line in lines] == [0, 1, 3, 3, 3]
    assert lines[-1]["lr"] == pytest.approx(0.6)  # of the seventh applied step
    assert sum("not finite" in text for text in said) == 3 and "step 3: " in said[0] and "batch 2" in said[0]
    with Checkpoints(tmp_path, 2) as saved:
        with pytest.raises(TrainingError, match=r"3 steps in a row, batches 4 to 6, .*lower --lr"):
            run_fit(
                tmp_path, plan, step=stepper(bad={1, 4, 5, 6}), max_skips=3, saved=saved, checkpoint_every=2
            )
        assert saved.steps() == [2, 4]


def ask(at, number):
    """A step that signals its own process at batch `at`."""
    inner = stepper()

    def step(state, frozen, batch):
        if int(np.asarray(batch["number"]).ravel()[0]) == at:
            os.kill(os.getpid(), number)
        return inner(state, frozen, batch)

    return step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step_saves_and_the_run_goes_on_from_there(tmp_path, plan, number):
    before = signal.getsignal(number)
    with Checkpoints(tmp_path, 2) as saved:
        state, finished, _, said = run_fit(tmp_path, plan, step=ask(3, number), saved=saved, log_every=3)
        assert not finished and int(state.step) == 4 and saved.steps() == [4]
        assert "stopped at step 4 of 10; the same command resumes there" in said
        assert signal.getsignal(number) is before
    with Checkpoints(tmp_path, 2) as saved:
        here = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        state, meta = saved.restore(here)
        assert int(state.step) == 4 and meta["mean"]["loss"] == [3.0, 1.0]
        state, finished, lines, _ = run_fit(tmp_path, plan, state, saved=saved)
    assert finished and int(state.step) == 10 and [line["step"] for line in lines] == [3, *range(5, 11)]


SLOW = """
import sys, time
from pathlib import Path
import jax
sys.path.insert(0, sys.argv[2])
from tests.train.test_loop import batches, begin, config, parallel, run_fit, stepper
inner = stepper()
def step(state, frozen, batch):
    print("step", flush=True)
    time.sleep(30)
    return inner(state, frozen, batch)
run_fit(Path(sys.argv[1]), parallel.make(config.Run()), step=step)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_kills(tmp_path, number):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path), root],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        assert child.stdout.readline() == b"step\n"
        child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1)
        child.send_signal(number)
        assert child.wait(60) in (-number, 1)


ENDLESS = """
import functools, sys
from pathlib import Path
import jax
sys.path.insert(0, sys.argv[2])
from jaxtrain import signals
from jaxtrain.train import workdir
from tests.train.test_loop import Checkpoints, begin, config, parallel, run_fit, stepper
inner = stepper()

@jax.jit
def endless(step):
    jax.debug.callback(functools.partial(print, "computing", flush=True))
    return jax.lax.while_loop(lambda i: i >= 0, lambda i: jax.numpy.minimum(i + 1, 7), step)

def step(state, frozen, batch):
    if int(state.step) == 2:
        endless(state.step).block_until_ready()
    return inner(state, frozen, batch)

here = Path(sys.argv[1])
signals.install(stop_within=1.0)
with signals.explaining(lambda: f"step {workdir.newest_step(here)}"), Checkpoints(here, 2) as saved:
    run_fit(here, parallel.make(config.Run()), step=step, saved=saved, checkpoint_every=1)
"""


@pytest.mark.slow
def test_a_compiled_step_that_does_not_end_is_left_after_sigterm(tmp_path, plan):
    """What was saved before it stands."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    child = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path), root],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child, Checkpoints(tmp_path, 2) as saved:
        assert child.stdout.readline() == "computing\n"
        while 2 not in saved.steps():  # it is saved beside the step
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        assert child.stderr.readline() == "SIGTERM: stopping after this step, in at most 1 s; again: now\n"
        rest = child.communicate(timeout=60)[1]
        assert child.returncode == 143
        assert rest == "error: stopped by SIGTERM; the work under way had not ended 1 s after it\nstep 2\n"
        here = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), begin())
        assert float(saved.restore(here)[0].params["w"]) == 2
