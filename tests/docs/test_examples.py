"""The notebooks of examples/ run as they stand, cell by cell, in a new folder, and are saved without outputs."""

import ast
import json
import re

import pytest

from tests.runs import ROOT, column, quick

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.ipynb"))


def cells(name):
    return json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def run(name, scope):
    """Executes a notebook's cells in `scope`; returns what Jupyter would show as their values."""
    shown = []
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"])).body
        last = [body.pop()] if isinstance(body[-1], ast.Expr) else []
        exec(compile(ast.Module(body, []), f"{name}.ipynb[{number}]", "exec"), scope)
        for one in last:
            value = eval(compile(ast.Expression(one.value), f"{name}.ipynb[{number}]", "eval"), scope)
            shown += [] if value is None else [value]
    return shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the notebooks run: the caches are there, too, as a home of its own."""
    home = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch, quick():
        patch.chdir(home)
        patch.setenv("HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def first(folder):
    scope = {"__name__": "__main__"}
    return run("first_run", scope), scope


def test_every_notebook_is_run():
    assert EXAMPLES == ["first_run", "metrics", "objective"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_notebooks_are_valid_and_have_no_outputs(name):
    book = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", one) for one in ids)
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_a_first_run_is_trained_loaded_and_served(first, folder):
    shown, scope = first
    assert repr(shown[0]).startswith("LanguageModel('runs/first': 1 layers, width 32")
    assert scope["good"] < scope["junk"]
    assert isinstance(scope["answer"], str) and (folder / "runs/first-sft/checkpoints/20").is_dir()
    assert "".join(token for token, _ in shown[1]) == scope["text"]


def test_an_objective_of_ones_own_trains(folder):
    scope = {"__name__": "__main__"}
    run("objective", scope)
    losses = column(folder / "runs/focal", "loss")
    assert len(losses) == 20 and losses[-1] < losses[0] - 0.2


def test_the_metrics_of_a_run_are_read(first, folder, capsys):
    shown = run("metrics", {"__name__": "__main__"})
    assert {"step", "time", "loss", "eval/loss", "tokens_per_s"} <= set(shown[0])
    assert shown[-1] == {"lr": 0.02, "steps": 20, "batch_size": 8}
    printed = capsys.readouterr().out
    assert "runs/first-sft" in printed and "eval/accuracy" in printed and "####" in printed
