"""Completions of ./launch/run: asked of bash itself, and of zsh and fish where they are installed."""

import dataclasses
import os
import re
import shutil
import subprocess

import pytest

from experiments import completion
from jaxtrain import config, shell_completion
from tests.docs.test_commands import stages


@dataclasses.dataclass(frozen=True)
class Flags(config.Group):
    lr: float = config.arg(0.1, "Peak [learning] rate: it's what a step is multiplied by")
    loss: str = config.arg("hinge", "Loss", choices=("sigmoid", "simpo", "hinge"))
    data: str = config.arg("", "Data")
    dry_run: bool = config.arg(False, "Train nothing")
    stop_at_end: bool = config.arg(True, "Stop")


@dataclasses.dataclass(frozen=True)
class Command:
    flags: Flags = config.group(Flags)


COMMANDS = [
    shell_completion.of_class("pretrain", "Pretraining: what's first (text)", Command),
    shell_completion.of_class("papers.dedup", "Deduplication", Command),
]


def written(folder, shell):
    """The script of a shell, in a folder with a program, a data file and a folder."""
    (folder / "launch").mkdir()
    program = folder / "launch" / "run"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (folder / "corpus.jsonl").touch()
    (folder / "corpora").mkdir()
    script = folder / f"script.{shell}"
    script.write_text(shell_completion.SHELLS[shell](COMMANDS, str(program)), encoding="utf-8")
    return script


# `breaks`: characters of COMP_WORDBREAKS at which bash splits words, so that a reply is what follows the last of them.
BASH_CASES = [
    ("./launch/run pre", "=:", ["pretrain "]),
    ("./launch/run ", "=:", ["pretrain ", "papers.dedup ", "--help ", "--completion "]),
    ("./launch/run pretrain --l", "=:", ["--lr=", "--loss="]),
    ("./launch/run pretrain --lr=1 --dr", "=:", ["--dry_run "]),
    ("./launch/run pretrain --no", "=:", ["--nostop_at_end "]),
    ("./launch/run pretrain --loss=s", "=:", ["sigmoid ", "simpo "]),
    ("./launch/run pretrain --loss=", "=:", ["sigmoid ", "simpo ", "hinge "]),
    ("./launch/run pretrain --loss=s", "", ["--loss=sigmoid ", "--loss=simpo "]),
    ("./launch/run pretrain --data=jsonl:cor", "=:", ["corpora/", "corpus.jsonl "]),
    ("./launch/run pretrain --data=jsonl:cor", "=", ["jsonl:corpora/", "jsonl:corpus.jsonl "]),
    ("./launch/run pretrain --data=jsonl:cor", "", ["--data=jsonl:corpora/", "--data=jsonl:corpus.jsonl "]),
    ("./launch/run pretrain --data=tinytown:sft,jsonl:cor", "=:", ["corpora/", "corpus.jsonl "]),
    ("./launch/run papers.dedup --he", "=:", ["--helpfull ", "--help "]),
    ("./launch/run --completion ", "=:", ["bash ", "zsh ", "fish "]),
    ("./launch/run nothing --l", "=:", []),
    ("./launch/run pretrain --none=", "", ["--none=corpora/", "--none=corpus.jsonl ", "--none=launch/",
                                          "--none=script.bash "]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "breaks", "replies"), BASH_CASES)
def test_bash_completes(tmp_path, line, breaks, replies):
    script = written(tmp_path, "bash")
    words = [word for part in re.split(r"(\s+)", line) if part.strip() for word in re.split(f"([{breaks}])", part)
             ] if breaks else line.split()  # fmt: skip
    words += [""] * line.endswith(" ")
    words = [word for i, word in enumerate(words) if word or i == len(words) - 1]
    ask = (
        'source "$1"; COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDBREAKS=$3; shift 3; COMP_WORDS=("$@"); '
        "COMP_CWORD=$(($# - 1)); _jaxtrain; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "-uc", ask, "bash", script, line, f" {breaks}", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert sorted(filter(None, done.stdout.split("\n"))) == sorted(replies)


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("./launch/run pre", {"pretrain"}),
        ("./launch/run pretrain --l", {"--lr", "--loss"}),
        ("./launch/run pretrain --loss=s", {"--loss=sigmoid", "--loss=simpo"}),
        ("./launch/run papers.dedup --no", {"--nostop_at_end"}),
        ("./launch/run pretrain --data=cor", {"--data=corpora/", "--data=corpus.jsonl"}),
    ],
)
def test_fish_completes(tmp_path, line, replies):
    script = written(tmp_path, "fish")
    ask = f"source {script}; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", ask], cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == "" and {reply.partition("\t")[0] for reply in done.stdout.splitlines()} == replies


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_reads_its_script(tmp_path):
    done = subprocess.run(["zsh", "-fn", written(tmp_path, "zsh")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_of_zsh_has_every_flag_with_its_values(tmp_path):
    text = written(tmp_path, "zsh").read_text(encoding="utf-8")
    assert r"'--lr=[Peak \[learning\] rate\: it'\''s what a step is multiplied by]:lr:_jaxtrain_file'" in text
    assert (
        "'--loss=[Loss]:loss:(sigmoid simpo hinge)' '--data=[Data]:data:_jaxtrain_file' '--dry_run[Train nothing]'"
        in text
    )
    assert r"'pretrain:Pretraining: what'\''s first (text)'" in text


def test_every_stage_is_completed_with_its_flags(capsys):
    found = {command.name: command for command in completion.commands()}
    assert sorted(found) == stages()
    values = {flag.name: flag.values for flag in found["dpo"].flags}
    assert "sigmoid" in values["loss"] and values["beta"] == () and {"help", "helpfull"} < values.keys()
    assert (
        max(len(flag.about) for command in found.values() for flag in command.flags)
        <= shell_completion.DESCRIPTION
    )
    completion.main(completion.ShellCompletion())
    script = capsys.readouterr().out
    assert "_jaxtrain" in script
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
