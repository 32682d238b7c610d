"""The mistakes of a first hour, as commands: each is answered without jax, in a message with the remedy, exit status 2.

All of them run in one process, which is told to stop where jax is imported.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.source import ROOT
from tests.train.test_run_list import run

MISTAKES = [  # a command line, and a part of the message that says what to do
    ("pretrain --modle=nano", "did you mean --model?"),
    ("pretrain --learning_rate=1", "did you mean --lr?"),
    ("pretrain --num_train_epochs=3", "did you mean --steps? (training is counted in steps"),
    ("pretrain --steps=ten", "write a whole number, such as 1500"),
    ("pretrain --steps", "write --steps=1500"),
    ("pretrain --steps=0", "must be at least 1"),
    ("pretrain --lr=nan", "must be a finite number"),
    ("pretrain --lr=fast", "write a number, such as 0.004"),
    ("pretrain --dry_run=maybe", "write true or false"),
    ("pretrain steps=3", "write --name=value"),
    ("pretrain --optimizer=adam", "did you mean adamw"),
    ("pretrain --dtype=bf16", "did you mean bfloat16?"),
    ("pretrain --model=nanoo", "did you mean nano"),
    ("pretrain --model=nano,layer=3", "layers"),
    ("pretrain --warmup=9000", "lower it"),
    ("pretrain --batch_size=6 --microbatches=4", "use a multiple"),
    ("pretrain --mesh=fsdp", "write AXIS:SIZE"),
    ("pretrain --parallel=pmap --mesh=fsdp:2", "use --parallel=mesh"),
    ("pretrain --data=jsonl:none.jsonl", "none.jsonl"),
    ("pretrain --data=tinytwn:sft", "did you mean tinytown"),
    ("pretrain --data=tinytown:sftt", "choose one of pretrain, sft"),
    ("pretrain --tokenizer=none.json", "none.json"),
    ("pretrain --cache_dir=gs://bucket/c", "must be a path of this machine"),
    ("pretrain --workdir=gs:/bucket/c", "write gs://BUCKET/PATH"),
    ("pretrain --mask_rate=.3", "acts only with --objective=masked"),
    ("pretrain --schedule=constant --end_lr=0", "acts only with --schedule=linear"),
    ("pretrain --keep_best=eval/novelty", ":max or eval/novelty:min"),
    ("pretrain --step_timeout=soon", "write auto, seconds, or 0"),
    ("pretrain --flagfile=none.flags", "none.flags"),
    ("sft", "such as runs/pretrain"),
    ("sft --init_from=runs/pretrian", "did you mean runs/lifecycle/pretrain? The runs that there are"),
    ("sft --init_from=runs/lifecycle", "it has no config.json; the runs that there are"),
    ("sft --init_from=runs/reward", "a reward model; name the run of a language model"),
    (
        "sft --init_from=hf:none/there/at/all",
        "--init_from=hf:none/there/at/all: none/there/at/all/config.json: no such file; name a folder",
    ),
    ("dpo --init_from=runs/pretrain --loss=sigmod", "did you mean sigmoid"),
    ("dpo --loss=hinge --tau=1", "acts only with --loss=discopop"),
    ("reward --sample_every=5", "leave it out"),
    ("ppo --reward=gold --reward_model=runs/reward", "name one of them"),
    ("ppo --kl_horizon=5", "acts only with --kl_target"),
    ("grpo --num_generations=4", "did you mean --group?"),
    ("distill", "such as runs/ppo"),
    ("distill --teacher=runs/pretrain --tokenizer=byte", "takes the teacher's tokenizer; leave it out"),
    ("evaluate", "such as runs/sft,runs/ppo"),
    ("evaluate --data=tinytown:prompts", "did you mean --prompts?"),
    ("evaluate --models=runs/a,runs/a", "named twice"),
    ("sample", "such as runs/sft"),
    ("sample --model=runs/sft", "did you mean --init_from"),
    ("sample --init_from=runs/sft --prompt=", "write a text, or leave it out"),
    ("serve --init_from=runs/sft", "did you mean --model"),
    ("export --init_from=runs/pretrain --to=folder", "write hf:DIR"),
    ("synthesize --topics=x --out=x.jsonl", "--generator: name"),
    ("filter_data --data=tinytown:pretrain", "--data and --out"),
    ("train_classifier --out=x.npz", "name labelled documents"),
    ("constitutional --phase=reviser", "did you mean revise?"),
    ("collect_preferences", "such as runs/sft"),
    ("lifecycle --seeds=none", "whole numbers"),
    ("bench --sizes=nope", "--sizes"),
    ("bench --steps=7", "trains no run; leave it out"),
    ("completion --shell=tcsh", "choose one of bash, zsh, fish"),
    ("runs --delete=runs/pretrian", "did you mean runs/lifecycle/pretrain?"),
]
ANSWERED = 30.0  # seconds, some hundred times what it takes

RUNNER = """
import importlib, json, re, shlex, sys, time, traceback
sys.modules["jax"] = None  # an import of it fails
from jaxtrain import flags
from jaxtrain.config import ConfigError
for line in json.load(sys.stdin):
    name, *argv = shlex.split(line)
    begun, status, said = time.monotonic(), 0, ""
    try:
        module = importlib.import_module(f"experiments.{name}")
        with open(module.__file__, encoding="utf-8") as file:
            cls = re.search(r"flags\\.launch\\((\\w+), main", file.read())[1]
        module.main(flags.from_flags(getattr(module, cls), argv))
    except ConfigError as error:
        status, said = 2, str(error)
    except BaseException:
        status, said = 1, traceback.format_exc()
    print(json.dumps([status, said, time.monotonic() - begun]), file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{command line: (exit status, message, seconds)} in a folder with the runs of a lifecycle."""
    folder = tmp_path_factory.mktemp("mistakes")
    run(folder / "runs" / "lifecycle" / "pretrain", "pretrain", saved=(300,), arch={}, age=1)
    run(folder / "runs" / "lifecycle" / "reward", "reward", saved=(300,), arch={})
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps([line for line, _ in MISTAKES]), cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert len(lines) == len(MISTAKES), done.stderr
    assert not (folder / "runs" / "pretrain").exists() and not list(folder.glob("*.npz"))
    return dict(zip((line for line, _ in MISTAKES), map(json.loads, lines), strict=True))


@pytest.mark.parametrize(("line", "remedy"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_answered_with_the_remedy(answers, line, remedy):
    status, said, seconds = answers[line]
    assert status == 2 and remedy in said, said
    assert seconds < ANSWERED and "Traceback" not in said
