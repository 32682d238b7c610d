"""The step of a fresh run is compiled in a thread, once, while the first state is made."""

import contextlib
import shutil
import threading

import jax
import pytest

from jaxtrain.stages import offline, run_guards, trainer
from tests.runs import CHILD, column

STEPS, THREAD = ("--steps=3", "--log_every=1", "--warmup=1", "--objective=masked"), "compile_0"


@pytest.fixture
def traced(monkeypatch):
    """The threads in which steps were traced."""
    threads, real = [], run_guards.train_step

    def train_step(*args, **options):
        threads.append(threading.current_thread().name)
        return real(*args, **options)

    monkeypatch.setattr(run_guards, "train_step", train_step)
    return threads


@pytest.fixture
def programs():
    """The threads in which programs were compiled, or read from the cache."""
    threads = []

    def listen(name, *_, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            threads.append(threading.current_thread().name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield threads
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("plan", ["pmap", "mesh"])
def test_a_fresh_step_is_traced_and_compiled_once_and_is_the_same(bench, traced, programs, monkeypatch, plan):
    def losses(name):
        programs.clear()
        bench.main(*STEPS, f"--parallel={plan}", f"--workdir={bench.folder / name}-{plan}")
        return column(bench.folder / f"{name}-{plan}", "loss"), len(programs)

    early, _ = losses("early")  # compiles small programs too, which stay in the process
    assert traced == [THREAD] and programs.count(THREAD) == 1
    again, count = losses("early-again")
    monkeypatch.setattr(offline, "early_step", lambda *args: contextlib.nullcontext())
    assert losses("late") == (again, count) and again == early
    assert traced[1:] == [THREAD, "MainThread"]


def test_a_run_that_goes_on_and_one_with_a_guard_wait_for_the_state(bench, traced):
    folder = bench.folder / "early-twice"
    flags = (*STEPS, "--checkpoint_every=1", f"--workdir={folder}")
    bench.main(*flags)
    shutil.rmtree(folder / "checkpoints" / "3")
    bench.main(*flags)
    bench.main(*STEPS, "--skip_spikes=3", f"--workdir={folder}-guarded")
    assert traced == [THREAD, "MainThread", "MainThread"]


def test_a_run_from_another_one_compiles_while_it_reads(bench, traced):
    folder = bench.folder / "early-parent"
    bench.main(*STEPS, f"--workdir={folder}")
    for name, *more in (("child",), ("adapted", "--lora_rank=2"), ("averaged", "--ema=0.9")):
        flags = (f"--init_from={folder}", *STEPS, *more, f"--workdir={folder}-{name}")
        bench.main(*flags, small=CHILD)
    assert traced == 4 * [THREAD]


@pytest.mark.parametrize(
    ("stage", "flags", "early"),
    [
        ("reward", (), True),
        ("dpo", (), True),
        ("dpo", ("--loss=kto",), False),  # whose batches have a column of the policy
        ("distill", ("--teacher={sft}",), True),
        ("distill", ("--teacher={sft}", "--on_policy=1"), False),
    ],
)
def test_the_step_waits_for_the_state_where_batches_are_made_with_it(town, traced, stage, flags, early):
    name = "-".join(["early", stage, *flags[-1:]]).translate(str.maketrans("={}", "---"))
    flags = [flag.format(sft=town / "sft") for flag in flags]
    data = None if stage != "distill" else "tinytown:prompts?documents=16"
    town.run(stage, name, "--steps=3", *flags, data=data)
    assert traced == [THREAD if early else "MainThread"]


def test_an_error_of_the_thread_is_that_of_the_steps_first_call(bench, monkeypatch):
    def broken(*args, **options):
        raise ValueError("no such product")

    monkeypatch.setattr(run_guards, "train_step", broken)
    with pytest.raises(ValueError, match="no such product"):
        bench.main(*STEPS, f"--workdir={bench.folder / 'early-broken'}")


def test_an_error_of_the_state_comes_after_the_thread_has_ended(bench, monkeypatch):
    def no_state(*args):
        raise ValueError("no state")

    monkeypatch.setattr(trainer, "first_state", no_state)
    with pytest.raises(ValueError, match="no state"):
        bench.main(*STEPS, f"--workdir={bench.folder / 'early-stateless'}")
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD]
