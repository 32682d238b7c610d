"""The audit: its page is whole, with model text as text; damage to the files of a phase is named."""

import html.parser
import json

import pytest

from jaxtrain.apps.constitutional import audit, config, phase, principles
from jaxtrain.apps.constitutional import report as audit_report
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic
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
        "50.0 % 9.5 to 90.5 %, n 2",
        "SL-CAI, red-team",
        "Which?",
    ):
        assert said in text, said
    (drawn,) = [attrs["aria-label"] for _, attrs in opened if attrs.get("class") == "plot"]
    assert "harmful answers from" in drawn
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
    assert "Hi & bye" in text and "harmful answers" not in text and "Comparisons" not in text


@pytest.fixture
def finished(tmp_path):
    """(the folder of a finished compare phase, its run)."""
    made_by = {"constitution": "c", "model": "m", "critic": "m"}
    run = phase.PhaseRun(tmp_path / "compare", config.ComparePhase(), made_by, None, None)
    run.folder.mkdir()
    labels = [label(0.9, [0.9, 0.1], (2, -2))]
    phase.finish(run, {"left_out.jsonl": [], "labels.jsonl": labels}, pairs=1, rows=1, faults={"label x": 2})
    return run.folder, run


def test_the_files_of_a_finished_phase_are_audited(finished):
    folder, run = finished
    assert phase.is_finished(run) and not phase.is_finished(run._replace(folder=folder.parent))
    atomic.write_sealed(folder.parent / "models.json", {"SL-CAI": {"answers": 3, "harmful": 0.5}})
    report = audit_report.write(folder.parent, principles.load(config.SHIPPED / "tinytown.json"))
    assert report["labels"]["all"]["pairs"] == 1 and report["faults"] == {"label x": 2}
    assert report["models"] == {"SL-CAI": {"answers": 3, "harmful": 0.5}}
    with pytest.raises(ConfigError, match=r"compare is of another command.*\n.*critic: m -> other"):
        phase.is_finished(run._replace(made_by={**run.made_by, "critic": "other"}))


@pytest.mark.parametrize("name", ["compare/labels.jsonl", "compare/report.json", "models.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damage_to_the_files_of_a_phase_is_named(finished, name, damage):
    folder, run = finished
    atomic.write_sealed(folder.parent / "models.json", {"SL-CAI": {"answers": 3}})
    path = folder.parent / name
    body = path.read_bytes()
    middle = len(body) // 2
    flipped = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    path.write_bytes({"flip": flipped, "truncate": body[:middle], "empty": b""}[damage])
    with pytest.raises(
        ConfigError, match=rf"{path.name} (is damaged|differs from what was written).*: .*remove"
    ):
        if path.parent == folder:
            phase.is_finished(run)
        audit_report.write(folder.parent, principles.load(config.SHIPPED / "tinytown.json"))


def test_a_missing_file_of_a_phase_is_named_and_an_earlier_release_has_no_checksums(finished):
    folder, run = finished
    path = folder / "report.json"
    saved = json.loads(path.read_text())
    (folder / "labels.jsonl").unlink()
    with pytest.raises(
        ConfigError, match=r"labels\.jsonl is missing: .* remove .*report\.json, and the phase runs again"
    ):
        phase.is_finished(run)
    atomic.write_text(path, json.dumps({key: saved[key] for key in ("config", "made_by", "faults")}))
    assert phase.is_finished(run)
