"""Which folders a report may be written to."""

import pytest

from jaxtrain.apps.evals.config import unfinished


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], True),
        (["answers.jsonl.tmp"], True),
        (["answers.jsonl", "report.json", "report.html.tmp"], True),
        (["answers.jsonl", "report.json", "report.html"], False),
        (["answers.jsonl", "notes.txt"], False),
    ],
)
def test_a_part_of_a_report_is_written_over_and_all_else_is_not(names, expected, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    assert unfinished(tmp_path) == expected


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "report").touch()
    assert not unfinished(tmp_path / "report")
