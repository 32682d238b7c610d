"""--help, --helpfull and --help=WORD: what they show, and that every command's description and examples are true."""

import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.pretrain import Pretrain
from experiments.sft import Sft
from jaxtrain import config, flag_help, flags
from jaxtrain.config import ConfigError
from tests.docs import test_commands as docs
from tests.source import ROOT

COMMANDS = docs.stages()


def module(stage):
    return importlib.import_module(f"experiments.{stage}")


def names(text):
    return re.findall(r"^  --(\w+)=", text, re.M)


def heads(text):
    return [line for line in text.splitlines() if line.startswith("  --")]


def test_help_describes_and_shows_ten_flags():
    text = flag_help.text(Pretrain, "./launch/run pretrain", module("pretrain"))
    about = text.split("\n\n")[1]
    assert (
        " ".join(about.split()).startswith(module("pretrain").__doc__)
        and len(re.findall(r"\.(?:\s|$)", about)) == 2
    )
    assert names(text) == "data model tokenizer steps lr batch_size seq_len mesh workdir dry_run".split()
    assert f"\n\n--helpfull lists all {len(list(config.leaves(Pretrain)))} flags" in text


def test_helpfull_shows_every_flag_with_its_default():
    text = flag_help.text(Pretrain, "run", module("pretrain"), full=True)
    for _, field, default in config.leaves(Pretrain):
        assert f"  --{field.name}=" in text
        assert default in ("", False) or f"[{default}]" in " ".join(text.split())
    assert "(with --objective=masked)" in " ".join(text.split())
    assert "\nflags:" not in text


def test_a_command_without_a_file_shows_the_common_flags_and_its_docstring():
    text = flag_help.text(
        Sft, "focal", SimpleNamespace(__doc__="The focal loss.\n\nMore.", __file__="/none/focal.py")
    )
    assert "\n\nThe focal loss.\n\n" in text and "More." not in text
    assert names(text) == "init_from model data prompts workdir steps lr batch_size seq_len lora_rank".split()
    assert names(flag_help.text(Sft, "focal")) == names(text)


def test_a_command_of_a_few_flags_shows_them_all():
    @dataclasses.dataclass(frozen=True)
    class Few(config.Group):
        here: str = config.arg("a", "A folder", choices=("a", "b"))
        deep: bool = config.arg(True, "Whether")

    @dataclasses.dataclass(frozen=True)
    class Command:
        few: Few = config.group(Few)

    text = flag_help.text(Command, "run")
    assert heads(text) == ["  --here=a|b", "  --deep=bool"] and "--helpfull" not in text and "[true]" in text


@pytest.mark.parametrize(
    ("word", "first", "also", "never"),
    [
        ("lr", "lr", {"end_lr"}, {"loss", "on_bad_record"}),  # not the "lr" of "already"
        ("LR", "lr", {"end_lr"}, set()),
        ("learning_rate", "lr", set(), {"steps"}),  # as others call it
        ("learning rate", "lr", {"end_lr"}, {"steps"}),
        ("batch-size", "batch_size", set(), {"lr"}),
        ("--batch_size", "batch_size", set(), {"lr"}),
        ("muon", "optimizer", {"b1"}, {"lr"}),  # a value
        ("every", "eval_every", {"checkpoint_every"}, {"lr"}),
    ],
)
def test_a_search_shows_the_flags_that_have_the_word(word, first, also, never):
    found = names(flag_help.text(Sft, "run", search=word))
    assert found[0] == first and also <= set(found) and not never & set(found)
    assert len(found) < len(list(config.leaves(Sft)))


def test_a_search_without_result_is_an_error_that_names_near_flags():
    with pytest.raises(
        ConfigError, match=r"--help=sedd: no flag has it in its name or text; did you mean --seed\?"
    ):
        flag_help.text(Sft, "run", search="sedd")


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--help"], 10), (["-h"], 10), (["-help"], 10), (["--help=true"], 10), (["--help="], 10),
        (["--steps=3", "--help"], 10), (["--helpfull"], len(list(config.leaves(Pretrain)))),
        (["--help=jitter"], 1), (["--help", "jitter"], 1), (["--help=learning", "--lr=1"], None),
    ],
)  # fmt: skip
def test_help_on_the_command_line(argv, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", *argv])
    monkeypatch.setitem(sys.modules, "__main__", module("pretrain"))
    monkeypatch.setattr(flags.signals, "install", lambda grace, stop_within: None)
    flags.launch(Pretrain, pytest.fail, "./launch/run pretrain")
    count = len(names(capsys.readouterr().out))
    assert count == shown if shown else 1 < count < 10


def test_a_reader_that_has_enough_ends_it_without_a_word():
    done = subprocess.run(
        f"{sys.executable} -P -m experiments.ppo --helpfull | head -n 1; exit $PIPESTATUS",
        shell=True, executable="bash", env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.splitlines()) == 1


def test_nohelp_runs_the_command():
    assert flags.from_flags(Pretrain, ["--nohelp", "--help=false"]) == Pretrain()
    assert flags.from_flags(Pretrain, ["--help"]) is None


@pytest.mark.parametrize("stage", COMMANDS)
def test_every_command_has_two_sentences_three_examples_and_the_flags_people_use(stage):
    """Its flags are there, and its examples parse."""
    file = (
        docs.ROOT / "experiments" / "/".join(stage.split(".")[:-1]) / "help" / f"{stage.split('.')[-1]}.txt"
    )
    about, examples, used = file.read_text(encoding="utf-8").split("\n\n")
    assert len(re.findall(r"[.!?](?:\s|$)", about)) == 1
    cls = flags.class_of(docs.config_class(stage), [])
    known, shown = {field.name for _, field, _ in config.leaves(cls)}, used.removeprefix("flags:").split()
    assert used.startswith("flags:") and set(shown) <= known
    assert len(shown) == len(set(shown)) == min(flag_help.MOST_USED, len(known))
    comments, commands = examples.splitlines()[::2], examples.splitlines()[1::2]
    assert len(comments) == len(commands) == 3 and all(line.startswith("  # ") for line in comments)
    for line in commands:
        words = shlex.split(line.partition(" > ")[0])
        while "=" in words[0]:
            words.pop(0)
        launched = words[1:] if words[0] == "./launch/run" else [words[0].removeprefix("launch/"), *words[1:]]
        assert docs.stage_problem(launched) == "", line


def test_help_files_belong_to_commands():
    found = {".".join(file.relative_to(ROOT / "experiments").with_suffix("").parts)
             for file in (ROOT / "experiments").rglob("help/*.txt")}  # fmt: skip
    assert {name.replace("help.", "") for name in found} == set(COMMANDS)
