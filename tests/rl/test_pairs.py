"""The best and the worst completion of each group as a pair, ties and missing scores, and the reference's samples."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.rl import pairs
from jaxtrain.stages.sampling import SampledTokens

G, T = 3, 4
NAN = np.nan
SCORES = np.array([2, 1, 5, 3, 3, 3, NAN, 4, 1, NAN, NAN, 7], "f")
R = len(SCORES)


def rollout():
    rng = np.random.default_rng(0)
    mask = np.tile(np.array([0, 1, 1, 0], "f"), (R, 1))
    columns = {name: rng.integers(0, 9, (R, T)) for name in ("tokens", "targets", "segments", "positions")}
    logps = np.where(mask > 0, rng.normal(size=(R, T)), NAN).astype("f")
    stats = {"stats/objective/scores": SCORES, "stats/completions/mean_length": np.arange(R, dtype="f")}
    return {**columns, "mask": mask, "ref_logps": logps, "old_logps": logps, "scores": SCORES, **stats}


def test_a_pair_is_the_best_and_the_worst_of_a_group():
    columns = rollout()
    found = pairs.paired(columns, G, references=1)
    chosen, rejected = [2, None, 7, None], [1, None, 8, None]
    for group, two in enumerate(zip(chosen, rejected, strict=True)):
        if two[0] is None:
            assert not found["mask"][group].any(), "equal scores, or fewer than two, are out of the loss"
            continue
        for place, row in enumerate(two):
            for name in ("tokens", "targets", "segments", "positions", "mask"):
                assert np.array_equal(found[name][group, place], columns[name][row])
            exact = columns["ref_logps"][row][1:3].astype(float).sum()
            assert found["ref_logps"][group, place] == pytest.approx(exact, rel=1e-5)
    assert found["from_reference"].tolist()[0] == [1, 0] and found["from_reference"].tolist()[2] == [0, 1]
    assert found["stats/completions/mean_length"].tolist() == np.arange(R).reshape(4, G).tolist()
    assert found.keys() == {
        "tokens", "targets", "segments", "positions", "mask", "ref_logps", "from_reference",
        "stats/objective/scores", "stats/completions/mean_length",
    }  # fmt: skip


def test_scores_are_a_column_and_groups_that_decide_nothing_are_counted():
    mask = np.ones((R, T), "f")
    mask[0] = 0  # as a completion without an end is, with --truncated=mask
    rows = {"mask": mask, "old_logps": np.zeros((R, T), "f")}
    rows = {name: jnp.asarray(x) for name, x in rows.items()}
    columns, metrics = pairs.scores_of(rows, jnp.asarray(SCORES), None, 0.0, group=G)
    wanted = SCORES.copy()
    wanted[0] = NAN
    np.testing.assert_array_equal(columns["scores"], wanted)
    assert metrics["frac_reward_zero_std"].reshape(-1, G)[:, 0].tolist() == [0, 1, 0, 1]


def test_the_last_of_each_group_is_sampled_from_the_reference():
    made = []

    def maker(session, ends, *, max_new):
        made.append(session.trained.whole("trained", "base"))

        def begin(params, base):
            def sample(requests, size):
                return [
                    SampledTokens([*one.ids, seed], True, np.array([len(params)]))
                    for one in requests
                    for seed in one.seeds
                ]

            return sample

        return begin

    class Session(types.SimpleNamespace):
        def _replace(self, **changes):
            return Session(**{**vars(self), **changes})

    class Trained(Session):
        pass

    session = Session(trained=Trained(whole=lambda params, base: f"{params}+{base}"))
    make = pairs.with_reference_samples(lambda: "reference", 1, maker)
    sample = make(session, (9,), max_new=4)("policy", "base")
    found = sample([SampleRequest([1], [10, 11]), SampleRequest([2], [20, 21])], 2)
    assert [one.ids for one in found] == [[1, 10], [1, 11], [2, 20], [2, 21]]
    assert [int(one.logps[0]) for one in found] == [6, 9, 6, 9]  # letters of "policy" and "reference"
    assert made == ["trained+base", "trained"]
