"""Configs: checks, JSON, what may differ when a run resumes, and a run's folder."""

import dataclasses
import json

import pytest

from experiments.pretrain import Pretrain
from jaxtrain import config, flags
from jaxtrain.config import ConfigError
from jaxtrain.stages import init_from
from tests.test_flags import read


def test_json_round_trip():
    cfg = read("lr=0.25", "model=nano", "objective=fim", "fim_rate=0.9", "eval_every=7", "ema=0.5")
    assert flags.from_dict(Pretrain, json.loads(config.dumps(config.to_dict(cfg)))) == cfg
    held = config.to_dict(cfg)
    held["optim"]["speed"] = held["optim"].pop("lr")
    with pytest.raises(ConfigError, match=r"another version: unknown \['speed'\], missing \['lr'\]"):
        flags.from_dict(Pretrain, held)


def test_only_flags_that_are_not_live_keep_a_run_from_resuming():
    old = config.to_dict(read("lr=0.1"))
    assert config.difference(old, read("lr=0.2", "eval_every=3", "microbatches=2", "dtype=bfloat16")) == [
        "--lr: 0.1 -> 0.2"
    ]
    del old["data"]["seq_len"]  # a run from before the flag had its default
    assert config.difference(old, read("lr=0.1")) == []
    assert config.difference(old, read("lr=0.1", "seq_len=64")) == ["--seq_len: 128 -> 64"]


def test_the_workdir_is_named_after_what_differs():
    assert config.workdir(read(), "pretrain") == "runs/pretrain"
    assert config.workdir(read("steps=70"), "pretrain") == "runs/pretrain"
    named = read("model=nano,layers=2", "data=jsonl:/a/b c.jsonl.xz*0.7,tinytown:pretrain")
    assert config.workdir(named, "pretrain") == "runs/pretrain-nano-layers-2-b-c+tinytown-pretrain"
    assert config.workdir(read("workdir=gs://b/x"), "pretrain") == "gs://b/x"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["model=nanoo"], "--model=nanoo: no model of that name; did you mean nano"),
        (["model=nano,layer=3"], "'layer' is no field; one of layers, width"),
        (["model=nano,layers=x"], "layers takes int, not 'x'"),
        (["model=nano,causal=false"], "--model=nano,causal=false: .*use --objective=masked"),
        (["model=gpt2", "seq_len=2048"], "--seq_len=2048: the context of --model=gpt2 is 1024"),
        (["data=tinytwon:pretrain"], "--data=tinytwon:pretrain: write KIND:NAME .*did you mean tinytown"),
        (["data=jsonl:/none/*.jsonl"], "no file matches '/none/.*check the path"),
        (["eval_data=jsonl:/none"], "--eval_data: no file matches"),
        (["tokenizer=bpe"], "--tokenizer=bpe: write bpe:SIZE"),
        (["init_from=/none"], "--init_from=/none is not a run: there is no such folder"),
    ],
)  # fmt: skip
def test_a_model_or_data_that_cannot_be_is_refused_with_the_remedy(flags, message):
    with pytest.raises(ConfigError, match=message):
        init_from.resolve(read(*flags))


def test_attention_follows_the_objective():
    assert not init_from.resolve(read("objective=masked"), causal=False).arch.causal
    assert not init_from.resolve(
        read("objective=masked", "model=nano,causal=false"), causal=False
    ).arch.causal
    assert init_from.resolve(read()).arch.causal


def test_values_are_checked_when_made_in_code_too():
    with pytest.raises(ConfigError, match="--batch_size=0: must be at least 1"):
        config.Data(batch_size=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Data().batch_size = 3
