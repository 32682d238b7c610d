"""launch/mutate: its mutations fit the code, and it tells what a test catches from what it does not."""

import importlib.machinery
import importlib.util
import json

import pytest

from tests.source import ROOT


def load():
    loader = importlib.machinery.SourceFileLoader("mutate", str(ROOT / "launch" / "mutate"))
    spec = importlib.util.spec_from_loader("mutate", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


mutate = load()


def test_the_mutations_fit_the_code():
    found = mutate.read(ROOT / "tests" / "mutations.toml", ROOT)
    assert len(found) >= 100
    assert sum(bool(one.survives) for one in found) <= len(found) // 20


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A library of one function, one test that looks at it and one that does not."""
    (tmp_path / "jaxtrain").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "jaxtrain" / "__init__.py").touch()
    (tmp_path / "jaxtrain" / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "tests" / "test_sums.py").write_text(
        "from jaxtrain.sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
    )
    (tmp_path / "tests" / "test_weak.py").write_text(
        "from jaxtrain.sums import add\n\n\ndef test_add():\n    assert add(2, 2) == 4\n"
    )
    (tmp_path / "tests" / "test_red.py").write_text("def test_red():\n    assert False\n")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # to import them is most of such a test's time
    return tmp_path


def mutations(project, *entries):
    blocks = [
        f"[[mutation]]\nfile = 'jaxtrain/sums.py'\nold = '{old}'\nnew = '{new}'\ntests = '{tests}'\n{more}\n"
        for old, new, tests, more in entries
    ]
    path = project / "mutations.toml"
    path.write_text("".join(blocks))
    return mutate.read(path, project)


def test_caught_survived_and_not_sound(project, capsys):
    found = mutations(
        project,
        ("a + b", "a * b", "tests/test_sums.py", ""),
        ("a + b", "a * b", "tests/test_weak.py", "survives = 'two and two'"),
        ("a + b", "a - b", "tests/test_red.py", ""),
    )
    journal = project / "journal.jsonl"
    assert mutate.run(found, journal, 60.0, False) == 1
    results = [json.loads(line)["result"] for line in journal.read_text().splitlines()]
    assert results == ["caught", "survived", "tests fail without it"]
    assert "a + b" in (project / "jaxtrain" / "sums.py").read_text()
    assert "1 caught, 1 survived, 1 tests fail without it" in capsys.readouterr().out
    assert (
        mutate.run(found[:2], journal, 0.0, False) == 0
    )  # from the journal, and the one that survives has a reason


@pytest.mark.parametrize(
    ("old", "tests", "words"),
    [
        ("a / b", "tests/test_sums.py", "stands 0 times"),
        ("a", "tests/test_sums.py", "stands 3 times"),
        ("a + b", "tests/test_missing.py", "there is no tests/test_missing.py"),
    ],
)
def test_a_mutation_that_does_not_fit_is_refused(project, old, tests, words):
    with pytest.raises(mutate.PatternError, match=words):
        mutations(project, (old, "a - b", tests, ""))


@pytest.mark.slow
def test_the_tests_catch_95_of_100(tmp_path):
    found = mutate.read(ROOT / "tests" / "mutations.toml", ROOT)
    assert mutate.run(found, tmp_path / "journal.jsonl", 900.0, False) == 0
