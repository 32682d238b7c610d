"""The tutorial in small: every command of the page runs, in order, and prints what its excerpt shows."""

import contextlib
import functools
import importlib
import inspect
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain import flags as command_line
from jaxtrain.train import workdir
from tests.runs import MODEL, ROOT, column, quick

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)

# What makes a stage small, instead of the page's values of the same flags.
ROWS = ("--seq_len=48", "--batch_size=8", "--warmup=2", "--eval_batches=2", "--log_every=1")
ANSWERS = ("--prompt_count=8", "--max_new=12")
SMALL = {
    "pretrain": (
        *ROWS, "--data=tinytown:pretrain", f"--model={MODEL}", "--tokenizer=bpe:400", "--seq_len=64", "--steps=100",
        "--lr=0.02", "--eval_batches=1", "--sample_every=0",
    ),
    "sft": (*ROWS, *ANSWERS, "--data=tinytown:sft", "--steps=100", "--lr=0.01", "--eval_every=0"),
    "reward": (*ROWS, "--steps=60", "--lr=0.003"),
    "ppo": (*ROWS, *ANSWERS, "--data=tinytown:prompts", "--ptx_weight=0.1",
        "--ptx_data=tinytown:pretrain", "--steps=4"),
    "dpo": (*ROWS, *ANSWERS, "--data=tinytown:preferences", "--steps=40", "--lr=0.001"),
    "constitutional": ("--helpful=tinytown:prompts?family=help", "--rounds=2", "--max_new=12", "--critic_max_new=40"),
    "synthesize": ("--count=6", "--max_new=12"),
    "distill": (*ROWS, *ANSWERS, "--data=tinytown:prompts", "--steps=40", "--lr=0.01", "--eval_every=0"),
    "serve": ("--rows=4", "--context=64"),
    "collect_preferences": ("--max_new=24",),
    "filter_data": ("--workers=1",),
    "evaluate": ("--prompt_count=8", "--max_new=12", "--topics="),
    "sample": ("--max_new=16",),
}  # fmt: skip
# What a model of 100 steps cannot reach: a good answer, a critic that reads.
WEAK = {"synthesize": ("--min_score=-1",), "constitutional": ("--allow_position_bias=true",)}
DOCUMENTS = {"pretrain": 300, "sft": 200, "preferences": 96, "prompts": 32, "redteam": 16}
TYPED = "1\n2 it warns of the risk\n3\n"


class Command(NamedTuple):
    section: str
    words: tuple[str, ...]


class Excerpt(NamedTuple):
    section: str
    commands: range  # those of the block before it, by their numbers
    lines: tuple[str, ...]


def page():
    """(the commands in order, what the page shows of their output)."""
    commands, excerpts, last = [], [], range(0)
    for part in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        section = part.partition("\n")[0]
        for language, text in BLOCK.findall(part):
            if language == "sh":
                lines = text.replace("\\\n", " ").splitlines()
                last = range(len(commands), len(commands) + len(lines))
                commands += [Command(section, tuple(shlex.split(line))) for line in lines]
            elif language == "python":
                commands.append(Command(section, ("python", text)))
            else:
                assert language == "text", f"{section}: a block of {language!r} is neither command nor output"
                excerpts.append(Excerpt(section, last, tuple(text.splitlines())))
    return commands, excerpts


COMMANDS, EXCERPTS = page()


def small(flag):
    """A flag whose Tinytown data has few documents."""

    def fewer(found):
        name, split, options = found.groups()
        kept = [one for one in options[1:].split("&") if one and not one.startswith("documents=")]
        kept += [f"documents={DOCUMENTS[name]}", "held_out=40"]
        if re.search("(dup|junk)=", options):
            kept.append("originals=40")
        return f"tinytown:{name}{split}?{'&'.join(kept)}"

    return re.sub(r"tinytown:(\w+)((?::\w+)?)((?:\?[^,]*)?)", fewer, flag)


def name_of(flag):
    return flag.partition("=")[0]


def in_small(stage, flags, cache):
    """(what runs the stage, its flags): the page's, with the sizes of this test. The page's own must be accepted."""
    module = importlib.import_module(f"experiments.{stage}")
    launched = re.search(r"flags\.launch\(([\w.]+), main", inspect.getsource(module))[1]
    cls = module
    for name in launched.split("."):
        cls = getattr(cls, name)
    as_written = command_line.from_flags(cls, list(flags))
    values = {field.name: (field.metadata["only"], value) for _, field, value in config.leaves(as_written)}

    def acts(flag):
        other, legal = values[name_of(flag).removeprefix("--")][0] or ("", ())
        return other not in values or values[other][1] in legal

    ours = {name_of(flag): flag for flag in (*SMALL.get(stage, ()), *WEAK.get(stage, ())) if acts(flag)}
    given = [small(flag) for flag in flags if name_of(flag) not in ours or flag.startswith("--data=")]
    if any(flag.startswith("--data=") for flag in given):
        ours.pop("--data", None)
    if hasattr(as_written, "run"):  # a folder is named after model and data, and these are others
        ours["--workdir"] = f"--workdir={workdir.folder_of(as_written, stage)}"
    argv = [*given, *map(small, ours.values()), *cache]
    return functools.partial(module.main, command_line.from_flags(cls, argv)), argv


class Terminal(io.StringIO):
    """Lines that are typed, which a terminal shows."""

    def readline(self, *args):
        line = super().readline(*args)
        print(line, end="")
        return line


class Tutorial:
    """The page's commands, run in this process in a folder of their own; each is run once, after those before it."""

    def __init__(self, folder):
        self.folder = folder
        self.outputs = []

    def __truediv__(self, name):
        return self.folder / name

    def output(self, number):
        """What a command prints; those before it run first."""
        while len(self.outputs) <= number:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.folder)
                patch.setenv("COLUMNS", "120")
                self.outputs.append(self.run(len(self.outputs), patch))
        return self.outputs[number]

    def section(self, number):
        """What the commands of a section print, the section by its number."""
        there = [i for i, command in enumerate(COMMANDS) if command.section.startswith(f"{number}. ")]
        return "\n".join(self.output(i) for i in there)

    def run(self, number, patch):
        program, *rest = COMMANDS[number].words
        if program == "./launch/run":
            stage, *flags = rest
            if stage == "serve":
                return self.serve(flags, client=COMMANDS[number + 1].words[1])
            patch.setattr(sys, "stdin", Terminal(TYPED))
            return self.call(stage, flags)
        if program == "head":
            return "\n".join(Path(rest[-1]).read_text(encoding="utf-8").splitlines()[: int(rest[-2])])
        assert program == "python" and COMMANDS[number - 1].words[1] == "serve", (
            f"{program}: not run by this test"
        )
        return ""  # it ran beside the server

    def call(self, stage, flags):
        main, _ = in_small(stage, flags, [f"--cache_dir={self / 'cache'}"])
        said = io.StringIO()
        with quick(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
        return said.getvalue()

    def serve(self, flags, client):
        """The server as a process, with the page's client, ended as Ctrl-C does."""
        argv = in_small("serve", flags, [f"--cache_dir={self / 'cache'}", "--port=0"])[1]
        made = {
            "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip
        command = [sys.executable, "-P", "-m", "experiments.serve", *argv]
        with subprocess.Popen(
            command,
            env={**os.environ, **made},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            said = ""
            try:
                while address := process.stdout.readline():
                    said += address
                    if address.startswith("serving "):
                        url = re.search(r"http://[\d.:]+", address)[0]
                        names = {}
                        exec(client.replace("http://127.0.0.1:8000", url), names)
                        names["client"].close()
                        break
            finally:
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "serving " in said, said + out + err
        return said + out


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "runs").mkdir()
    return Tutorial(folder)


NUMBER = re.compile(r"[+-]?(?:\d[\d,]*(?:\.\d+)?|(?<!\w)\.\d+)(?:e[+-]\d+)?[kM]?\b|\bnan\b")
TEXT = re.compile(r"user: |\[[A-Z]\] |  │|.*[⟨⟩⏎▸]")  # a line that quotes data or a model
MARKS = "│⟨⟩⏎▸"


def shape(text):
    """The words of a text without its numbers and its white space."""
    return " ".join(NUMBER.sub("#", text).split())


def missing(lines, output):
    """What of an excerpt's lines the output has no line for: labels, marks of quoted text, fields of records."""
    printed, rows = shape(output), [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    lacks = []
    for line in lines:
        if line.startswith("{"):
            known = any(row.keys() == json.loads(line).keys() for row in rows)
        elif found := TEXT.match(line):
            wanted = {c for c in line if c in MARKS} or {found[0]}
            known = all(one in output for one in wanted)
        else:
            known = not re.search(r"\w", line) or shape(line) in printed
        lacks += [] if known else [line]
    return lacks


@pytest.mark.parametrize(
    "number", range(len(EXCERPTS)), ids=lambda i: EXCERPTS[i].section.split(".")[0] + f"-{i}"
)
def test_what_the_page_shows_is_what_its_commands_print(tutorial, number):
    excerpt = EXCERPTS[number]
    printed = "\n".join(tutorial.output(i) for i in excerpt.commands)
    assert missing(excerpt.lines, printed) == []


def test_a_label_that_nothing_prints_is_found():
    output = "  held-out loss  3.2, perplexity 24.5\n  │ a▸ b\n"
    assert missing(["  held-out loss  0.49, perplexity 1.63", "  │ I▸ you", "…"], output) == []
    for wrong in ("  held-out bits  0.49", "  │ I ⏎", "user: I", "  held-out loss  0.49, accuracy 0.2"):
        assert missing([wrong], output) == [wrong]


def test_every_command_of_the_page_runs(tutorial):
    tutorial.output(len(COMMANDS) - 1)
    stages = {words[1] for _, words in COMMANDS if words[0] == "./launch/run"}
    assert {
        "pretrain", "sft", "collect_preferences", "reward", "ppo", "dpo", "constitutional", "synthesize", "distill",
        "serve", "filter_data", "sample", "evaluate",
    } <= stages  # fmt: skip


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pretraining_lowers_the_loss_and_perplexity_is_its_exponential(tutorial):
    output = tutorial.section(1)
    losses = column(tutorial / "runs" / "pretrain", "loss")
    assert losses[-1] < losses[0] - 1
    loss, perplexity = map(float, re.search(r"held-out loss +([\d.]+), perplexity ([\d.]+)", output).groups())
    assert perplexity == pytest.approx(math.exp(loss), rel=1e-2)
    bits, above = (
        float(re.search(rf"{name} +([\d.]+)", output)[1]) for name in ("bits per byte", "above entropy")
    )
    assert 0 < above < bits


def test_prompts_are_not_in_the_loss_of_sft_and_the_end_of_turn_is(tutorial):
    output = tutorial.section(2)
    preview = output.partition("targets of the first rows")[2].partition("\nstep ")[0]
    masked = re.findall("⟨(.*?)⟩([^⟨]*)", preview.partition("row 0")[2], re.S)
    assert len(masked) > 1 and any(prompt.startswith("Human:") for prompt, _ in masked)
    for prompt, answer in masked:
        assert prompt.endswith("AI:") and "AI:" not in answer and answer.strip()
    assert any(answer.rstrip().endswith("<|eos|>") for _, answer in masked)
    losses = column(tutorial / "runs" / "sft", "loss")
    assert losses[-1] < losses[0]


def test_comparisons_are_stored_and_the_reward_model_learns(tutorial):
    tutorial.section(3)
    assert (tutorial / "runs" / "preferences.sqlite").stat().st_size
    run = tutorial / "runs" / "reward"
    losses = column(run, "loss")
    assert np.mean(losses[-15:]) < np.mean(losses[:5]) - 0.01
    (agreement,) = column(run, "eval/accuracy")[-1:]
    assert 0 < agreement < 1 and column(run, "eval/gold_accuracy")


def test_ppo_starts_at_the_reference_and_ends_with_before_and_after(tutorial):
    tutorial.section(4)
    run = tutorial / "runs" / "ppo"
    assert column(run, "objective/kl")[0] == pytest.approx(0, abs=1e-3)
    for name in ("harmful", "refuse", "detail", "warn", "gold", "alike"):
        assert math.isfinite(column(run, f"before/{name}")[-1]) and math.isfinite(
            column(run, f"after/{name}")[-1]
        )
    scored = [row for path in (run / "samples" / "rollouts").iterdir() for row in records(path)]
    assert scored and {"prompt", "completion"} <= scored[0].keys()


def test_dpo_starts_at_log_2_and_falls(tutorial):
    tutorial.section(5)
    losses = column(tutorial / "runs" / "dpo", "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3) and np.mean(losses[-10:]) < losses[0]
    assert np.mean(column(tutorial / "runs" / "dpo", "rewards/margins")[-10:]) > 0


def test_revisions_and_ai_preferences_are_training_data(tutorial):
    tutorial.section(6)
    audit = json.loads((tutorial / "runs" / "constitutional" / "audit.json").read_text())
    assert len(audit["rounds"]) > 1 and (tutorial / "runs" / "constitutional" / "audit.html").is_file()
    learnt = records(tutorial / "runs" / "constitutional" / "revise" / "revisions.jsonl")
    assert learnt and all(row["prompt"] and row["completion"] for row in learnt)
    assert len(column(tutorial / "runs" / "sl-cai", "loss"))
    labels = records(tutorial / "runs" / "cai-labels" / "compare" / "labels.jsonl")
    assert labels and all(0.5 <= row["p_win"] <= 1 for row in labels)


def test_synthetic_rows_are_selected_and_the_rejected_have_a_reason(tutorial):
    tutorial.section(7)
    made, rejected = (records(tutorial / "runs" / name) for name in ("made.jsonl", "made.rejected.jsonl"))
    least = float(WEAK["synthesize"][0].partition("=")[2])
    assert made and all(row["score"] >= least and row["provenance"] for row in made)
    assert rejected and all(row["reason"] for row in rejected)


def test_students_come_nearer_to_their_teachers_and_stored_completions_teach(tutorial):
    tutorial.section(8)
    run = tutorial / "runs" / "distill"
    assert column(run, "eval/divergence")[-1] < column(run, "divergence")[0]
    losses = column(tutorial / "runs" / "from-store", "loss")
    assert losses[-1] < losses[0]


def test_rejected_documents_have_their_step_and_rule(tutorial):
    tutorial.section(9)
    report = json.loads((tutorial / "runs" / "clean" / "report.json").read_text())
    rejected = records(tutorial / "runs" / "clean" / "rejected.jsonl")
    assert report["kept"] + report["rejected"] == report["read"] and len(rejected) == report["rejected"] > 0
    assert all(row["step"] and row["rule"] for row in rejected)
    assert (tutorial / "runs" / "good.npz").is_file()


def test_models_are_compared_in_a_report(tutorial):
    tutorial.section(10)
    report = json.loads((tutorial / "runs" / "evaluation" / "report.json").read_text())
    assert {one["label"] for one in report["models"]} == {"sft", "ppo", "dpo"}
    assert (tutorial / "runs" / "evaluation" / "report.html").is_file()
