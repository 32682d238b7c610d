"""The report of an evaluation on the disk: whole, or not there."""

import pytest

from jaxtrain.apps.evals import report, run

RESULT = {"models": [{"label": "sft"}], "answers": [{"prompt": "Hi", "answers": ["Ho"], "thoughts": [""]}]}


def test_a_report_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "report"
    out.mkdir()  # an empty folder may be there

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "page", full)
    with pytest.raises(OSError, match="No space"):
        run._write(RESULT, out)
    assert [path.name for path in tmp_path.iterdir()] == ["report"] and not list(out.iterdir())

    # What a kill leaves is no report, and the next one takes its place.
    (left := tmp_path / "report.tmp").mkdir()
    (left / "answers.jsonl").write_text("half")
    monkeypatch.setattr(report, "page", lambda _: "<html>")
    run._write(RESULT, out)
    assert {path.name for path in out.iterdir()} == {"answers.jsonl", "report.json", "report.html"}
    assert "Ho" in (out / "answers.jsonl").read_text() and not left.exists()
