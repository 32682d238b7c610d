"""Scorers of completions: a reward model in batches, and a function on each host's rows."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import dialogs
from jaxtrain.data.chat import load_template
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.rewards import models
from jaxtrain.types import Scorer

PROMPTS = [
    Prompt(({"role": "user", "content": f"question {i}"},), np.zeros(1, np.int32), {"n": i}) for i in range(4)
]


class OnePlan:
    """A plan of one host without a device."""

    process = (0, 1)

    def rows(self, f):
        return f

    def put(self, batch):
        return {name: jnp.asarray(x) for name, x in batch.items()}

    def get(self, x):
        return np.asarray(x)

    def local_rows(self, rows):
        return np.arange(rows)


def reward_model(ensemble="mean", price=0.0):
    """Two members: the first scores by the length, the second by its double."""

    def scores(params, batch):
        length = batch["length"].astype(jnp.float32)
        return jnp.stack([length, 2 * length])

    return models.RewardModel(
        scorer=Scorer(grow=None, axes={}, scores=scores),
        params={"trunk": {"w": np.arange(4.0).reshape(2, 2)}, "score": {"w": np.arange(2.0)}},
        gain=np.array([1.0, 0.5], np.float32),
        bias=np.array([0.0, -3.0], np.float32),
        ensemble=ensemble,
        price=price,
        table=[("reward model", "x")],
    )


def rows(*lengths):
    shape = (len(lengths), 8)
    tokens = {name: np.zeros(shape, np.int32) for name in ("tokens", "segments", "positions")}
    return tokens | {"length": np.array(lengths, np.int32)}


@pytest.mark.parametrize(("ensemble", "wanted"), [("mean", [0.5, 1.5, 2.5, 3.5]), ("min", [-1, 0, 1, 2])])
def test_a_reward_is_the_affine_score_of_the_members(ensemble, wanted):
    scorer = models.model_scorer(reward_model(ensemble), OnePlan(), 2)
    np.testing.assert_allclose(scorer.scores(rows(2, 3, 4, 5), PROMPTS, [""] * 4), wanted)
    assert scorer.table == [("reward model", "x")]


def test_a_value_function_starts_from_the_first_member():
    trunk, score, gain, bias = reward_model().member()
    assert trunk["w"].tolist() == [0, 1] and score["w"] == 0 and (gain, bias) == (1.0, 0.0)


def test_a_function_gets_the_texts_and_records(tmp_path, monkeypatch):
    (tmp_path / "rewards.py").write_text(
        "def polite(prompts, completions, n, **columns):\n    return [len(c) + i for c, i in zip(completions, n)]\n"
    )
    scorer = models.function_scorer(f"{tmp_path / 'rewards.py'}:polite", OnePlan())
    assert scorer.scores({}, PROMPTS, ["a", "bb", "", "c"]).tolist() == [1, 3, 2, 4]


def test_each_completion_is_scored_by_one_host_and_all_hosts_have_the_scores_and_logs(tmp_path, monkeypatch):
    (tmp_path / "rewards.py").write_text(
        "def score(completions, n, log_extra, log_metric, **columns):\n"
        "    log_metric('seen', len(n))\n"
        "    if 0 in n:\n"
        "        log_extra('first', [f'row {i}' for i in n])\n"
        "    return [10 * i for i in n]\n"
    )
    scorer = models.function_scorer(f"{tmp_path / 'rewards.py'}:score", OnePlan())
    parts = []

    def evaluate(share):
        """What a host has, whose results are gathered after those of the hosts before it."""
        monkeypatch.setattr(models.multihost, "share", lambda count: share)
        monkeypatch.setattr(
            models.multihost, "gather_results", lambda action: parts.append(action()) or parts
        )
        return scorer.evaluate({}, PROMPTS, [""] * 4, None)

    evaluate(slice(0, 1))
    evaluate(slice(1, 1))  # there may be more hosts than completions
    scores = evaluate(slice(1, 4))
    assert parts[1] is None
    assert scores.total.tolist() == [0, 10, 20, 30] and scores.by_function["score"].tolist() == [
        0,
        10,
        20,
        30,
    ]
    assert scores.logs.extra == {"first": ["row 0", None, None, None]}
    assert scores.logs.metrics == {"seen": [1.0, 3.0]}


def test_a_reward_model_that_does_not_fit_the_policy_is_refused(monkeypatch, tmp_path):
    ByteTokenizer().save(tmp_path / "tokenizer")
    record = {"stage": "reward", "arch": {"max_len": 16}}
    monkeypatch.setattr(models.workdir, "read_run", lambda source, flag: record)
    monkeypatch.setattr(models.workdir, "newest_step", lambda source: 8)
    settings = config.Scores(reward_model=str(tmp_path))
    models.check(settings, ByteTokenizer(), 16)
    with pytest.raises(ConfigError, match=r"--seq_len=17: the context of --reward_model=.* is 16"):
        models.check(settings, ByteTokenizer(), 17)
    with pytest.raises(ConfigError, match="its tokenizer is not the policy's"):
        models.check(settings, SimpleNamespace(fingerprint="another"), 16)
    plain = load_template("plain", ByteTokenizer())
    models.check(settings, ByteTokenizer(), 16, plain)
    dialogs.with_template(ByteTokenizer(), plain).save(tmp_path / "tokenizer")
    models.check(settings, ByteTokenizer(), 16, plain)
    with pytest.raises(
        ConfigError, match=r"trained under another chat template than the policy's \(chatml\)"
    ):
        models.check(settings, ByteTokenizer(), 16, load_template("chatml", ByteTokenizer()))
    record["stage"] = "sft"
    with pytest.raises(ConfigError, match="a run of sft; name one of"):
        models.check(settings, ByteTokenizer(), 16)
    with pytest.raises(ConfigError, match="no module nowhere"):
        models.check(config.Scores(reward="nowhere:f"), ByteTokenizer(), 16)
