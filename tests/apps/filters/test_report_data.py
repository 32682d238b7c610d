"""The documents' part of a report: factors before and after, pairs of a dialog, slow documents left out."""

import re
from pathlib import Path

import pytest

from jaxtrain.apps.filters import spam
from jaxtrain.apps.filters.types import Finding
from tests.apps.filters import filtering
from tests.apps.filters.filtering import QUIET, only
from tests.data.corpus import write


def test_the_factors_are_of_what_was_read_and_of_what_is_kept(tmp_path):
    texts = [
        "the white whale swam on in 1851.",
        "BUY A LAMP NOW!!! Only $90 today!!! Visit www.lamp90.example",
    ]
    report, _, _ = filtering.run(filtering.source(tmp_path, texts), tmp_path / "out", *only("spam"))
    before, after = report["factors"]["before"], report["factors"]["after"]
    assert (before["diversity"]["documents"], after["diversity"]["documents"]) == (2, 1)
    assert before["safety"]["spam"] == 0.5 and after["safety"]["spam"] == 0
    assert before["recency"]["newest_year"] == 1851 and after["recency"]["dated"] == 1
    assert report["samples"]["spam"][0]["id"].endswith("a.jsonl#1")


def test_prompts_and_completions_are_pairs_of_the_consistency(tmp_path):
    rows = [{"prompt": "Who?", "completion": answer} for answer in ("Ann.", "Ann.", "Bob.")]
    report, _, _ = filtering.run(write(tmp_path / "a.jsonl", rows), tmp_path / "out", *QUIET)
    accuracy = report["factors"]["before"]["accuracy"]
    assert accuracy["questions_asked_again"] == 1 and accuracy["consistent"] == pytest.approx(1 / 3)
    assert accuracy["key"] == "sums"


def test_a_world_checks_its_own_answers(tmp_path):
    report, _, _ = filtering.run("tinytown:pretrain?documents=300", tmp_path / "out", *QUIET)
    accuracy = report["factors"]["before"]["accuracy"]
    assert accuracy["key"] == "known answers" and accuracy["checked"] > 20


def test_slow_documents_are_in_no_factor(tmp_path, monkeypatch):
    bomb = re.compile(r"(a+)+$")
    monkeypatch.setattr(
        spam, "check", lambda settings: lambda text: [Finding("bomb", 1)] if bomb.search(text) else []
    )
    source = filtering.source(tmp_path, ["fine b", "a" * 40 + "b"])
    monkeypatch.setattr("jaxtrain.apps.filters.corpus_stats.safety", lambda texts: {"texts": list(texts)})
    report, _, _ = filtering.run(source, tmp_path / "out", *only("spam"), "--document_seconds=0.3")
    assert report["factors"]["before"]["safety"] == {"texts": ["fine b"]}
    assert Path(tmp_path / "out" / "report.html").exists()
