"""Which folders a report may be written to."""

import pytest

from jaxtrain.apps.evals.config import REPORT, require_writable
from jaxtrain.apps.evals.run import _write
from jaxtrain.config import ConfigError


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        ([], ""),
        (["answers.jsonl.tmp"], ""),
        (["answers.jsonl", "report.json", "report.html.tmp"], ""),
        (["answers.jsonl", "report.json", "report.html"], "it has a report already; .* with --overwrite"),
        (["answers.jsonl", "notes.txt"], r"files that are of no report \(notes.txt\)"),
    ],
)
def test_a_part_of_a_report_is_written_over_and_all_else_is_not(names, refused, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    if not refused:
        return require_writable(tmp_path, False)
    with pytest.raises(ConfigError, match=refused):
        require_writable(tmp_path, False)


def test_overwrite_replaces_a_report_and_nothing_else(tmp_path):
    require_writable(tmp_path / "none", True)
    for name in REPORT:
        (tmp_path / name).touch()
    require_writable(tmp_path, True)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="of no report"):
        require_writable(tmp_path, True)
    with pytest.raises(ConfigError, match="it is a file"):
        require_writable(tmp_path / "notes.txt", True)


def test_a_replaced_report_has_no_page_until_it_is_whole(tmp_path, monkeypatch):
    """A kill in between leaves a part of a report, which the same command replaces."""
    (tmp_path / REPORT[-1]).touch()
    monkeypatch.setattr("jaxtrain.files.atomic.write_jsonl", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _write({"models": [], "answers": []}, tmp_path)
    require_writable(tmp_path, False)
