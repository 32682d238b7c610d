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


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 rows of 128, 1 texts cut into rows", "1 row of 128, 1 text cut into rows"),
        ("1 other answers are part of prompts", "1 other answer is part of prompts"),
        ("1 pairs are tied; 1 batches", "1 pair is tied; 1 batch"),
        (
            "11 rows, 1,001 rows, 0.1 rows, x=1 rows, v1 rows",
            "11 rows, 1,001 rows, 0.1 rows, x=1 rows, v1 rows",
        ),
        ("1 of 1 records used, in 1 rows", "1 of 1 record used, in 1 row"),
        ("2 rows have 1 bytes", "2 rows have 1 byte"),
    ],
)
def test_one_thing_is_in_the_singular(text, wanted):
    assert terminal.singular(text) == wanted and terminal.lines([("a", text)])[0].endswith(wanted.split()[-1])


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
