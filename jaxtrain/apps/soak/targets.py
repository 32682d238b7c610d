"""What is attacked: each command at its smallest, with saves every few steps. {here} is its folder, {parents} the runs
that it starts from."""

from typing import NamedTuple

MODEL = "tinytown-200k,layers=1,width=32,heads=2,ff=64"
_SMALL = (
    "--seq_len=48", "--batch_size=8", "--warmup=2", "--eval_batches=1", "--log_every=1", "--lr=1e-3", "--eps=1e-3",
)  # fmt: skip
_PROMPTS = ("--prompt_count=8", "--max_new=8")
_WORLD = "documents=96&held_out=24"


class SoakTarget(NamedTuple):
    """A command under attack.

    `trains`: whether it is a training stage, whose checkpoints, metrics and order of data count. `faults` are names of
    faults.py; empty: all that fit any command.
    """

    name: str
    command: tuple[str, ...]
    trains: bool = True
    faults: tuple[str, ...] = ()
    tiny: str = ""  # what is made smaller inside the process, a name of tiny.py


def training(
    stage: str, *flags: str, data: str, start: str = "sft", steps: int = 6, saves: int = 2
) -> tuple[str, ...]:
    """A training stage's command, in {here}/run."""
    parent = (f"--init_from={{parents}}/{start}",) if start else ()
    cadence = (f"--steps={steps}", f"--checkpoint_every={saves}", "--keep=3", "--cache_dir={here}/cache")
    return (stage, f"--data={data}", *parent, *_SMALL, *cadence, "--workdir={here}/run", *flags)


PREFERENCES = f"tinytown:preferences?{_WORLD}"
PROMPTS = "tinytown:prompts?documents=64"
_ROLLOUTS = (*_PROMPTS, "--minibatches=2", "--batch_size=4")
_NEW = (f"--model={MODEL}", "--tokenizer=bpe:400")
_REWARD = "--reward_model={parents}/reward"

# Runs that others start from: name -> command. They are built first, in this order.
PARENTS = {
    "base": training(
        "pretrain",
        *_NEW,
        "--lr=0.02",
        data="tinytown:pretrain?documents=300&held_out=40",
        start="",
        steps=40,
        saves=0,
    ),
    "sft": training(
        "sft",
        *_PROMPTS,
        "--lr=0.01",
        data="tinytown:sft?documents=200&held_out=40",
        start="base",
        steps=16,
        saves=0,
    ),
    "reward": training("reward", "--prompt_count=8", data=PREFERENCES, steps=4, saves=0),
}

TARGETS = (
    SoakTarget("pretrain", training("pretrain", *_NEW, "--eval_every=3", "--sample_every=3",
        data=f"tinytown:pretrain?{_WORLD}", start="")),
    SoakTarget("sft", training("sft", *_PROMPTS, "--eval_every=3", "--sample_every=3", "--neftune=5",
        data=f"tinytown:sft?{_WORLD}", start="base")),
    SoakTarget("reward", training("reward", "--prompt_count=8", "--members=2", data=PREFERENCES)),
    SoakTarget("dpo", training("dpo", *_PROMPTS, data=PREFERENCES)),
    SoakTarget("ppo", training("ppo", *_ROLLOUTS, _REWARD, "--epochs=2", "--ptx_weight=0", data=PROMPTS, steps=8,
        saves=1)),
    SoakTarget("grpo", training("grpo", *_ROLLOUTS, _REWARD, "--group=2", data=PROMPTS, saves=1)),
    SoakTarget("distill", training("distill", *_PROMPTS, f"--model={MODEL}", "--teacher={parents}/sft",
       "--on_policy=0.5",
        "--draws=2", data=PROMPTS, start="")),
    SoakTarget("constitutional", (
        "constitutional", "--phase=all", "--init_from={parents}/sft", "--pretrained={parents}/base",
        "--data=tinytown:redteam?documents=20", "--helpful=tinytown:prompts?family=help&documents=6", "--human=-",
        "--max_new=40", "--critic_max_new=48", "--rounds=1", "--pairs=2",
        "--helpful_samples=1", "--allow_position_bias",
        "--grammar=false", f"--sft_flags={' '.join(_SMALL)} --prompt_count=4 --steps=3 --checkpoint_every=1",
        f"--reward_flags={' '.join(_SMALL)} --prompt_count=4 --steps=3 --checkpoint_every=1 --soft_labels",
        f"--rl_flags={' '.join(_SMALL)} --max_new=12 --batch_size=4 --minibatches=2 --steps=3 "
        "--checkpoint_every=1 --ptx_weight=0",
        "--workdir={here}/run", "--cache_dir={here}/cache"), False, (), "held_out"),
    SoakTarget("lifecycle", ("lifecycle", "--workdir={here}/run", "--cache_dir={here}/cache"), False,
        ("kill -9 at a time", "SIGTERM at a time", "bit flip", "truncation", "deletion"), "lifecycle"),
    SoakTarget("filter_data", ("filter_data", f"--data=tinytown:pretrain?{_WORLD}&originals=60&dup=.1",
        "--out={here}/run",
        "--workers=1", "--cache_dir={here}/cache"), False),
    SoakTarget("synthesize", ("synthesize", f"--source={PROMPTS}", "--generator={parents}/sft", "--prompting=base",
        "--samples=2", "--count=8", "--answer_temperature=1", "--judge=gold", "--min_score=-1", "--near=1",
        "--max_new=12", "--out={here}/run/rows.jsonl", "--cache_dir={here}/cache"), False),
    SoakTarget("evaluate", ("evaluate", "--models={parents}/base,{parents}/sft", "--prompt_count=8", "--max_new=8",
        "--topics=a boat", "--out={here}/run/report", "--cache_dir={here}/cache"), False),
)  # fmt: skip


def fill(command: tuple[str, ...], here: str, parents: str) -> list[str]:
    """The command with its folders."""
    return [part.replace("{here}", here).replace("{parents}", parents) for part in command]
