"""The strings that people see are collected whole, and their words are plain: what was mended stays so."""

import re

import pytest

from tests import strings
from tests.source import ROOT

# Sentences and words that nobody understood, or that were wrong: (pattern, what to write).
WORDS = {
    r"\bdocs/s a core\b": "docs/s per core",
    r"answers that are answers": "parsable answers",
    r"speaks once": "is computed once",
    r"training, whole": "the whole training",
    r"rows of \{[^}]*\} of \{": "N of M records used, in K rows",
    r"\bis it up\b": "is it running",
    r"\b[Ss]ee to the\b": "check the",
    r"\bmend (it|the)\b": "correct",
    r"\bby heart\b": "memorises",
    r"\bno more, and\b": "no longer",
    r"\b(hath|thereof|whilst|anon)\b": "plain words",
    r"\bmost, \{": "longest",
}


@pytest.fixture(scope="module")
def seen():
    return strings.collect()


def test_strings_of_every_kind_are_collected(seen):
    places = {one.path for one in seen}
    for path in (
        "experiments/sample.py",
        "experiments/help/sft.txt",
        "jaxtrain/config.py",
        "jaxtrain/apps/serve/pages/chat.html",
        "jaxtrain/apps/serve/pages/chat.js",
        "jaxtrain/apps/lifecycle/pages/lifecycle.html.jinja",
        "launch/run",
    ):
        assert path in places, path
    texts = [one.text for one in seen]
    assert any(text.startswith("--model: name the run to serve") for text in texts)
    assert "Stored completions" in texts and "The lifecycle of a language model" in texts
    assert not any(".u-legend" in text or "border-bottom" in text for text in texts), "no style sheets"


def test_each_string_has_its_line(seen):
    for one in seen:
        if (
            one.path.endswith((".html", ".jinja", ".js", ".txt"))
            and "{" not in one.text
            and "$" not in one.text
        ):
            lines = (ROOT / one.path).read_text(encoding="utf-8").splitlines()
            assert one.text.split()[0] in lines[one.line - 1], one


def test_words_that_nobody_understands_do_not_come_back(seen):
    found = [
        (one.path, one.line, pattern) for one in seen for pattern in WORDS if re.search(pattern, one.text)
    ]
    assert found == [], {pattern: WORDS[pattern] for _, _, pattern in found}


def test_a_string_is_read_as_people_see_it(tmp_path):
    source = """'''A docstring of a module.'''
def f(n):
    '''No one sees this.'''
    print(f"{n:,} rows are " f"here {n!r}" "!", "one")
    return "SELECT two words"
"""
    assert [one[1:] for one in strings.of_python(source, "a.py")] == [(4, "{n} rows are here {n}!")]
    page = '<style>a b</style><p title="two words">Hello\n there <b>you all</b></p>{# no one #}'
    assert [one.text for one in strings.of_page(page, "a")] == ["two words", "Hello there", "you all"]
    script = '// not this one\nconst a = "use it" + `so ${much} it`;'
    assert [one[1:] for one in strings.of_script(script, "a")] == [(2, "use it"), (2, "so ${much} it")]
    assert [one.text for one in strings.of_shell("# echo 'a b'\necho \"two words\" >&2", "a")] == [
        "two words"
    ]


def test_the_file_has_all_of_them(tmp_path, capsys, seen):
    strings.main(tmp_path / "strings.txt")
    lines = (tmp_path / "strings.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(seen) and f"{len(seen):,} strings" in capsys.readouterr().out
