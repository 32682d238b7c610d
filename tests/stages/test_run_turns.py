"""Whether a run was trained on single turns: written by SFT, found through the runs that came after it."""

import pytest

from jaxtrain.data import dialogs
from jaxtrain.stages import run_turns
from jaxtrain.train import workdir
from tests.train.test_run_list import here, run  # noqa: F401


@pytest.mark.parametrize(
    ("counts", "single"),
    [
        ({"kept": 3, "turns": 3}, True),
        ({"kept": 3, "turns": 4}, False),
        ({"kept": 3, "turns": 2, "context": 1}, True),
        ({"kept": 3, "turns": 3, "context": 1}, False),
        ({"kept": 3, "turns": 3, "turns_cut": 2}, False),  # conversations that lost their second turns
        ({"kept": 3, "turns": 0}, False),  # plain texts
        ({"kept": 0, "turns": 0}, False),
    ],
)
def test_what_counts_as_single_turns(counts, single):
    assert dialogs._single_turn(counts) == single


@pytest.mark.parametrize("known", [True, False, None])
def test_the_nearest_run_that_knows_decides(here, known):  # noqa: F811
    sft = run(here / "runs" / "sft", "sft", config={})
    if known is not None:
        workdir.record(sft, single_turn=known)
    parent = {"run": str(sft), "stage": "sft", "step": 3, "parent": {}}
    ppo = run(here / "runs" / "ppo", "ppo", config={}, parent=parent)
    assert run_turns.single_turn({"run": str(ppo), "parent": parent}) is known
    assert run_turns.single_turn({"run": None, "parent": {}}) is None
    assert run_turns.single_turn({"run": str(here / "gone"), "parent": {}}) is None
