"""--profile: which steps are traced, what is written, and that a run that ends early closes its trace."""

import contextlib
import gzip

import jax
import jax.numpy as jnp
import pytest

from jaxtrain.train.profiler import FOLDER, MEMORY, StepProfiler


@pytest.fixture
def traces(monkeypatch):
    """The starts and stops of traces, in place of jax's."""
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    monkeypatch.setattr(jax.profiler, "save_device_memory_profile", lambda file: calls.append("memory"))
    return calls


def run(path, window, done, steps, calls):
    lines = []
    with StepProfiler(lambda x: calls.append(x) or x, done, window, path, lines.append) as step:
        results = [step(i) for i in range(done + 1, done + steps + 1)]
    assert results == list(range(done + 1, done + steps + 1))
    return lines


@pytest.mark.parametrize(
    ("window", "done", "wanted"),
    [
        (None, 0, [1, 2, 3, 4]),
        ((2, 2), 0, [1, "start", 2, 3, "stop", "memory", 4]),
        ((1, 1), 0, ["start", 1, "stop", "memory", 2, 3, 4]),
        ((6, 1), 4, [5, "start", 6, "stop", "memory", 7, 8]),
        ((3, 9), 0, [1, 2, "start", 3, 4, "stop", "memory"]),  # the run ends in it
    ],
)
def test_the_steps_of_the_window_are_traced(tmp_path, traces, window, done, wanted):
    lines = run(tmp_path, window, done, 4, traces)
    assert traces == wanted and len(lines) == ("start" in wanted)
    if window == (3, 9):
        assert "profile of steps 3 to 4" in lines[0]


def test_a_run_that_resumes_behind_the_window_says_so(tmp_path, traces):
    lines = run(tmp_path, (3, 2), 3, 2, traces)
    assert traces == [4, 5] and lines == [
        "--profile: step 3 is done already; the run goes on from step 3, without a profile"
    ]


def test_the_trace_is_written_in_a_pause(tmp_path, traces):
    @contextlib.contextmanager
    def pause():
        traces.append("(")
        yield
        traces.append(")")

    with StepProfiler(traces.append, 0, (1, 2), tmp_path, lambda line: None, pause) as step:
        step("one")
        step("two")
    assert traces == ["(", "start", ")", "one", "two", "(", "stop", "memory", ")"]


def test_a_step_that_fails_ends_the_trace(tmp_path, traces):
    def fail():
        raise KeyError

    with pytest.raises(KeyError), StepProfiler(fail, 0, (1, 2), tmp_path, print) as step:
        step()
    assert traces == ["start", "stop", "memory"]


def test_the_files_are_there_and_are_said(tmp_path):
    lines, f = [], jax.jit(lambda x: (x @ x).sum())
    with StepProfiler(f, 0, (2, 1), tmp_path, lines.append) as step:
        for _ in range(3):
            step(jnp.ones((8, 8)))
    (trace,) = (tmp_path / FOLDER).glob("plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 0
    assert gzip.decompress((tmp_path / FOLDER / MEMORY).read_bytes())
    assert f"xprof --logdir={tmp_path / FOLDER}" in lines[0] and str(tmp_path / FOLDER / MEMORY) in lines[0]
