"""Plans that cannot be are refused from their flags alone, with the remedy."""

import dataclasses
import json

import pytest

from experiments import plan
from jaxtrain import flags
from jaxtrain.apps.plan import request, topologies
from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.models import zoo


@pytest.fixture(autouse=True)
def _compilers(monkeypatch):
    monkeypatch.setattr(topologies, "require", lambda topology: None)


def made(stage, chip, *argv):
    return request.PlanRequest(stage, flags.from_flags(plan.stage_class(stage), list(argv)), chip)


@pytest.mark.parametrize(
    "stage, argv, message",
    [
        ("pretrain", ["--mesh=fsdp:3,data:-1"], "takes a multiple of 3 devices, --chip=v5e:4x4 has 16"),
        ("pretrain", ["--mesh=fsdp:8"], "takes 8 devices, --chip=v5e:4x4 has 16: .*write -1"),
        ("pretrain", ["--mesh=fsdp:-1"], "--batch_size=8 does not split over 16 .* use a multiple of 16"),
        ("pretrain", ["--batch_size=32", "--microbatches=4"], "use a multiple of 64"),
        ("pretrain", ["--batch_size=16", "--parallel=pmap"], "--parallel=pmap: .*leave it out"),
        ("pretrain", ["--model=llama3-8b", "--seq_len=16384"], "the context of --model=llama3-8b is 8192"),
        ("pretrain", ["--tokenizer=byte"], "no vocabulary of its own; write tinytown-1m,vocab=32000"),
        ("ppo", ["--max_new=48", "--reward=gold"], "--seq_len=48 leaves no room for a prompt"),
        (
            "ppo",
            ["--reward_model=runs/reward"],
            "--reward_model=runs/reward is not a run: .*takes a size, too",
        ),
        ("grpo", ["--group=7", "--reward=gold"], "--group=7 .* do not divide an iteration's 128"),
        (
            "distill",
            ["--teacher=runs/ppo"],
            "--teacher=runs/ppo is not a run: .*such as --teacher=llama3.2-1b",
        ),
        (
            "distill",
            ["--teacher=gpt2", "--seq_len=2048", "--batch_size=16"],
            "context of --teacher=gpt2 is 1024",
        ),
        ("sample", ["--max_new=512"], "leaves no room for a prompt"),
    ],
)
def test_what_cannot_be_is_refused(stage, argv, message):
    with pytest.raises(ConfigError, match=message):
        request.check(made(stage, "v5e:4x4", *argv))


@pytest.mark.parametrize(
    "stage, argv",
    [
        ("pretrain", ["--mesh=data:2,fsdp:-1", "--batch_size=16"]),
        ("pretrain", ["--mesh=fsdp:4,tensor:4", "--batch_size=4"]),
        ("ppo", ["--reward_model=llama3.2-1b"]),
        ("distill", ["--teacher=llama3-8b", "--batch_size=16"]),
    ],
)
def test_what_can_be_is_not(stage, argv):
    request.check(made(stage, "v5e:4x4", *argv))


def test_a_vocabulary_is_the_models_or_the_tokenizers():
    own = request.stage_arch(made("pretrain", "v5e:4x4", "--model=llama3-8b").cfg)
    assert own.vocab == 128256
    ours = request.stage_arch(made("pretrain", "v5e:4x4", "--tokenizer=bpe:1000").cfg)
    assert ours.vocab == 1024
    masked = request.stage_arch(made("pretrain", "v5e:4x4", "--objective=masked").cfg)
    assert ours.causal and not masked.causal


def run(path, stage, arch, **config):
    """A folder with what a run records of itself."""
    path.mkdir()
    ByteTokenizer().save(path / "tokenizer")
    config = {"optim": {"ema": 0.0}, **config}
    record = {"stage": stage, "parent": None, "data": {}, "resumed": [], "config": config, "arch": arch}
    (path / "config.json").write_text(json.dumps(record))
    return path


def test_a_teacher_and_a_reward_model_may_be_runs(tmp_path):
    arch = zoo.resolve("nano,vocab=320,max_len=256")
    teacher = run(tmp_path / "teacher", "sft", dataclasses.asdict(arch))
    reward = run(tmp_path / "reward", "reward", dataclasses.asdict(arch), loss={"members": 3})
    distill = made("distill", "v5e:2x2", f"--teacher={teacher}", "--seq_len=256")
    assert request.teacher_arch(distill.cfg, zoo.ZOO["gpt2"]) == arch
    ppo = made("ppo", "v5e:2x2", f"--reward_model={reward}@7", "--seq_len=256", "--max_new=64")
    assert request.reward_model_arch(ppo.cfg, zoo.ZOO["gpt2"]) == (arch, 3)
    for each in (distill, ppo):
        request.check(each)
    with pytest.raises(ConfigError, match=r"--teacher=.*reward: a reward model"):
        request.check(made("distill", "v5e:2x2", f"--teacher={reward}", "--seq_len=256"))
    with pytest.raises(ConfigError, match=r"a run of sft; name one of \./launch/run reward"):
        request.check(made("ppo", "v5e:2x2", f"--reward_model={teacher}"))
    with pytest.raises(ConfigError, match=f"--seq_len=512: the context of --reward_model={reward} is 256"):
        request.check(made("ppo", "v5e:2x2", f"--reward_model={reward}", "--seq_len=512"))


def test_without_a_name_they_are_as_large_as_the_model():
    own = zoo.resolve("llama3.2-1b")
    assert request.teacher_arch(made("distill", "v5e:2x2").cfg, own) == own
    assert request.reward_model_arch(made("ppo", "v5e:2x2").cfg, own) == (own, 1)
