"""Groups of equal scores: found, sampled again, and said."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rl import config as rl_config
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


def drawn(flat_share, resample=0, budget=0, groups=8, batch=4):
    """(an iteration's batch, prompts taken after it, the sizes sampled, the config) of groups of two, many flat."""
    cfg = SimpleNamespace(
        samples=SimpleNamespace(group=2, minibatches=2 * groups // batch, resample=resample),
        data=SimpleNamespace(batch_size=batch),
        sampler=rl_config.RolloutSampler(sample_budget=budget),
    )
    sizes = []

    def sample(state, taken, count=groups):
        sizes.append(count)
        flat = [i % flat_share != 0 for i in range(taken, taken + count)]
        scores = [score for same in flat for score in ((1, 1) if same else (0, 1))]
        return group_of(scores, f"{taken}:")

    batch, taken = flat_groups.filler(cfg, sample)(None, 100)
    return batch, taken - 100, sizes, cfg


def test_a_budget_samples_what_seems_missing_until_no_group_is_flat():
    """Every second group is flat: 4 are missing of 8, so 8 are sampled, of which 4 fill the gaps."""
    batch, taken, sizes, _ = drawn(2, budget=64)
    assert sizes == [8, 8] and taken == 16 and not flat_groups.flat(batch, 2).any()
    assert (
        batch.stats["completions/sampled"].tolist() == [32] * 16
        and batch.stats["completions/redrawn"].sum() == 8
    )
    batch, taken, sizes, cfg = drawn(4, budget=40)
    # 2 of 8 are useful, so that 24 seem missing: at most the iteration's 8 at once, then the 4 that the budget leaves.
    assert sizes == [8, 8, 4] and taken == 20 and flat_groups.flat(batch, 2).sum() == 3
    assert all(size % rl_config.least_groups(cfg) == 0 for size in sizes)


def test_a_number_of_tries_samples_whole_iterations_again():
    batch, taken, sizes, _ = drawn(4, resample=2)
    assert sizes == [8, 8, 8] and taken == 24 and flat_groups.flat(batch, 2).sum() == 2
    batch, taken, sizes, _ = drawn(1, resample=2)
    assert sizes == [8] and taken == 8 and batch.stats["completions/sampled"][0] == 16
    batch, _, sizes, _ = drawn(4)
    assert sizes == [8] and "completions/sampled" not in batch.stats


@pytest.mark.parametrize(
    "group, resample, budget, message",
    [(1, 0, 64, "--group=1 has none"), (2, 1, 64, "--resample decides"), (2, 0, 17, "use 20 or more")],
)
def test_a_budget_that_would_do_nothing_is_refused(group, resample, budget, message):
    cfg = SimpleNamespace(
        samples=SimpleNamespace(group=group, minibatches=4, resample=resample),
        data=SimpleNamespace(batch_size=4),
        sampler=rl_config.RolloutSampler(sample_budget=budget),
    )
    with pytest.raises(ConfigError, match=f"--sample_budget={budget}: .*{message}"):
        rl_config.check_sampler(cfg)
