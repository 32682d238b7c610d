"""Calls of environments: their time, their errors, and what they may return."""

import threading

import numpy as np
import pytest

from jaxtrain.rl import environment_calls
from jaxtrain.rl.environment_calls import EnvironmentFault, first_messages, observation, run_calls
from jaxtrain.rl.environments import Observation

SAYS = [{"role": "user", "content": "Go on."}]


def raises(error):
    raise error


def test_results_come_in_their_order_and_calls_run_at_the_same_time():
    both = threading.Barrier(2)  # passes only where two calls run at once
    assert run_calls([lambda i=i: (both.wait(20), i)[1] for i in range(4)], 60.0, 2) == [0, 1, 2, 3]
    assert run_calls([], 1.0, 2) == []


@pytest.mark.parametrize(
    "error", [ValueError("no such move"), SystemExit(3), KeyboardInterrupt(), RecursionError("r")]
)
def test_whatever_is_raised_is_the_fault_of_its_call_alone(error):
    results = run_calls([lambda: raises(error), lambda: 1], 60.0, 1)
    assert results[1] == 1 and isinstance(results[0], EnvironmentFault)
    assert results[0].text.startswith(f"raised {type(error).__name__}: {error} (")
    assert "test_environment_calls.py:" in results[0].text


def test_a_call_that_hangs_is_a_fault_and_is_stopped():
    """One in Python code ends by the stop; one that blocks is left behind, and its late result is nobody's."""
    ended, blocked = threading.Event(), threading.Event()

    def spins():
        try:
            while True:
                pass
        finally:
            ended.set()

    def blocks():
        blocked.wait()
        return "late"

    results = run_calls([spins, blocks, lambda: 2], 0.1, 1)
    assert [r.text for r in results[:2]] == ["took longer than 0.1 s (--env_timeout)"] * 2 and results[2] == 2
    assert ended.wait(20)
    blocked.set()


def test_the_first_messages_are_checked():
    assert first_messages(SAYS) == tuple(SAYS)
    assert first_messages([{"from": "human", "value": "Hi"}]) == ({"role": "user", "content": "Hi"},)
    done = Observation(SAYS, 1.0, True)
    fault = EnvironmentFault("took longer")
    assert first_messages(fault) is fault
    for value, text in (
        (done, "returned an Observation that is done: there is no turn to train on; reset returns"),
        (done._replace(done=False), "returned an Observation; reset returns"),
        (None, "returned a NoneType, not a list of messages"),
        ("Hi", "returned a str, not a list of messages"),
        (iter(SAYS), "not a list of messages"),
        ([], "returned no message"),
        ([{"role": "alien", "content": "x"}], "returned messages that are none: unknown role"),
        ([{"role": "user"}], "returned messages that are none: no text"),
        (
            [{"role": "user", "content": "x" * (environment_calls.MOST_CHARACTERS + 1)}],
            "characters, more than",
        ),
        ([*SAYS, {"role": "assistant", "content": "Me."}], "an assistant's message last"),
    ):
        assert text in first_messages(value).text


def test_an_observation_is_checked():
    one = observation(Observation(SAYS, np.float32(0.5), np.bool_(False), {"n": np.int64(2), "right": True}))
    assert one == Observation(tuple(SAYS), 0.5, False, {"n": 2.0, "right": 1.0})
    assert type(one.reward) is float and type(one.metrics["n"]) is float
    assert observation(Observation(done=True)) == Observation((), 0.0, True, {})
    assert observation(Observation("not read once it is over", 1, True)) == Observation((), 1.0, True, {})
    for value, text in (
        ((SAYS, 0.0, False), "returned a tuple, not an Observation(messages, reward, done)"),
        (None, "returned a NoneType, not an Observation"),
        (Observation(SAYS, float("nan")), "returned the reward nan, which is not a finite number"),
        (Observation(SAYS, np.float32("inf")), "not a finite number"),
        (Observation(SAYS, 1e39), "not a finite number"),
        (Observation(SAYS, "1"), "not a finite number"),
        (Observation(SAYS, None), "not a finite number"),
        (Observation(SAYS, np.ones(2)), "not a finite number"),
        (Observation(SAYS, 0.0, None), "returned done=None"),
        (Observation(SAYS, 0.0, False, {"n": float("inf")}), "returned the metric n=inf"),
        (Observation(SAYS, 0.0, False, {3: 1.0}), "returned metrics that are not a dict"),
        (Observation(SAYS, 0.0, False, {"a/b": 1.0}), "returned metrics that are not a dict"),
        (Observation(SAYS, 0.0, False, {"turns": 1.0}), "(letters, but not turns, full, faults)"),
        (Observation(SAYS, 0.0, False, [1.0]), "returned metrics that are not a dict"),
        (Observation(), "returned no message"),
    ):
        assert text in observation(value).text
