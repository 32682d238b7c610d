"""report.html: everything of the report is in it, escaped, without the network, and personal data is not shown."""

import json
import re
from html.parser import HTMLParser

import pytest

from jaxtrain import worlds
from jaxtrain.apps.filters import config, corpus_stats, ledger, report, steps
from jaxtrain.apps.filters.ledger import Tally
from tests.apps.filters.world import labelled

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects the text and the tags, and checks that they close."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action") and value
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


@pytest.fixture(scope="module")
def filtered():
    """A report of Tinytown's first documents, as the command makes it."""
    cfg, tally = config.Filter(), Tally()
    run = steps.active_steps(cfg)
    judge, lines = steps.FilterPipeline(cfg, run, tally), []
    rows = [{"text": one.text, "defect": one.defect, "planted": one.planted} for one in labelled(1500)]
    for verdict in judge((f"town:{i}", row) for i, row in enumerate(rows)):
        lines += verdict.ledger_lines
        tally.kept += verdict.record is not None
    tally.check()
    held = ledger.step_report(tally, [step.name for step in run]) | report.samples_and_scores(
        json.loads(json.dumps(lines))
    )
    found = corpus_stats.quality_factors(
        [one.text for one in labelled(1500)], answer_key=corpus_stats.world_answer_key(worlds.get())
    )
    return held | {"data": "tinytown:pretrain", "factors": {"before": found, "after": found}}, lines


def test_the_page_tells_what_the_report_says(filtered, tmp_path):
    held, _ = filtered
    report.write_page(json.loads(json.dumps(held)), tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    for count in (held["read"], held["kept"], held["rejected"]):
        assert f"{count:,}" in page.text
    for name, step in held["steps"].items():
        assert report.TITLES[name] in page.text
        for rule, count in step["rules"].items():
            assert f"{rule} {count:,}" in page.text
    for row in held["measured"].values():
        assert (
            report.share_text(row["precision"]) in page.text and report.share_text(row["recall"]) in page.text
        )
    for name, (meaning, rows) in report.FACTORS.items():
        assert name.capitalize() in page.text and meaning in page.text
        assert all(title in page.text for title in rows.values())
    assert page.tags.count("figure") == 1 + len(held["scores"]) and "Look at its samples" not in page.text
    assert page.tags.count("blockquote") == sum(map(len, held["samples"].values())) > 5


def test_it_needs_no_network_and_fits_dark_and_phone(filtered, tmp_path):
    report.write_page(filtered[0], tmp_path / "report.html")
    page, source = read(tmp_path / "report.html"), (tmp_path / "report.html").read_text()
    assert page.links == ["data:,"] and "url(" not in source and "@import" not in source
    assert "prefers-color-scheme: dark" in source and 'name="viewport"' in source


def read_scripts(held, tmp_path):
    """The scripts of a report's own page."""
    report.write_page(held, tmp_path / "own.html")
    return read(tmp_path / "own.html").tags.count("script")


def test_texts_are_escaped(filtered, tmp_path):
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)> & \ud800 \x00"
    line = {
        "id": evil, "action": "drop", "step": "spam", "rule": evil, "score": 5.0, "part": "text", "span": [0, 6],
        "record": {"text": evil},
    }  # fmt: skip
    held = filtered[0] | {"data": evil, "samples": report.samples_and_scores([line])["samples"]}
    report.write_page(held, tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    scripts = read_scripts(filtered[0], tmp_path)
    assert page.tags.count("script") == scripts and "img" not in page.tags and "<script>alert(1)" in page.text


def test_personal_data_is_not_shown(filtered):
    held, lines = filtered
    planted = [one.planted for one in labelled(1500) if one.planted]
    shown = json.dumps(held["samples"])
    assert len(held["samples"]["pii"]) == 6 and re.search(
        "<(EMAIL|PHONE|IP)>", json.dumps(held["samples"]["pii"])
    )
    assert not any(datum in shown for datum in planted)
    assert any(datum in json.dumps(lines) for datum in planted)  # rejected.jsonl has the document as it was


def test_personal_data_is_not_shown_in_samples_of_other_steps_nor_where_a_piece_cuts_it():
    text = "Mail bob@example.com now, " + "x" * 500 + " or carla@example.org"
    line = {
        "id": "a",
        "action": "drop",
        "step": "spam",
        "rule": "r",
        "score": 1.0,
        "part": "text",
        "span": [8, 12],
    }
    one = report.samples_and_scores([line | {"record": {"text": text}}])["samples"]["spam"][0]
    assert one["before"] == "Mail <EMAIL>" and one["marked"] == "<EMAIL>"
    assert one["after"].startswith("<EMAIL> now, xxx") and "example" not in json.dumps(one)


def test_samples_and_scores_by_hand():
    lines = [
        {
            "id": f"d:{i}", "action": "drop", "step": "junk", "rule": "surprise", "score": float(i % 4), "part": "text",
            "span": [300, 304], "record": {"text": "x" * 300 + "mark" + "y" * 900},
        }
        for i in range(100)
    ]  # fmt: skip
    found = report.samples_and_scores(lines)
    assert found["scores"]["junk/surprise"] == {"edges": [0.0, 0.75, 1.5, 2.25, 3.0], "counts": [25] * 4}
    assert len(found["samples"]["junk"]) == 6
    one = found["samples"]["junk"][0]
    assert one["before"] == "… " + "x" * 120 and one["marked"] == "mark" and one["after"] == "y" * 420 + " …"
    assert (
        "scores" in found and report.samples_and_scores(lines[:9])["scores"] == {}
    )  # too few for a histogram
    assert found == report.samples_and_scores(lines) and report.samples_and_scores([]) == {
        "samples": {},
        "scores": {},
    }


@pytest.mark.parametrize(
    "record, part",
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages[0].content"),
        ({}, None),
        ({"text": b"\xff"}, "text"),
    ],
)
def test_samples_of_any_record(record, part):
    line = {
        "id": "a",
        "action": "drop",
        "step": "read",
        "rule": "r",
        "score": 1.0,
        "part": part,
        "span": None,
    }
    assert report.samples_and_scores([line | {"record": record}])["samples"]["read"][0]["id"] == "a"


def test_a_report_without_labels_samples_or_factors(filtered, tmp_path):
    keep = ("read", "kept", "rejected", "changed", "steps")
    report.write_page({key: filtered[0][key] for key in keep}, tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    assert "figure" not in page.tags and "Precision" not in page.text


def test_without_labels_precision_is_a_dash_and_shares_have_their_interval(filtered, tmp_path):
    row = {"labelled": 0, "found": 7, "right": 0, "unlabelled": 7, "precision": None, "recall": None}
    held = filtered[0] | {
        "measured": {"spam": row, "pii": row | {"labelled": 10, "precision": 0.5, "recall": 0.9}}
    }
    report.write_page(held, tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    source = (tmp_path / "report.html").read_text()
    assert "<td>7</td><td>0</td><td>–<small></small></td><td>–<small></small></td>" in source
    assert "59.6 to 98.2 %, n 10" in page.text
    total = Tally()
    total.labels.update({"spam/clean/found": 7, "spam/clean/reached": 20})
    assert ledger.precision_recall(total)["spam"]["precision"] is None


def test_a_histogram_has_the_threshold_of_its_rule(filtered):
    scores = {"heuristics/gopher_word_length": {"edges": [1.0, 2.0, 3.0], "counts": [4, 9]}}
    settings = {"heuristics": {"min_word_length": 3.0, "max_word_length": 10.0}}
    chart = report._charts(
        filtered[0] | {"scores": scores, "lengths": {}, "factors": {}, "config": settings}
    )[0]
    assert [mark["label"] for mark in chart["marks"]] == ["--min_word_length=3", "--max_word_length=10"]
    assert [mark["x"] for mark in chart["marks"]] == [3.0, 10.0] and chart["units"] == ["documents"]


def test_numbers_as_people_read_them():
    assert [report.share_text(x) for x in (0, 1, 0.5, 0.0004, None)] == [
        "0 %",
        "100 %",
        "50.0 %",
        "0.04 %",
        "–",
    ]
    assert [report.number_text(x) for x in (None, 1999, 12345, 0.12345, 5e6)] == [
        "–",
        "1,999",
        "12,345",
        "0.123",
        "5,000,000",
    ]
    assert re.fullmatch(r"[\d.]+ %", report.share_text(0.123))
