"""Sizes: files, functions, the reading order of docs/reading.md, and that a module of some size has a test file.

A list of exceptions only shrinks: an entry that is no longer needed fails its test. Each rule has a test that it fails.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import source
from tests.source import ROOT, Source, shrinking

LONGEST_FILE, LONGEST_FUNCTION, LONGEST_TODAY = 500, 60, 70
# Functions of 61 to 70 lines.
LONG_TODAY: set[str] = set()

SPINE = 6500  # lines, from batch to update
TESTED = 60  # lines from which on a library module has a test file of its own
UNTESTED_TODAY = {  # of jaxtrain
    f"jaxtrain.{name}"
    for name in """
    apps.annotation.collect apps.annotation.config apps.constitutional.compare_phase apps.constitutional.config
    apps.constitutional.phase apps.constitutional.revise_phase apps.evals.report
    apps.evals.run apps.lifecycle.html apps.lifecycle.plan apps.lifecycle.progress apps.lifecycle.report
    apps.lifecycle.tables apps.serve.app apps.serve.completions
    apps.serve.request_params apps.serve.responses apps.serve.scheduler apps.serve.stored_completions
    apps.serve.streaming apps.synthesis.config apps.synthesis.prompts apps.synthesis.run models.hf_families
    models.hf_layout models.layers models.zoo stages.before_after
    stages.reference stages.reward_model stages.session stages.trainer stages.weights types
    """.split()
}


@pytest.fixture(scope="module")
def tree() -> Source:
    return source.checkout()


def long_files(root: Path) -> Iterator[str]:
    """Files of more than 500 lines, tests included."""
    for folder in (*source.PACKAGES, "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE:
                yield f"{path.relative_to(root)}: {count} lines"


def long_functions(modules: Source) -> dict[str, int]:
    """Functions of more than 60 lines, with their lines."""
    return {
        f"{name}.{function}": source.length(node)
        for name, module in modules.items()
        for function, node in source.functions(module.tree)
        if source.length(node) > LONGEST_FUNCTION
    }


def too_long(long: dict[str, int]) -> Iterator[str]:
    """Of the long functions those that no list excuses: above 70 lines, and the main of a command."""
    for name, lines in long.items():
        if lines > LONGEST_TODAY or re.fullmatch(r"experiments\.[\w.]+\.main", name):
            yield f"{name}: {lines} lines"


def listed(page: str) -> dict[str, int]:
    """path -> lines, from the rows `| path | lines | ...` of the reading order."""
    found = re.findall(r"^\| `([\w/]+\.py)` \| ([\d,]+) \|", page, re.M)
    if len({path for path, _ in found}) != len(found):
        raise ValueError("a file stands twice in the reading order")
    return {path: int(count.replace(",", "")) for path, count in found}


def spine_broken(root: Path, page: str, readme: str) -> Iterator[str]:
    """What is wrong with the reading order: files that are not there, counts that are off, a sum above the limit."""
    total = 0
    for path, count in listed(page).items():
        if not (root / path).is_file():
            yield f"{path} is not there"
            continue
        real = len((root / path).read_text(encoding="utf-8").splitlines())
        total += real
        if abs(real - count) > 0.1 * real:
            yield f"{path} has {real} lines, the page says {count}"
    if not 0 < total <= SPINE:
        yield f"the spine has {total} lines: take files off the list, or make them shorter; at most {SPINE}"
    said = f"{-(-total // 100) * 100:,} lines"
    for name, text in (("README.md", readme), ("docs/reading.md", page)):
        if not re.search(rf"(?<![\d,]){said}", text):
            yield f"{name} does not say that the spine has {said} ({total})"


def untested(root: Path, modules: Source) -> set[str]:
    """Modules of the library of 60 lines or more without a test file of their own."""
    packages, found = {name.rpartition(".")[0] for name in modules}, set()
    for name, module in modules.items():
        if not name.startswith("jaxtrain.") or module.lines < TESTED:
            continue
        *folders, stem = name.split(".")[1:]
        if name in packages:  # jaxtrain/worlds/__init__.py -> tests/worlds/test_worlds.py
            folders.append(stem)
        if (
            folders[:1] == ["worlds"] and folders[1:]
        ):  # jaxtrain/worlds/WORLD/x.py -> tests/worlds/test_WORLD_x.py
            folders, stem = folders[:1], "_".join([*folders[1:], stem])
        if not root.joinpath("tests", *folders, f"test_{stem}.py").is_file():
            found.add(name)
    return found


def test_files_and_functions_are_of_a_readable_size(tree):
    long = long_functions(tree)
    assert list(long_files(ROOT)) == []
    assert shrinking(long, LONG_TODAY) == []
    assert list(too_long(long)) == []


def test_the_spine_is_read_in_a_day():
    page, readme = (ROOT / name for name in ("docs/reading.md", "README.md"))
    assert (
        list(spine_broken(ROOT, page.read_text(encoding="utf-8"), readme.read_text(encoding="utf-8"))) == []
    )


def test_modules_have_tests(tree):
    assert shrinking(untested(ROOT, tree), UNTESTED_TODAY) == []


# The rules fail where they should.


def test_a_long_file_and_a_long_function_are_found(tmp_path):
    def function(name: str, lines: int) -> str:
        return f"class A:\n    async def {name}():\n" + "        pass\n" * (lines - 1)

    modules = source.write(tmp_path, {"jaxtrain/x.py": function("f", 61), "jaxtrain/y.py": function("g", 60)})
    assert long_functions(modules) == {"jaxtrain.x.A.f": 61}
    long = {"experiments.papers.x.main": 61, "experiments.x.main_loop": 70, "jaxtrain.x.A.f": 71}
    assert list(too_long(long)) == ["experiments.papers.x.main: 61 lines", "jaxtrain.x.A.f: 71 lines"]
    source.write(tmp_path, {"tests/test_x.py": "\n" * 501, "experiments/y.py": "\n" * 500})
    assert list(long_files(tmp_path)) == ["tests/test_x.py: 501 lines"]


def test_what_is_wrong_with_the_spine_is_found(tmp_path):
    source.write(tmp_path, {"jaxtrain/a.py": "\n" * 90, "jaxtrain/b.py": "\n" * 200})
    rows = "| `jaxtrain/a.py` | 95 | x |\n| `jaxtrain/b.py` | 200 | y |\n"
    page = f"It has 300 lines.\n\n| file | lines | |\n|---|---|---|\n{rows}"
    readme = "The spine, 300 lines, is read in a day."
    assert list(spine_broken(tmp_path, page, readme)) == []
    for wrong, said in (
        (page.replace("95", "110"), "has 90 lines"),
        (page.replace("a.py", "c.py") + "200 lines", "is not there"),
        (page.replace("It has 300 lines.", ""), "docs/reading.md does not say"),
    ):
        assert said in next(spine_broken(tmp_path, wrong, readme))
    assert "README.md does not say" in next(spine_broken(tmp_path, page, "1,300 lines"))
    source.write(tmp_path, {"jaxtrain/b.py": "\n" * 6450})
    long = page.replace("| 200", "| 6,450")
    assert any("at most 6500" in problem for problem in spine_broken(tmp_path, long, readme))
    with pytest.raises(ValueError, match="twice"):
        list(spine_broken(tmp_path, page + page, readme))


def test_a_module_without_tests_is_found(tmp_path):
    long = "\n" * 60
    files = {
        "jaxtrain/types.py": long,
        "jaxtrain/flags.py": long[1:],
        "jaxtrain/ops/x.py": long,
        "jaxtrain/apps/serve/x.py": long,
        "jaxtrain/rl/__init__.py": long,
        "jaxtrain/rl/x.py": "",
        "jaxtrain/stages/__init__.py": long,
        "jaxtrain/stages/x.py": "",
        "tests/stages/test_stages.py": "",
        "jaxtrain/worlds/town/x.py": long,
        "jaxtrain/worlds/town/y.py": long,
        "tests/ops/test_x.py": "",
        "tests/worlds/test_town_x.py": "",
        "experiments/x.py": long,
    }
    modules = source.write(tmp_path, files)
    missing = {"jaxtrain.types", "jaxtrain.apps.serve.x", "jaxtrain.worlds.town.y", "jaxtrain.rl"}
    assert untested(tmp_path, modules) == missing
