"""The attack on a server process: what it makes of a dead process, of its log, and of what is on the disk."""

import pytest

from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.apps.soak import requests_attack


def test_lost_completions_are_counted(tmp_path):
    path = tmp_path / "store.sqlite"
    store = CompletionStore(path)
    for i in range(3):
        store.add({"id": f"c{i}", "created": i, "model": "m", "metadata": {}}).result()
    store.close()
    outcome = requests_attack._on_disk(path, {"c0", "c2"}, 7)
    assert (outcome.times, outcome.held) == (2, 2) and "seed 7" in outcome.detail
    outcome = requests_attack._on_disk(path, {"c0", "c3"}, 7)
    assert (outcome.times, outcome.held) == (2, 1) and "c3" in outcome.detail


@pytest.mark.parametrize(
    ("alive", "log", "held"),
    [
        (True, "serving\nWARNING: x\n", 1),
        (False, "", 0),
        (True, "a\nTraceback (most recent call last)\n b\n", 0),
    ],
)
def test_a_dead_process_and_a_traceback_do_not_hold(alive, log, held):
    assert requests_attack._alive(alive, log, 0)[1:3] == (1, held)


@pytest.mark.slow
def test_a_server_process_withstands_the_attack():
    pytest.importorskip("schemathesis")
    outcomes = requests_attack.attack(300, 5)
    assert [one for one in outcomes if one.held != one.times] == [] and len(outcomes) == 12
