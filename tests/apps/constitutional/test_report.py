"""The audit's page: whole, with model text as text, and without a network."""

import html.parser

from jaxtrain.apps.constitutional import audit
from jaxtrain.apps.constitutional import report as audit_report
from tests.apps.constitutional.test_audit import ROWS, STEAL, label


def read(report):
    opened, texts = [], []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append((tag, dict(attrs)))

        def handle_data(self, data):
            texts.append(data)

    Reader().feed(audit_report.page(report))
    return opened, " ".join(" ".join(texts).split())


def test_the_page_is_whole_and_shows_text_as_text():
    principle, measures = (
        {"id": "harm-0", "comparison": "Which?"},
        audit.answer_measures([STEAL], ["You can grab the bike."]),
    )
    report = {
        "constitution": {"name": "<mine>", "fingerprint": "f", "principles": [principle]},
        "rounds": audit.by_round(ROWS), "revised": audit.by_principle(ROWS), "faults": {"revision truncated": 1},
        "examples": audit.examples([{**one, "critique": "<b>"} for one in ROWS]),
        "labels": audit.label_measures([label(0.9, [0.9, 0.1], (2, -2))]), "models": {"SL-CAI, red-team": measures},
    }  # fmt: skip
    opened, text = read(report)
    for said in (
        "<mine>",
        "harm-0: <b>",
        "left out, revision truncated",
        "round 1 0.500",
        "SL-CAI, red-team",
        "Which?",
    ):
        assert said in text, said
    assert "script" not in dict(opened)
    linked = [attrs[name] for _, attrs in opened for name in ("src", "href") if name in attrs]
    assert linked == ["data:,"]


def test_a_page_of_no_world_has_no_numbers_of_its_judge():
    rows = [{**one, "prompt": [{"role": "user", "content": "Hi & bye"}]} for one in ROWS]
    report = {
        "constitution": {"name": "mine", "fingerprint": "f", "principles": []},
        "rounds": audit.by_round(rows),
        "revised": audit.by_principle(rows),
        "faults": {},
        "examples": audit.examples(rows),
    }
    _, text = read(report)
    assert "Hi & bye" in text and "harmful" not in text and "Comparisons" not in text
