"""Groups of equal scores: found, sampled again, and said."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxtrain.rl import flat_groups
from jaxtrain.rl.scoring import ScoredBatch


def group_of(scores, name):
    """A scored batch whose texts say where they come from."""
    size = len(scores)
    own = np.array([f"{name}{i}" for i in range(size)], object)
    rows = {"tokens": np.arange(size)[:, None] + 100 * (name == "new")}
    return ScoredBatch(rows, np.array(scores, "f"), np.ones(size, bool), {"n": np.arange(size)}, own[:, None])


@pytest.mark.parametrize(
    "fresh, wanted",
    [
        ([2, 3, 4, 4, 5, 6, 7, 8], "old0 old1 new0 new1 old4 old5 new4 new5"),
        ([4, 4, 5, 6, 7, 7, 7, 7], "old0 old1 new2 new3 old4 old5 old6 old7"),
        ([4, 4, 5, 5, 7, 7, 7, 7], "old0 old1 old2 old3 old4 old5 old6 old7"),
    ],
)
def test_flat_groups_are_replaced_whole_and_in_their_places(fresh, wanted):
    batch = group_of([0, 1, 1, 1, 1, 0, 2, 2], "old")
    assert flat_groups.flat(batch, 2).tolist() == [False, True, False, True]
    refilled, new = flat_groups.refilled(batch, group_of(fresh, "new"), 2)
    assert " ".join(refilled.texts[:, 0]) == wanted
    at = [int(word[3:]) for word in wanted.split()]
    assert new.tolist() == [word.startswith("new") for word in wanted.split()]
    assert refilled.rows["tokens"][:, 0].tolist() == [i + 100 * n for i, n in zip(at, new, strict=True)]
    assert refilled.stats["n"].tolist() == at


def test_groups_without_a_score_are_flat_and_logs_of_one_draw_alone_are_filled():
    none = np.nan
    batch = group_of([none, none, 1, none, none, 2, 0, 1], "old")
    assert flat_groups.flat(batch, 2).tolist() == [True, True, True, False]
    batch = batch._replace(extra={"note": np.array(list("abcdefgh"), object)})
    fresh = group_of([0, 1, 0, 1, 0, 1, 0, 1], "new")
    fresh = fresh._replace(stats={**fresh.stats, "share": np.ones(8, np.float32)})
    refilled, new = flat_groups.refilled(batch, fresh, 2)
    assert new.tolist() == [True] * 6 + [False] * 2 and refilled.scores.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(refilled.stats["share"], [1] * 6 + [none] * 2)
    assert refilled.extra["note"].tolist() == [None] * 6 + ["g", "h"]


def test_what_nothing_is_learnt_from_is_said_once(capsys):
    say = flat_groups.warner(SimpleNamespace(primary=True), 2)
    batch = group_of([1, 1, np.nan, 2], "x")
    for _ in range(2):
        say(batch, {"frac_reward_zero_std": np.ones(4)})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("1 of 4 completions have no score")
    assert lines[1].startswith("all 2 groups of an iteration have equal scores: their advantages are 0")
    say = flat_groups.warner(SimpleNamespace(primary=True), 2)
    say(group_of([1, 1, 0, 2], "x"), {"frac_reward_zero_std": np.array([1, 1, 0, 0])})
    say(group_of([1, 1, 0, 2], "x"), {})
    assert not capsys.readouterr().err
