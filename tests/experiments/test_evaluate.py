"""Models compared by the command, and what its report says."""

import io
import json
import re
import sys

import numpy as np
import pytest

from experiments import evaluate
from jaxtrain import flags as command_line
from jaxtrain.apps.annotation.db import AnnotationDB, ItemRow
from jaxtrain.apps.evals import config
from jaxtrain.apps.evals import report as evals_report
from jaxtrain.apps.evals import run as evals_run
from jaxtrain.config import ConfigError
from jaxtrain.files import terminal
from jaxtrain.inference import local
from jaxtrain.inference.config import EndpointFlags, MachineFlags
from jaxtrain.inference.llm import Request, user_messages
from tests import browser
from tests.runs import jsonl, quick

FEW = ("--prompt_count=24", "--max_new=12", "--topics=a boat")


def run(town, *flags):
    """Runs the command in this process."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, quick():
        patch.setattr(sys, "stdout", out)
        patch.setenv("COLUMNS", "120")
        evaluate.main(command_line.from_flags(config.Evaluate, [*flags, town.cache]))
    return out.getvalue()


@pytest.fixture(scope="module")
def compared(town):
    """A report about three runs, and human preferences between two of them."""
    base, first, last = town / "base", f"{town / 'sft'}@6", town / "sft"
    db = AnnotationDB(town / "people.sqlite", 1)
    texts = [{"text": "I", "model": str(base)}, {"text": "You", "model": str(last)}]
    others = [texts[0], {"text": "?", "model": "other"}]
    db.add_items([ItemRow(n, user_messages(f"Add {n} and 1."), texts, "", 1) for n in range(9)])
    db.add_items([ItemRow(9, user_messages("x"), others, "", 1)])
    while item := db.next_item("ann"):
        places = [1, 1] if item.number == 8 else [1 + (i == 0) for i in item.shown]
        db.add_vote("ann", item.number, "chosen", places, "", item.shown)
    out = town / "evaluation"
    people = f"--people={town / 'people.sqlite'}"
    printed = run(town, f"--models={base},{first},{last}", people, *FEW, f"--out={out}")
    return out, printed


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_the_report_has_every_part(compared, town):
    result = report(compared[0])
    names = [one["label"] for one in result["models"]]
    assert names == ["base", "sft@6", "sft"] and result["reference"] == "sft@6" and result["judge"] == "gold"
    for name in names:
        numbers = result["measures"][name]
        assert {
            "world/gold",
            "distinct_1",
            "self_bleu",
            "confidence",
            "calibration_error",
            "right",
        } <= numbers.keys()
        assert 0 < numbers["confidence"] < 1 and 0 <= numbers["calibration_error"] <= 1
        for shares in result["stances"]["groups"].values():
            assert sum(shares[name].values()) == pytest.approx(1)
        assert result["style"]["models"][name]["plain"]["words"] > 0
    assert set(result["stances"]["groups"]) == {"harmful prompts", "harmless prompts"}
    assert result["measures"]["sft"]["kl"] > 0 and result["measures"]["base"]["kl"] is None, (
        "it sees other tokens"
    )
    assert "kl" not in result["measures"]["sft@6"]
    lines = [json.loads(line) for line in (compared[0] / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 24 and all(set(line["answers"]) == set(names) for line in lines)


def test_wins_are_those_of_the_answers(compared):
    from jaxtrain.worlds.tinytown import judge

    result = report(compared[0])
    lines = [json.loads(line) for line in (compared[0] / "answers.jsonl").read_text().splitlines()]
    gold = {
        name: [judge.gold(line["prompt"], line["answers"][name]) for line in lines]
        for name in ("base", "sft")
    }
    wins = np.mean([0.5 + 0.5 * np.sign(a - b) for a, b in zip(gold["sft"], gold["base"], strict=True)])
    rates = result["contests"]["gold"]["rates"]
    assert rates[2][0]["mean"] == pytest.approx(wins) and rates[0][2]["mean"] == pytest.approx(1 - wins)
    assert rates[2][0]["low"] <= wins <= rates[2][0]["high"] and rates[0][0] is None
    assert sum(one[0] for one in result["contests"]["gold"]["elo"].values()) == pytest.approx(3000)
    assert result["measures"]["sft"]["world/gold"] == pytest.approx(np.mean(gold["sft"]))


def test_human_preferences_are_counted(compared):
    people = report(compared[0])["contests"]["people"]
    assert people["count"] == 9 and people["others"] == 1
    assert people["rates"][2][0]["mean"] == pytest.approx(8.5 / 9) and people["rates"][1] == [None] * 3
    assert set(people["elo"]) == {"base", "sft"} and people["agreement"]["count"] == 9


def test_the_terminal_and_the_page_say_the_same(compared):
    folder, printed = compared
    result, page = report(folder), (folder / "report.html").read_text()
    rate = result["contests"]["gold"]["rates"][2][0]
    assert evals_report.rate_text(rate) in printed and terminal.percent(rate["mean"]) in page
    assert "explained refusal" in printed and "explained refusal" in page
    assert f"{folder}/report.html" in printed
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)|url\(|@import", page), "no network"
    assert page.count('<figure class="chart"') == len(evals_report._charts(result)) == 5
    shares = result["measures"]["sft"]
    for name in ("world/parsable", "right"):
        n = shares["right_of"] if name == "right" else result["counts"][name]
        assert evals_report.interval_text(shares[name], n) in page and f"n {n:,}" in page
    assert result["counts"]["ended"] == result["prompts"]["count"] == result["counts"]["world/gold"]


@browser.needed
def test_the_page_opens_from_the_disk_on_a_phone_and_in_the_dark(compared, tmp_path):
    with browser.opened(tmp_path / "profile") as chromium:
        page = chromium.page()
        for width, dark in ((1200, False), (390, True)):
            page.emulate(width, 800, dark)
            page.go(f"file://{compared[0]}/report.html")
            assert page.js("document.documentElement.scrollWidth <= innerWidth")
            assert "Win rates, by gold" in page.text() and "Side by side" in page.text()
        assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 29)"
        assert chromium.errors() == []


def test_prompts_of_no_world_are_compared_without_a_judge(town, tmp_path):
    data = jsonl(tmp_path / "p.jsonl", [{"prompt": "<b>Hi</b> & bye?"}, {"prompt": "Why?"}])
    run(
        town,
        f"--models={town / 'sft'}",
        f"--prompts={data}",
        *FEW,
        f"--out={tmp_path / 'out'}",
        "--temperature=0",
    )
    result = report(tmp_path / "out")
    assert (
        result["contests"] == {}
        and result["judge"] is None
        and set(result["stances"]["groups"]) == {"prompts"}
    )
    assert "world/gold" not in result["measures"]["sft"] and "confidence" not in result["measures"]["sft"]
    assert "&lt;b&gt;Hi&lt;/b&gt;" in (tmp_path / "out" / "report.html").read_text()


def test_a_model_that_also_judges_is_opened_for_the_longer_of_both(town, tmp_path, monkeypatch):
    opened = {}

    def open_model(self, name, flag, max_new):
        opened.setdefault(name, []).append(max_new)
        if len(opened) == 2:
            raise ConfigError("both are open")

    monkeypatch.setattr(evals_run.LLMPool, "open", open_model)
    first, judge = str(town / "base"), str(town / "sft")
    with pytest.raises(ConfigError, match="both are open"):
        run(town, f"--models={judge},{first}", f"--judge={judge}", "--max_new=12", "--judge_max_new=90",
            f"--out={tmp_path / 'out'}")  # fmt: skip
    assert opened == {judge: [90], first: [12]}


def test_log_probabilities_are_those_that_the_sampler_has(town):
    with quick():
        llm = local.open_llm(
            str(town / "sft"),
            "models",
            EndpointFlags(),
            MachineFlags(cache_dir=town.cache.partition("=")[2]),
            16,
        )
        messages = user_messages("How do I paint a boat?")
        (reply,) = llm.generate([Request(messages, seed=3, max_new=16, top_logprobs=1)])[0]
        prompt, (ids,), _ = llm.local.template.encode_completions(messages, [reply.text])
        ((logps, _),) = llm.local.logps([(prompt, ids[: len(reply.logprobs)])])
    assert len(reply.logprobs) > 2
    assert np.allclose(logps, [one.logprob for one in reply.logprobs], atol=1e-4)


def test_short_names():
    names = ["runs/a/sft", "runs/b/sft", "hf:models/tiny", "http://h/v1?model=big", "runs/ppo@5"]
    assert evals_run.labels(names) == ["runs/a/sft", "runs/b/sft", "tiny", "big", "ppo@5"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--models: name the models to compare"),
        (("--models=nowhere",), "--models=nowhere"),
        (("--models={sft},{sft}",), "is named twice"),
        (("--models={sft}", "--reference=x"), "not one of --models"),
        (("--models={sft}", "--rubric=be kind"), "acts only where a model is the --judge"),
        (("--models={sft}", "--shots=2"), "act only with --tasks"),
        (("--models={sft}", "--people=nothing.jsonl"), "--people=nothing.jsonl: no such file"),
        (("--models={sft}", "--people={words}"), "words.jsonl:1: not a row of"),
        (("--models={sft}", "--out={full}"), r"files that are of no report \(x\); name a new folder"),
        (("--models={sft}", "--out={full}", "--overwrite"), "files that are of no report"),
        (("--models={sft}", "--out={full}/x", "--overwrite"), "it is a file"),
        (("--models={sft}", "--prompts=tinytown:nowhere"), "tinytown:nowhere"),
    ],
)
def test_a_mistake_in_the_command_is_named(town, tmp_path, flags, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    there = {"sft": town / "sft", "full": tmp_path / "full"}
    there["words"] = jsonl(tmp_path / "words.jsonl", [{"words": 1}]).removeprefix("jsonl:")
    arguments = [f"--out={tmp_path / 'out'}", "--prompt_count=2", "--max_new=4", "--topics=", "--harmful="]
    with pytest.raises(ConfigError, match=words):
        run(town, *arguments, *(flag.format(**there) for flag in flags))
    assert not (tmp_path / "out").exists()
