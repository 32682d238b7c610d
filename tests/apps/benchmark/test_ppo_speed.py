import numpy as np

from jaxtrain.apps.benchmark import ppo_speed
from jaxtrain.apps.benchmark.ppo_speed import Stages
from jaxtrain.data.preferences import alternatives


def test_rows_are_those_of_the_data_room():
    rng = np.random.default_rng(0)
    prompts, completions = (rng.integers(1, 9, (3, n)).astype(np.int32) for n in (4, 5))
    rows = ppo_speed.rows_of(prompts, completions)
    wanted = alternatives(list(zip(prompts, completions, strict=True)), 3, 9, 0)
    assert rows.keys() == wanted.keys()
    for name, x in wanted.items():
        got = (
            rows[name][:, :-1] if name == "targets" else rows[name]
        )  # the last target is outside of the loss
        assert np.array_equal(got, x[:, :-1] if name == "targets" else x), name


def test_stages_run_in_order_on_what_the_one_before_gave():
    seen = []

    def stage(name):
        def run(value):
            seen.append((name, value))
            return name

        return run

    seconds = Stages(*map(stage, "abcde")).run()
    assert seen == [("a", None), ("b", "a"), ("c", "b"), ("d", "c"), ("e", "d")]
    assert list(seconds) == ["rollout", "scoring", "annotation", "advantages", "updates"]
    assert all(value >= 0 for value in seconds.values())
