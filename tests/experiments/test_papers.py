"""The papers' experiments on data: their corpora and measures by hand, and one of them whole at the smallest size."""

import dataclasses
import json
import re

import numpy as np
import pytest

from experiments.papers import arms, dedup, filtering
from experiments.papers.arms import CorpusTrial
from jaxtrain.config import ConfigError
from tests.runs import MODEL, quick

SMALL = dedup.Dedup(trial=CorpusTrial(documents=1200), repeated=dedup.DedupFlags(copies=10))


@pytest.fixture(scope="module")
def copied():
    return dedup.with_copies(SMALL, np.random.Generator(np.random.Philox(0)))


def test_the_corpus_has_the_copies_that_the_flags_say(copied):
    corpus, sources, originals = copied
    assert len(corpus) == len(sources) == 1200
    groups = {s for s in sources if s >= 0}
    assert len(groups) == 24 and sum(s >= 0 for s in sources) == 240
    for group in groups:
        members = [corpus[i] for i, s in enumerate(sources) if s == group]
        assert len(members) == 10 and len({dedup.serial_of(text) for text in members}) == 1
        assert (
            sources.index(group) == group and 2 <= len(set(members)) <= 6
        )  # five are edited, each at some word
    assert sorted(originals) == sorted({dedup.serial_of(corpus[group]) for group in groups})
    assert all(corpus.count(text) >= 5 for text in originals.values())
    serials = [dedup.serial_of(text) for text, s in zip(corpus, sources, strict=True) if s < 0]
    assert len(set(serials)) == len(serials) == 960


def test_copies_are_found_and_measured(copied):
    corpus, sources, _ = copied
    unique = dedup.deduplicate(corpus, SMALL.near)
    precision, recall = dedup.precision_and_recall(sources, unique)
    assert precision >= 0.95 and recall >= 0.95
    assert dedup.precision_and_recall([0, 0, 0, -1, 4, 4], [0, 3, 4]) == (1.0, 1.0)
    # A single document dropped, a copy kept: of two dropped one is right, and of three copies too many one is gone.
    assert dedup.precision_and_recall([0, 0, 0, -1, 4, 4], [0, 1, 4, 5]) == (0.5, pytest.approx(1 / 3))
    assert dedup.precision_and_recall([0, 0, -1], [2]) == (0.0, 0.0)  # all copies gone: none of them rightly


def test_area_under_the_curve_by_hand():
    assert filtering.auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == pytest.approx(0.75)
    assert filtering.auc([0.5, 0.5], [True, False]) == 0.5
    assert filtering.auc([0.1, 0.9], [False, True]) == 1


def test_what_counts_as_reproduced():
    counts = {"documents": 48, "emitted": 7, "samples": 1000}
    found = {
        "copies": counts | {"loss": (1.0, 0.5), "recalled": 30},
        "deduplicated": counts | {"loss": (1.02, 0.5), "recalled": 0},
    }
    corpora = {"copies": ["a"], "deduplicated": ["a"]}
    result, table = dedup.report(SMALL, corpora, found, 1.0, 0.9)
    assert result["ratio"] == 30 and result["passed"] == {"memorised": True, "loss": False, "found": False}
    assert "at least 30.0" in dict(table)["memorised"] and "+2.00%" in dict(table)["clean loss"]
    loss = {"none": (1.0, 0.5), "rules": (0.9, 0.4), "classifier": (0.85, 0.4), "oracle": (0.8, 0.4)}
    result, _ = filtering.report(filtering.Filtering(), {name: ["a"] for name in loss}, loss, 0.99)
    assert result["gained"] == {"rules": pytest.approx(0.5), "classifier": pytest.approx(0.75)}
    assert result["passed"] == {"auc": True, "gain": False}


def test_flags_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--repeated"):
        dedup.DedupFlags(repeated=1.0)
    with pytest.raises(ConfigError, match="--junk"):
        filtering.FilteringFlags(junk=0.0)
    with pytest.raises(ConfigError, match="not one document"):
        dedup.with_copies(
            dedup.Dedup(trial=CorpusTrial(documents=500), repeated=dedup.DedupFlags(copies=400)), None
        )
    trial = CorpusTrial(workdir=str(tmp_path / "runs"))
    assert arms.folder_of(trial, "x") == arms.folder_of(trial, "x") == tmp_path / "runs"
    with pytest.raises(ConfigError, match="other flags"):
        arms.folder_of(dataclasses.replace(trial, steps=99), "x")


def test_an_experiment_whole_and_again(tmp_path, capsys):
    trial = CorpusTrial(
        workdir=str(tmp_path / "runs"), cache_dir=str(tmp_path / "cache"), model=MODEL, documents=500, held_out=20,
        steps=20, seq_len=64,
    )  # fmt: skip
    cfg = filtering.Filtering(trial=trial, junked=filtering.FilteringFlags(labels=200))
    with quick():
        filtering.main(cfg)
        printed = capsys.readouterr().out
        saved = json.loads((tmp_path / "runs" / "result.json").read_text())
        filtering.main(cfg)
    assert set(saved["loss"]) == {"none", "rules", "classifier", "oracle"} and saved["auc"] > 0.98
    page = (tmp_path / "runs" / "report.html").read_text()
    training, clean = (json.loads(one) for one in re.findall(r'type="application/json">(.*?)</script>', page))
    assert [one["label"] for one in clean["series"]] == [*saved["loss"]] and "junk costs" in page
    assert [one["y"][-1] for one in clean["series"]] == pytest.approx(
        [x[0] for x in saved["loss"].values()], rel=1e-5
    )
    assert all(len(one["x"]) > 1 for one in training["series"])
    assert saved["loss"]["none"][0] > 1 and "training on none" in printed and "junk costs" in printed
    assert saved["documents"]["oracle"] < saved["documents"]["none"] == 500
    again = capsys.readouterr().out
    assert "training on" not in again and json.loads((tmp_path / "runs" / "result.json").read_text()) == saved


def test_duplicates_memorised_whole(tmp_path, capsys):
    """Few steps: nothing is memorised yet, and the result says so."""
    trial = CorpusTrial(
        workdir=str(tmp_path / "runs"), cache_dir=str(tmp_path / "cache"), model=MODEL, documents=500, held_out=20,
        steps=20, seq_len=64,
    )  # fmt: skip
    cfg = dedup.Dedup(trial=trial, repeated=dedup.DedupFlags(copies=10, samples=20, max_new=8))
    with quick():
        dedup.main(cfg)
    saved = json.loads((tmp_path / "runs" / "result.json").read_text())
    printed = capsys.readouterr().out
    assert set(saved["found"]) == {"copies", "deduplicated"}
    for one in saved["found"].values():
        assert (one["recalled"], one["documents"], one["samples"]) == (0, 10, 20) and one["loss"][0] > 1
    assert saved["passed"]["memorised"] is False and "NOT as expected" in printed
