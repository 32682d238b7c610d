"""The filter's command: what it prints and refuses, and a run that trains on what it kept."""

import json
import sys

import pytest

from experiments import filter_data
from jaxtrain import flags as command_line
from jaxtrain.apps.filters.config import Filter
from jaxtrain.config import ConfigError
from tests.runs import MODEL, call, jsonl, prose, quick


def test_what_is_kept_is_trained_on_with_its_fingerprint(tmp_path, capsys):
    texts = prose(80)
    data = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in [*texts, *texts[:20]]])
    cache = f"--cache_dir={tmp_path / 'cache'}"
    flags = [f"--data={data}", f"--out={tmp_path / 'clean'}", cache, "--workers=1", "--near=off"]
    cfg = command_line.from_flags(Filter, flags)
    filter_data.main(cfg)
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "clean" / "report.json").read_text())
    assert f"{report['kept']:,} kept" in said and "train on it: --data=filtered:" in said
    assert (
        report["read"] == 100 == report["kept"] + report["rejected"]
        and report["steps"]["exact"]["dropped"] >= 20
    )
    assert (tmp_path / "clean" / "report.html").read_text().startswith("<!doctype html>")
    filter_data.main(cfg)  # a finished folder is shown again
    assert f"{report['kept']:,} kept" in capsys.readouterr().out
    with quick():
        said = call(
            "pretrain", f"--data=filtered:{tmp_path / 'clean'}", f"--model={MODEL}", cache, "--tokenizer=bpe:300",
            "--steps=3", "--warmup=1", "--seq_len=32", "--batch_size=8", "--eval_batches=1", "--eval_share=0.2",
            f"--workdir={tmp_path / 'run'}",
        )  # fmt: skip
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    assert held["config"]["data"]["data"] == f"filtered:{tmp_path / 'clean'}" and held["data"]["data"]
    assert "finished 3 steps" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--data and --out"),
        (("--data=jsonl:none.jsonl", "--out=x"), "none.jsonl"),
        (("--pii=no",), "--pii=no"),
    ],
)
def test_what_cannot_be_is_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        filter_data.main(command_line.from_flags(Filter, list(flags)))


@pytest.mark.parametrize(
    ("package", "flag", "message"),
    [
        ("rensa", "--near=drop", r"--near=drop: needs rensa: JAXTRAIN_EXTRAS=filters .*or --near=off"),
        ("rapidfuzz", "--near=drop", r"needs rapidfuzz.*pip install 'jaxtrain\[filters\]'"),
        ("py3langid", "--languages=en", r"--languages=en: needs py3langid.*JAXTRAIN_EXTRAS=filters "),
        ("py3langid", "--pii=off", r"--heuristics=drop: needs py3langid.*or --heuristics=off"),
        ("phonenumbers", "--pii=mask", r"--pii=mask.*needs phonenumbers: JAXTRAIN_EXTRAS=filters "),
        ("publicsuffixlist", "--pii=off", r"the report.*needs publicsuffixlist.*pip install"),
        ("datatrove", "--executor=ray", r"--executor=ray: needs datatrove.*JAXTRAIN_EXTRAS=filters-cluster"),
    ],
)
def test_a_missing_package_is_refused_before_the_work(tmp_path, monkeypatch, package, flag, message):
    data, out = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in prose(5)]), tmp_path / "out"
    flags = [f"--data={data}", f"--out={out}", f"--cache_dir={tmp_path / 'cache'}", "--workers=1", flag]
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=message):
        filter_data.main(command_line.from_flags(Filter, flags))
    assert not out.exists()


def test_duplicates_without_a_label_are_told_apart_and_many_of_them_bring_advice(tmp_path, capsys):
    world = "tinytown:pretrain?documents=1500&originals=200&dup=.05&near_dup=.05"
    out, cache = tmp_path / "out", f"--cache_dir={tmp_path / 'cache'}"
    flags = [f"--data={world}", f"--out={out}", cache, "--workers=1"]
    filter_data.main(command_line.from_flags(Filter, flags))
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    near = [row for row in rows if row["step"] == "near"]
    chance = sum(row["record"]["defect"] != "near_duplicate" for row in near)
    assert 0 < chance < len(near)
    head, *table = said.partition("against ")[2].splitlines()
    assert head.split() == ["labels", "labelled", "found", "unlabelled", "precision", "recall"]
    cells = next(line for line in table if line.startswith("near ")).split()
    assert cells[2:4] == [f"{len(near):,}", f"{chance:,}"] and float(cells[4]) >= 0.95
    report = json.loads((out / "report.json").read_text())
    assert "keeps more" not in said and report["steps"]["near"]["dropped"] == len(near)
    report["steps"]["near"]["seen"] = 2 * len(near)
    lines = filter_data.report_table(report)
    advice = " ".join(lines[lines.index("") + 1 :]).partition("near drops 50 % of the documents")[2]
    assert "--near_similarity" in advice and max(map(len, lines)) <= 80
    page = (out / "report.html").read_text()
    assert "of them without a label" in page and f"<td>{chance:,}</td>" in page
