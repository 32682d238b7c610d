"""Text for a terminal."""

import pytest

from jaxtrain.files import terminal


def test_tables_fit_a_terminal():
    assert terminal.lines([("a", 1), ("longer", "x y")]) == ["  a       1", "  longer  x y"]
    folded = terminal.lines([("name", "word " * 40)])
    assert len(folded) > 2 and max(map(len, folded)) <= 80 and folded[1].startswith("        word")
    name = "train jsonl:/a/long/path/of/a/file.jsonl"
    grouped = terminal.lines([(name, "1"), ("other", "2"), (name, "3")])
    assert grouped == [f"  {name}", "    1", "    3", "  other", "    2"]
    assert terminal.lines([]) == []


def test_wrapped_lines_keep_their_head_and_empty_lines():
    lines = terminal.wrapped("word " * 40 + "\n\nend", "  | ")
    assert max(map(len, lines)) <= terminal.WIDTH and all(line.startswith("  |") for line in lines)
    assert lines[-2:] == ["  |", "  | end"]


def test_notes_go_to_stderr(capsys):
    terminal.note([("rows", "3")])
    assert capsys.readouterr() == ("", "  rows  3\n")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (1234, "1,234"), (1234.5, "1,234"), (12.34, "12.3"), (-1.234, "-1.23")]
)
def test_numbers_have_digits_by_their_size(value, text):
    assert terminal.number(value) == text


def test_percentages():
    assert (terminal.percent(None), terminal.percent(0.126)) == ("–", "13 %")
