"""Supervised fine-tuning from the command to the files it leaves."""

import json
import re
import shutil

import numpy as np
import pytest

from jaxtrain import worlds
from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import load
from jaxtrain.stages import init_from
from tests.runs import Town, column, jsonl, rows, same_arrays


@pytest.fixture
def whole(town):
    return town / "sft"


def answers(workdir, step):
    lines = (workdir / "samples" / f"{step:08d}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_leaves_what_is_needed_to_know_and_continue_it(town, whole):
    held = json.loads((whole / "config.json").read_text())
    assert held["stage"] == "sft" and held["config"]["loss"]["neftune"] == 5.0
    assert held["parent"]["run"] == str(town / "base") and held["parent"]["stage"] == "pretrain"
    assert held["parent"]["origin"] == f"{town / 'base'}@40"
    assert held["data"].keys() == {"data", "eval_data", "tokenizer", "template", "grain"}
    assert held["arch"] == json.loads((town / "base" / "config.json").read_text())["arch"]
    tokenizer = load(whole / "tokenizer")
    assert tokenizer.chat_template and tokenizer.fingerprint == load(town / "base" / "tokenizer").fingerprint
    said = town.said["sft"]
    assert f"{town.DATA['sft'].split('?')[0]}" in said and "format instruction" in said
    assert "finished 16 steps" in said and f"perplexity {np.exp(column(whole, 'eval/loss')[-1]):.2f}" in said


def test_the_numbers_have_their_names_and_the_held_out_loss_falls(whole):
    lines = [row for row in rows(whole) if "loss" in row]
    assert [row["step"] for row in lines] == list(range(1, 17))
    assert {"loss", "accuracy", "grad_norm", "lr", "skipped"} <= lines[0].keys()
    held = column(whole, "eval/loss")
    assert len(held) == 4 and held[-1] < held[0] - 0.05
    assert len(column(whole, "completions/mean_length")) == 2 and len(column(whole, "judge/gold")) == 2


def test_what_was_measured_is_said_of_the_answers_that_were_written(whole):
    for step in (8, 16):
        found = answers(whole, step)
        assert len({row["prompt"] for row in found}) == len(found) == 8
        wanted = worlds.get().measure([row["prompt"] for row in found], [row["completion"] for row in found])
        line = next(row for row in rows(whole) if row["step"] == step and "judge/gold" in row)
        assert {name: line[f"judge/{name}"] for name in wanted} == wanted
        assert [row["gold"] for row in found] == [
            worlds.get().gold(row["prompt"], row["completion"]) for row in found
        ]
        assert line["completions/clipped_ratio"] == np.mean([not row["ended"] for row in found])


def test_a_resumed_run_goes_on_to_the_same_bits(town, whole):
    """With noise, whose randomness is of the step and the row."""
    again = town.resumed("sft", "sft", 6, *Town.SFT, start="base")
    assert rows(again) == rows(whole)
    assert any("opt_state" in path for path in same_arrays(whole, again, 16))
    assert answers(again, 16) == answers(whole, 16)


def test_a_finished_run_says_so_and_answers_again(town, whole):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file() and p.name != "lock"}
    said = town.again("sft", "sft", *Town.SFT, start="base")
    assert said.startswith("all 16 steps are done") and f"loss {column(whole, 'eval/loss')[-1]:.4f}" in said
    assert answers(whole, 16)[0]["prompt"] in said
    assert before == {p: p.read_bytes() for p in whole.rglob("*") if p.is_file() and p.name != "lock"}


def test_an_answer_does_not_depend_on_the_others(town, whole):
    """Live flags: the same finished run asked for fewer and for more answers."""
    copy = town / "asked"
    shutil.copytree(whole, copy)
    town.again("sft", "asked", *Town.SFT, "--prompt_count=3", start="base")
    assert answers(copy, 16) == answers(whole, 16)[:3]


def test_a_dry_run_takes_the_step_of_its_flags_and_leaves_nothing(town, whole):
    flags = ("--steps=3", "--loss=dft", "--label_smoothing=0.1", "--z_loss=1e-3", "--dry_run")
    said = town.run("sft", "dft", *flags, start="base")
    first = dict(re.findall(r"^  (\w+) +([\d.]+)$", town.said["dft"].partition("first step")[2], re.M))
    assert float(first["loss"]) == pytest.approx(column(whole, "loss")[0], rel=0.2)
    assert float(first["grad_norm"]) < 0.5 * column(whole, "grad_norm")[0]
    assert float(first["z_loss"]) > 0 and "seconds a step" in town.said["dft"] and not said.exists()


def test_a_run_goes_on_where_its_parent_was(town, whole):
    """The parent's newer checkpoints are not what this run began from."""
    held = json.loads((whole / "config.json").read_text())
    assert init_from.load_run(held["parent"]["origin"]).origins[0].step == 40


TALK = [
    {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": f"Yo {i}."}]}
    for i in range(12)
]
BAD = {
    "an unknown role": (
        {"messages": [{"role": "judge", "content": "No."}]},
        r"a\.jsonl:2: unknown role",
    ),
    "an empty completion": (
        {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": " "}]},
        r"a\.jsonl:2: empty completion",
    ),
    "nothing to learn": (
        {"messages": [{"role": "user", "content": "Hi?"}]},
        r"a\.jsonl:2: no assistant turn",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_named_and_leaves_no_half_made_run(town, tmp_path, kind):
    record, message = BAD[kind]
    data = jsonl(tmp_path / "a.jsonl", [TALK[0], record, *TALK[1:]])
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        town.run("sft", f"bad {kind}", "--steps=3", data=data, start="base")
    assert not (town / f"bad {kind}").exists()


def test_bad_records_are_skipped_and_counted_with_what_is_dropped(town, tmp_path):
    odd = [record for record, _ in BAD.values()]
    data = [
        jsonl(tmp_path / f"{name}.jsonl", records) for name, records in (("a", [*TALK, *odd]), ("b", TALK))
    ]
    with pytest.raises(ConfigError) as caught:
        town.run(
            "sft", "skip", "--on_bad_record=skip", f"--eval_data={data[1]}", "--seq_len=2", data=data[0],
            start="base",
        )  # fmt: skip
    said = " ".join(str(caught.value).split())
    assert "no conversation left of 15: " in said
    assert "12 conversations dropped: they do not fit --seq_len" in said
    assert "3 bad records skipped (1 unknown role, 1 empty completion, 1 no assistant turn)" in said


def test_flags_that_cannot_be_are_refused(town, tmp_path):
    with pytest.raises(ConfigError, match="--init_from: name the run to start from"):
        town.run("sft", "none", start="")
    with pytest.raises(ConfigError, match="is not a run: there is no such folder"):
        town.run("sft", "none", start=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"--label_smoothing=1\.0: must be below 1"):
        town.run("sft", "none", "--label_smoothing=1")
    with pytest.raises(ConfigError, match=r"--template=.*none\.jinja"):
        town.run("sft", "none", f"--template={tmp_path / 'none.jinja'}")


def test_the_command_line_answers_with_status_2_and_one_line(bench):
    said = bench.run(stage="sft", data="--data=tinytown:sft", small=(), status=2)
    assert said == "error: --init_from: name the run to start from, such as runs/pretrain, or hf:DIR\n"
