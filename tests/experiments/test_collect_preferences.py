"""Human preferences collected by the command, and training on them."""

import io
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from experiments import collect_preferences
from jaxtrain import flags as command_line
from jaxtrain.apps.annotation import collect as annotation_collect
from jaxtrain.apps.annotation import config
from jaxtrain.apps.annotation.db import AnnotationDB
from jaxtrain.config import ConfigError
from tests.apps.annotation.web_app import Client, exported_rows
from tests.runs import ROOT, column, jsonl, quick
from tests.watched import recorded_watchdog

SAMPLING = ("--max_new=12", "--tries=6")


def collect(town, *flags, monkeypatch=None, lines=()):
    """Runs the command in this process with lines of input; returns its output."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, quick():
        patch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", out)
        collect_preferences.main(command_line.from_flags(config.Collect, [*flags, town.cache]))
    return out.getvalue()


@pytest.fixture(scope="module")
def annotated(town):
    """(a store with votes of two annotators, given in the terminal, the outputs of both)."""
    store = town / "votes.sqlite"
    common = (
        f"--model={town / 'sft'}",
        "--prompt_count=16",
        "--second=0.5",
        f"--store={store}",
        "--ui=terminal",
        *SAMPLING,
    )
    output = collect(
        town, *common, "--annotator=ann", lines=["9", "1 it is clear", "s", "u", "4", *"2312" * 9]
    )
    again = collect(town, *common, "--annotator=bob", lines=["2", "q"])
    more = collect(town, *common, "--annotator=bob", lines="1" * 40)
    return store, output, again + more


def test_the_watchdog_watches_the_models_and_not_the_people(tmp_path, monkeypatch):
    watched = []
    with recorded_watchdog(monkeypatch) as active:
        for name in ("generate_responses", "annotate_in_terminal"):
            monkeypatch.setattr(
                annotation_collect, name, lambda *_, name=name: watched.append((name, list(active)))
            )
        flags = ("--model=m", f"--store={tmp_path / 'votes.sqlite'}", "--ui=terminal")
        collect_preferences.main(command_line.from_flags(config.Collect, flags))
    assert watched == [("generate_responses", [tmp_path]), ("annotate_in_terminal", [])]


def test_votes_in_the_terminal_are_stored_and_resumed(annotated):
    store, output, again = annotated
    assert "'9' is not an answer" in output and "nothing is left for you" in output
    votes = exported_rows(AnnotationDB(store, 1))
    assert (
        votes[0]["preferred"] == "a"
        and votes[0]["reason"] == "it is clear"
        and votes[0]["annotator"] == "ann"
    )
    assert votes[1]["preferred"] == "tie" and votes[1]["both_bad"] and votes[1]["item"] != votes[0]["item"]
    assert {row["annotator"] for row in votes} == {"ann", "bob"}
    assert "ann and bob: kappa" in again and f"{len(votes)} of {len(votes)} answers" in again
    assert all(row["response_a"].strip() and row["response_a"] != row["response_b"] for row in votes)
    assert len({row["item"] for row in votes}) < len(votes), "some are annotated by two"


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_training_reads_the_store_and_its_export_alike(town, annotated, stage):
    store, out = annotated[0], town / f"{stage}.jsonl"
    output = collect(town, f"--store={store}", f"--export={out}")
    count = len(exported_rows(AnnotationDB(store, 1)))
    assert f"{count} answers of {store} in {out}" in output
    row = json.loads(out.read_text().splitlines()[0])
    assert {"prompt", "response_a", "response_b", "preferred", "reason"} <= row.keys()
    losses = []
    for name, source in (("store", store), ("export", out)):
        output = town.again(
            stage,
            f"{stage}-{name}",
            "--steps=3",
            "--eval_every=3",
            "--eval_share=0.3",
            data=f"preferences:{source}",
        )
        assert "format responses" in output
        losses.append(column(town / f"{stage}-{name}", "loss"))
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_rankings_are_collected_and_trained_on(town):
    store = town / "ranked.sqlite"
    output = collect(
        town, f"--model={town / 'sft'}", "--prompt_count=6", "--responses=3", f"--store={store}", "--ui=terminal",
        "--annotator=ann", "--reason=required", *SAMPLING, lines=["12", "31=2", "it is", *["213 so"] * 9],
    )  # fmt: skip
    votes = exported_rows(AnnotationDB(store, 1))
    assert (
        "'12' is not an answer" in output
        and votes[0]["ranking"] == [2, 2, 1]
        and votes[0]["reason"] == "it is"
    )
    output = town.again(
        "reward",
        "ranked",
        "--steps=3",
        "--loss=plackett_luce",
        "--eval_share=0.3",
        data=f"preferences:{store}",
    )
    assert "format ranked" in output and len(column(town / "ranked", "loss")) == 3


def test_two_models_answer_each_prompt(town):
    store = town / "two.sqlite"
    models = f"{town / 'sft'},{town / 'sft'}@6"
    output = collect(
        town, f"--model={models}", "--prompt_count=24", f"--store={store}", "--ui=terminal", "--annotator=ann",
        "--max_new=24", "--second=0", lines="1" * 24,
    )  # fmt: skip
    votes = exported_rows(AnnotationDB(store, 1))
    assert votes and all(sorted(row["models"]) == sorted(models.split(",")) for row in votes)
    assert len({tuple(row["models"]) for row in votes}) == 2, "in either order"
    assert f"{len(votes)} of {len(votes)} answers" in output
    left = 24 - len(votes)
    assert not left or "prompts left out: " in output


def test_parse_ranking():
    assert annotation_collect.parse_ranking("312", 3) == [2, 3, 1]
    assert annotation_collect.parse_ranking("3=12", 3) == [1, 2, 1]
    assert annotation_collect.parse_ranking("2=1=3", 3) == [1, 1, 1]
    for wrong in ("", "12", "1123", "124", "=123", "1==23", "a"):
        assert annotation_collect.parse_ranking(wrong, 3) is None


def test_control_characters_are_written_out_for_the_terminal():
    assert annotation_collect.printable("a\x1b[2Jb\r\nc\u202e") == "a\\x1b[2Jb\\x0d\nc\\x202e"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--model: name the model"),
        (("--model=nowhere",), "--model=nowhere"),
        (("--model={sft}", "--temperature=0"), "would be alike"),
        (("--model={sft}", "--responses=10"), "at most 9"),
        (("--model={sft},{sft}@6", "--responses=3"), "each of several models gives one"),
        (("--model={sft}", "--annotator=x"), "acts only with --ui=terminal"),
        (("--model={sft}", "--host=0.0.0.0"), "it needs a key"),
        (("--model={sft}", "--data={words}", "--ui=terminal"), "have the fields words; known formats"),
        (("--model={sft}", "--data=tinytown:nowhere", "--ui=terminal"), "--data=tinytown:nowhere"),
        (("--model={sft}", "--store={text}", "--ui=terminal"), "cannot be read as a SQLite file"),
        (
            ("--model={sft}", "--max_new=1", "--prompt_count=2", "--ui=terminal"),
            "no prompt has responses that end and differ",
        ),
        (("--export={text}.jsonl", "--store={text}.none"), "no such file"),
    ],
)
def test_invalid_flags_are_reported(town, tmp_path, monkeypatch, flags, words):
    monkeypatch.delenv("JAXTRAIN_API_KEY", raising=False)
    (tmp_path / "text").write_text("no store " * 50)
    there = {
        "sft": town / "sft",
        "text": tmp_path / "text",
        "words": jsonl(tmp_path / "w.jsonl", [{"words": "x"}]),
    }
    args = [f"--store={tmp_path / 's'}", "--port=0", *(flag.format(**there) for flag in flags)]
    with pytest.raises(ConfigError, match=words):
        collect(town, *args)


def test_a_store_of_another_command_is_refused_with_what_differs(town, annotated):
    with pytest.raises(ConfigError, match=r"is of another command(.|\n)*--prompt_count: 16 -> 17"):
        collect(
            town, f"--model={town / 'sft'}", "--prompt_count=17", "--second=0.5", f"--store={annotated[0]}",
            "--ui=terminal", *SAMPLING,
        )  # fmt: skip


def test_a_command_that_stored_nothing_does_not_bind_later_ones(town, tmp_path):
    words = jsonl(tmp_path / "w.jsonl", [{"words": "x"}])
    common = (f"--model={town / 'sft'}", f"--store={tmp_path / 's'}", "--ui=terminal", *SAMPLING)
    with pytest.raises(ConfigError, match=r"w\.jsonl"):
        collect(town, *common, f"--data=jsonl:{words}")
    assert "0 of" in collect(town, *common, "--prompt_count=2", lines=["q"])


def test_a_taken_port_is_reported_before_responses_are_generated(town, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port={port}: Address already in use"):
            collect(town, f"--model={town / 'sft'}", f"--port={port}", f"--store={tmp_path / 's'}")
    assert not (tmp_path / "s").exists()


def start(town, store, *flags):
    """The command as a process, and the port of its page."""
    env = {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    command = [
        sys.executable,
        "-P",
        "-m",
        "experiments.collect_preferences",
        f"--model={town / 'sft'}",
        town.cache,
    ]
    process = subprocess.Popen(
        [*command, f"--store={store}", "--port=0", "--prompt_count=8", *SAMPLING, *flags],
        env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("annotation page at "):
            return process, int(line.split(":")[2].split("/")[0])
    raise AssertionError(process.stderr.read())


def test_kill_9_loses_no_vote_and_the_same_command_resumes(town, tmp_path):
    process, port = start(town, tmp_path / "s")
    with process:
        assert process.stdout.readline().startswith("no browser here: open that address")
        ann = Client(port, "ann")
        assert ann.vote("first", reason="first")[0] == 303
        item, token, cookie = ann.item(), ann.token(), ann.cookie
        process.kill()
        process.communicate(timeout=30)
    before = exported_rows(AnnotationDB(tmp_path / "s", 1))
    assert [row["reason"] for row in before] == ["first"]
    process, port = start(town, tmp_path / "s", "--nobrowser")
    with process:
        ann = Client(port)
        ann.cookie = cookie
        body = f"item={item}&choice=second&token={token}"
        assert ann.request("POST", "/vote", body)[0] == 303, "an open page still works"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0 and "2 of" in out, out + err
    after = exported_rows(AnnotationDB(tmp_path / "s", 1))
    assert after[0] == before[0] and [row["preferred"] for row in after] == ["a", "b"]
