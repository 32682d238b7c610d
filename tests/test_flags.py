"""Command lines to configs: every mistake answered before anything heavy is loaded."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.pretrain import Pretrain
from jaxtrain import config, flags
from jaxtrain.config import ConfigError

ROOT = Path(__file__).parent.parent


def read(*given):
    return flags.from_flags(Pretrain, [f"--{flag}" for flag in given])


def test_flags_fill_their_groups_and_the_rest_are_defaults():
    cfg = read("lr=0.5", "model=nano", "steps=70", "dry_run", "mesh=data:2")
    assert (cfg.optim.lr, cfg.model.model, cfg.run.steps, cfg.run.dry_run) == (0.5, "nano", 70, True)
    assert read() == Pretrain()
    names = [field.name for _, field, _ in config.leaves(Pretrain)]
    assert len(names) == len(set(names))


def test_a_flag_file_is_flags(tmp_path):
    (tmp_path / "a.flags").write_text("# A recipe.\n--lr=0.125\n--steps=99\n")
    cfg = read(f"flagfile={tmp_path}/a.flags", "steps=101")
    assert (cfg.optim.lr, cfg.run.steps) == (0.125, 101)
    with pytest.raises(ConfigError, match=r"^Unable to open flagfile: .*none\.flags"):
        read(f"flagfile={tmp_path}/none.flags")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["lr=high"], "--lr.*high"),
        (["lr=nan"], "--lr=nan: must be a finite number"),
        (["lr=inf"], "--lr=inf: must be a finite number"),
        (["lr=-1"], "--lr=-1.0: must be at least 0"),
        (["steps=0"], "--steps=0: must be at least 1"),
        (["steps=1.5"], "--steps"),
        (["learning_rate=1"], "learning_rate"),
        (["optimizer=adam"], "--optimizer=adam: choose one of adamw, adam_tf, lion"),
        (["b2=1"], "--b2=1.0: must be below 1"),
        (["ema=1.5"], "--ema=1.5: must be below 1"),
        (["mask_rate=2", "objective=masked"], "--mask_rate=2.0: a share, at most 1"),
        (["mask_rate=0.3"], "--mask_rate=0.3 acts only with --objective=masked, and it is next_token"),
        (["fim_rate=0.1", "objective=masked"], "--fim_rate=0.1 acts only with --objective=fim"),
        (["decay_share=0.1"], "--decay_share=0.1 acts only with --schedule=wsd, and it is cosine"),
        (["end_lr=0", "schedule=constant"], "--end_lr=0.0 acts only with --schedule=linear or cosine or wsd"),
        (["b2=0.9", "optimizer=sgd"], "--b2=0.9 acts only with --optimizer=adamw or"),
        (["eps=1", "optimizer=adafactor"], "--eps=1.0 acts only with"),
        (["sample_every=9", "objective=masked"], "--sample_every=9 acts only with"),
        (["model=nano", "init_from=runs/a"], "--model=nano and --init_from=runs/a .*leave out one"),
        (["tokenizer=byte", "init_from=runs/a"], "--tokenizer=byte and --init_from=runs/a"),
        (["eval_share=0.5", "eval_data=jsonl:a"], "--eval_share=0.5 and --eval_data=jsonl:a"),
        (["warmup=70", "steps=70"], "--warmup=70: the warm-up must end before --steps=70"),
        (["warmup=50", "steps=20"], "--warmup=50: the warm-up must end before --steps=20; lower it"),
        (["optimizer=adam"], "choose one of adamw, .*; did you mean adamw or"),
        (["steps=ten"], "^--steps=ten: write a whole number, such as 1500 "),
        (["lr=1e-3x"], "^--lr=1e-3x: write a number, such as 0.004 "),
        (["dry_run=maybe"], "^--dry_run=maybe: write true or false "),
        (["nodry_run=3"], "--nodry_run=3 does not take an argument"),
        (["steps"], "^--steps: it has no value; write --steps=1500 "),
        (["batch_size=6", "microbatches=4"], "--batch_size=6 does not split into --microbatches=4"),
        (["parallel=pmap", "mesh=fsdp:2"], "keeps rows whole, --mesh=fsdp:2 does not: use --parallel=mesh"),
        (["parallel=pmap", "mesh=context:2"], "keeps rows whole, --mesh=context:2 does not"),
        (["mesh=fsdp"], "--mesh=fsdp: write AXIS:SIZE"),
        (["mesh=fsdp:2,fsdp:2"], "each once"),
        (["mesh=experts:2"], "with axes data, fsdp, expert, context, tensor"),
        (["mesh=fsdp:-2"], "sizes of 1 or more"),
        (["mesh=fsdp:-10"], "sizes of 1 or more"),
        (["mesh=fsdp:0"], "sizes of 1 or more"),
        (["mesh=fsdp:-1,data:-1"], r"only one axis can take the rest \(-1\)"),
        (["workdir=gs:/bucket/run"], "--workdir=gs:/bucket/run: write gs://BUCKET/PATH"),
        (["workdir=az://bucket/run"], "--workdir=az://bucket/run: .* mount it, and name"),
        (["cache_dir=gs://b/c"], "--cache_dir=gs://b/c: this must be a path of this machine; gs:// is for --init"),
        (["cache_dir=hdfs://x"], "--cache_dir=hdfs://x: .* mount it"),
        (["data=jsonl:s3://b/*.jsonl*0.5,jsonl:az://b/*.jsonl*0.5"], "--data=.*az:// is read .* by no flag"),
        (["data=jsonl:https://x.org/a.jsonl"], "fetch the file, and name it"),
        (["init_from=file:///runs/a"], "write the path without it"),
    ],
)  # fmt: skip
def test_a_flag_that_cannot_be_is_refused_with_the_remedy(flags, message):
    with pytest.raises(ConfigError, match=message):
        read(*flags)


def test_an_endpoint_may_have_an_address_and_a_text_any_words():
    @dataclasses.dataclass(frozen=True)
    class Asked(config.Group):
        teacher: str = config.arg("", "A run, or http://HOST:PORT/v1?model=NAME")
        prompt: str = config.arg("", "Text")

    @dataclasses.dataclass(frozen=True)
    class Command:
        asked: Asked = config.group(Asked)

    given = ["--teacher=http://h:1/v1", "--prompt=gs://bucket is"]
    assert flags.from_flags(Command, given).asked == Asked("http://h:1/v1", "gs://bucket is")
    with pytest.raises(ConfigError, match="--teacher=s3://b: this must be a path of this machine "):
        flags.from_flags(Command, ["--teacher=s3://b"])


def test_what_is_not_a_flag_is_refused():
    with pytest.raises(ConfigError, match=r"'steps=3' is not a flag: write --name=value"):
        flags.from_flags(Pretrain, ["steps=3"])


def test_a_mistake_is_answered_at_once_in_one_line_with_status_2():
    """Through the command line; jax and what it costs are not loaded for it."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for flag, said in (
        ("--modle=nano", "modle"),
        ("--model=nanoo", "did you mean nano"),
        ("--warmup=9000", "--warmup"),
        ("--cache_dir=gs://b/run", "path of this machine"),
    ):
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-P", "-X", "importtime", "-m", "experiments.pretrain", flag],
            env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True,
        )  # fmt: skip
        assert time.monotonic() - begun < 2
        told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert done.returncode == 2 and done.stdout == "" and len(told) == 1
        assert told[0].startswith("error: ") and said in told[0]
        assert not re.search(r"\|\s+(jax|jaxlib|tensorflow_datasets|grain)\n", done.stderr)


FAILING = """
import sys
from experiments.pretrain import Pretrain
from jaxtrain import config, flags, signals
def made_of(signal):
    signal.add_note("a note")
    error = config.Failure("the checkpoint is damaged: 15")
    error.__cause__ = Exception("while reading")
    error.__cause__.__cause__ = signal
    return error
def main(cfg):
    error = {kind}
    error.add_note("a note")
    raise error
sys.argv = ["run"]
flags.launch(Pretrain, main, "run")
"""


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("config.ConfigError('bad flag')", 2, "error: bad flag\na note\n"),
        ("config.Failure('went wrong')", 1, "error: went wrong\na note\n"),
        ("OSError(13, 'No right', '/x')", 1, "error: [Errno 13] No right: '/x'\na note\n"),
        ("KeyboardInterrupt()", 130, "error: interrupted\na note\n"),
        ("made_of(signals.Stopped(15))", 143, "error: stopped by SIGTERM\na note\n"),
    ],
)  # fmt: skip
def test_what_a_run_can_explain_has_no_traceback(kind, status, said):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(kind=kind)],
        env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, said)


def test_a_device_without_memory_has_no_traceback():
    """A real allocation of 16 TiB."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    kind = "__import__('jax').numpy.zeros(1 << 42, 'float32').block_until_ready()"
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(kind=kind)],
        env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "--batch_size" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: a device has no memory left: RESOURCE_EXHAUSTED: Out of memory")


def commands():
    """(name, config class) of every command."""
    for file in sorted((ROOT / "experiments").glob("**/*.py")):
        if launched := re.search(r"flags\.launch\((\w+), main", file.read_text(encoding="utf-8")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            if isinstance(cls := getattr(importlib.import_module(name), launched[1]), type):
                yield name, cls


@pytest.mark.parametrize(("name", "cls"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_every_flag_takes_a_bucket_or_refuses_it(name, cls):
    """No flag can make a local folder `gs:`: one that says nothing about buckets refuses them."""
    for _, field, default in config.leaves(cls):
        if not isinstance(default, str) or field.name in flags._TEXTS:
            continue
        for value in ("gs://bucket/a", "jsonl:s3://bucket/a", "hf:gs://bucket/a", "gs:/bucket/a"):
            refused = ""
            try:
                flags.from_flags(cls, [f"--{field.name}={value}"])
            except ConfigError as error:
                refused = str(error)
            if field.metadata["remote"] and "://" in value:
                assert "path of this machine" not in refused
            else:
                assert f"--{field.name}" in refused, value


@pytest.mark.parametrize(("name", "cls"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_every_command_that_names_sources_has_the_flags_of_reading(name, cls):
    """Messages about records name --on_bad_record, --max_line_mb and --max_expansion."""
    texts = {field.name: f"{field.metadata['help']} {default}" for _, field, default in config.leaves(cls)}
    reads = any("tinytown:" in text for text in texts.values())
    names = {field.name for field in dataclasses.fields(config.Reading)}
    assert names <= texts.keys() if reads else not names & texts.keys()
