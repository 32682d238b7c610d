"""Plans that cannot be are refused from their flags alone, with the remedy."""

import pytest

from experiments import plan
from jaxtrain import flags
from jaxtrain.apps.plan import request, topologies
from jaxtrain.config import ConfigError


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
        ("ppo", ["--reward_model=runs/reward"], "--reward_model=runs/reward: .*name a size"),
        ("grpo", ["--group=7", "--reward=gold"], "--group=7 .* do not divide an iteration's 128"),
        ("distill", ["--teacher=runs/ppo"], "--teacher=runs/ppo: plan reads no weights"),
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
