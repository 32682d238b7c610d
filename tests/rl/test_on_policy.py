"""What the on-policy stages share: checks of flags, and what the first update must report."""

import dataclasses

import jax.numpy as jnp
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import chat
from jaxtrain.rl import on_policy, ptx
from tests.rl.test_scoring import TOKENS, settings


def flags(samples=None, **changes):
    cfg = settings(**changes)
    cfg.model, cfg.samples = config.Model(dtype="float32"), dataclasses.replace(cfg.samples, **samples or {})
    return cfg


def test_flags_that_contradict_each_other_are_refused():
    on_policy.check(flags(), TOKENS)
    with pytest.raises(
        ConfigError, match="--group=5 completions of a prompt do not divide an iteration's 12"
    ):
        on_policy.check(flags({"group": 5}), TOKENS)
    with pytest.raises(ConfigError, match="--overlong_buffer=12: more than --max_new=10"):
        on_policy.check(flags(overlong_buffer=12), TOKENS)
    weighted = flags()
    weighted.data = dataclasses.replace(weighted.data, data="tinytown:prompts*0.5,tinytown:redteam*0.5")
    with pytest.raises(ConfigError, match="leave the weights out"):
        on_policy.check(weighted, TOKENS)


def test_settings_that_would_do_nothing_are_refused():
    cfg = flags()
    assert on_policy.settings(cfg, critic=False).temperature == cfg.samples.temperature
    with pytest.raises(ConfigError, match=r"--value_weight=0\.5 does nothing here"):
        on_policy.settings(cfg, critic=False, value_weight=0.5)


def test_the_first_update_has_no_ratio_and_no_kl():
    assert on_policy.expected(jnp.float32, False).keys() == {
        "val/ratio",
        "policy/approxkl_avg",
        "policy/clipfrac_avg",
    }
    priced = on_policy.expected(jnp.float32, True)
    assert priced["val/ratio"] == (1.0, 1e-3) and priced["objective/kl"][0] == 0.0


def test_without_a_weight_there_are_no_pretraining_columns():
    extra, table = ptx.ptx_columns(flags(), None, None, 0.0, "")
    assert extra(3, 10.0) == {} and table == []


def test_a_reward_function_that_needs_more_than_the_records_have_is_refused_with_the_data(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def f(prompts, completions, completion_ids, trainer_state, answer): return answer\n"
    )
    (tmp_path / "with.jsonl").write_text(
        "".join(f'{{"prompt": "Hi {i}?", "answer": "Yes."}}\n' for i in range(3))
    )
    (tmp_path / "without.jsonl").write_text("".join(f'{{"prompt": "Hi {i}?"}}\n' for i in range(3)))
    template = chat.load_template("plain", TOKENS)
    cfg = flags()
    cfg.scores = config.Scores(reward=f"{tmp_path}/mine.py:f")
    cfg.data = config.Dialogs(data=f"jsonl:{tmp_path}/with.jsonl", cache_dir=str(tmp_path / "cache"))
    assert on_policy.fingerprints(cfg, template)["tokenizer"] == TOKENS.fingerprint
    cfg.data = dataclasses.replace(cfg.data, data=f"jsonl:{tmp_path}/without.jsonl")
    message = r"mine\.py:f: it needs answer, which --data=jsonl:.* does not have; there are"
    with pytest.raises(ConfigError, match=message):
        on_policy.fingerprints(cfg, template)
