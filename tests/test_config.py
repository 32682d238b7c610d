"""Configs: checks, and a run's folder."""

import dataclasses

import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.stages import init_from
from jaxtrain.train import workdir
from tests.test_flags import read


def test_the_workdir_is_named_after_what_differs():
    assert workdir.folder_of(read(), "pretrain") == "runs/pretrain"
    assert workdir.folder_of(read("steps=70"), "pretrain") == "runs/pretrain"
    named = read("model=nano,layers=2", "data=jsonl:/a/b c.jsonl.xz*0.7,tinytown:pretrain")
    assert workdir.folder_of(named, "pretrain") == "runs/pretrain-nano-layers-2-b-c+tinytown-pretrain"
    assert workdir.folder_of(read("workdir=gs://b/x"), "pretrain") == "gs://b/x"
    # The model of --init_from is not the default one that --model has then.
    sums = read("data=tinytown:prompts:test?family=sum")
    assert workdir.folder_of(sums, "grpo") == "runs/grpo-tinytown-prompts-test-family-sum"
    assert workdir.folder_of(read("model=nano"), "pretrain") == "runs/pretrain-nano"


def test_a_run_of_an_earlier_version_goes_on_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = read("data=jsonl:/a/votes.jsonl")
    assert workdir.folder_of(cfg, "reward") == "runs/reward-votes"
    (tmp_path / "runs" / "reward-tinytown-1m-votes").mkdir(parents=True)
    assert workdir.folder_of(cfg, "reward") == "runs/reward-tinytown-1m-votes"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["model=nanoo"], "--model=nanoo: no model of that name; did you mean nano"),
        (["model=nano,layer=3"], "'layer' is not a field; one of layers, width"),
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


@pytest.mark.parametrize("text", ["-1e-6", "nan", "inf", "1e-9", "0.5"])
def test_a_jitter_that_does_nothing_or_too_much_is_refused(text):
    with pytest.raises(
        ConfigError, match=f"--jitter={text}".replace("1e-6", "1e-06").replace("1e-9", "1e-09")
    ):
        read(f"jitter={text}")


def test_a_jitter_needs_fresh_parameters():
    assert read("jitter=1e-6").model.jitter == 1e-6 and read("jitter=0", "init_from=x").model.init_from == "x"
    with pytest.raises(
        ConfigError, match=r"--jitter=1e-06 moves the parameters .* --init_from=x are not drawn"
    ):
        read("jitter=1e-6", "init_from=x")
    old = config.to_dict(read())
    del old["model"]["jitter"]
    assert config.difference(old, read()) == []
    assert config.difference(old, read("jitter=1e-6")) == ["--jitter: 0.0 -> 1e-06"]
