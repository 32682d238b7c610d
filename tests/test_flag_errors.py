"""The flag that was meant: misspelt ones, and those of other projects."""

import dataclasses

import pytest

from experiments.evaluate import Evaluate
from experiments.grpo import Grpo
from experiments.ppo import Ppo
from experiments.pretrain import Pretrain
from experiments.serve import Serve
from experiments.sft import Sft
from experiments.synthesize import Synthesize
from jaxtrain import config, flag_errors, flags
from jaxtrain.config import ConfigError


def refused(cls, *argv):
    with pytest.raises(ConfigError) as caught:
        flags.from_flags(cls, list(argv))
    return str(caught.value).removesuffix(" (--helpfull lists the flags)")


@pytest.mark.parametrize(
    ("cls", "given", "meant"),
    [
        (Pretrain, "learning_rate", "--lr"),
        (Pretrain, "modle", "--model"),
        (Pretrain, "batch-sz", "--batch_size"),
        (Pretrain, "nodryrun", "--dry_run"),
        (Sft, "num_train_epochs", "--steps? (training is counted in steps of --batch_size rows)"),
        (Sft, "per_device_train_batch_size", "--batch_size? (it counts the rows of all devices)"),
        (Sft, "gradient-accumulation-steps", "--microbatches"),
        (Sft, "max_seq_length", "--seq_len"),
        (Sft, "output_dir", "--workdir"),
        (Sft, "model_name_or_path", "--init_from"),
        (Sft, "warmup_ratio", "--warmup? (it counts steps)"),
        (Sft, "lora_r", "--lora_rank"),
        (Grpo, "num_generations", "--group"),
        (Ppo, "vf_coef", "--value_coef"),
        (Evaluate, "data", "--prompts"),
        (Evaluate, "model", "--models"),
        (Evaluate, "init_from", "--models"),
        (Evaluate, "output_dir", "--out"),
        (Serve, "init_from", "--model"),
        (Synthesize, "data", "--source"),
        (Synthesize, "model", "--generator"),
    ],
)
def test_the_flag_that_was_meant_is_suggested(cls, given, meant):
    said = refused(cls, f"--{given}=3")
    start = f"there is no flag --{given}; did you mean {meant.partition('?')[0]}"
    assert said.startswith(start) and meant.partition("?")[2] in said, said


def test_nothing_is_suggested_that_is_not_near():
    assert refused(Pretrain, "--quantum=3") == "there is no flag --quantum"


def test_every_suggestion_is_a_flag_of_some_command_and_no_name_is_one_of_ours_where_it_is_used():
    commands = (Pretrain, Sft, Ppo, Grpo, Evaluate, Serve, Synthesize)
    known = {field.name for cls in commands for _, field, _ in config.leaves(cls)}
    from experiments.distill import Distill

    known |= {field.name for _, field, _ in config.leaves(Distill)}
    assert {name for ours in flag_errors.OTHER_NAMES for name in ours.split()} - known <= {"to"}, "of export"
    for theirs in flag_errors.OTHER_NAMES.values():
        assert all(name == name.lower() and "-" not in name for name in theirs.split())


def test_a_value_says_what_the_flag_takes():
    @dataclasses.dataclass(frozen=True)
    class Values(config.Group):
        count: int = config.arg(3, "A count")
        share: float = config.arg(0.5, "A share")
        text: str = config.arg("", "A text")

    @dataclasses.dataclass(frozen=True)
    class Command:
        values: Values = config.group(Values)

    assert refused(Command, "--count=ten") == "--count=ten: write a whole number, such as 3"
    assert refused(Command, "--count=") == "--count=: write a whole number, such as 3"
    assert refused(Command, "--share=a: b") == "--share=a: b: write a number, such as 0.5"
    assert refused(Command, "--text") == "--text: it has no value; write --text=VALUE"
    assert "No such file" in refused(Command, "--flagfile=/none")


def test_a_default_warmup_is_a_tenth_of_few_steps_and_a_typed_one_is_not_changed(capsys):
    def warmup(*argv):
        return flags.from_flags(Pretrain, list(argv)).optim.warmup

    assert [warmup(f"--steps={steps}") for steps in (1, 20, 50)] == [0, 2, 5]
    assert "--warmup: 5, a tenth of --steps=50, as the default 50 is too long\n" in capsys.readouterr().err
    assert warmup("--steps=51") == 50 and warmup("--steps=20", "--warmup=7") == 7
    assert capsys.readouterr().err == ""
    assert "--steps=0" in refused(Pretrain, "--steps=0")
    assert "must end before" in refused(Pretrain, "--steps=50", "--warmup=50")
