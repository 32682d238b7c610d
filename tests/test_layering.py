"""Which room may import which, read from the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(p for folder in ("jaxtrain", "experiments") for p in (ROOT / folder).rglob("*.py"))

# Room -> rooms of jaxtrain that it may import besides itself. Files of a room's own are always allowed.
MAY = {
    "types": set(),
    "config": set(),
    "flags": {"config"},
    "ops": {"types"},
    "objectives": {"types", "ops"},
    "models": {"types", "config"},
    "worlds": {"types", "config"},
    "data": {"types", "config", "worlds"},
    "train": {"types", "config", "ops"},
    "generate": {"types", "config", "ops", "models"},
    "feedback": {"types", "config", "ops", "models", "generate", "data", "worlds"},
    "serve": {"types", "config", "generate", "data"},
}


def room(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "experiments" or len(parts) < 2 else parts[1]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def code(path):
    """The source without docstrings and comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return ast.unparse(ast.fix_missing_locations(Bare().visit(tree)))


class Bare(ast.NodeTransformer):
    def visit_Expr(self, node):
        return (
            ast.Pass() if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node
        )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path):
    here = room(path)
    for name in imports(path):
        top, *rest = name.split(".")
        assert not (top == "experiments" and here != "experiments"), f"{name}: nothing imports experiments"
        if top == "jaxtrain" and rest and here not in ("experiments", "__init__"):
            assert rest[0] == here or rest[0] in MAY[here], f"{here} may not import {name}"
        if here in ("data", "worlds", "config", "flags") or path.name == "zoo.py":
            assert top not in ("jax", "jaxlib", "flax", "optax", "orbax"), f"{name} in a room without jax"
        if top == "orbax":
            assert path.name == "checkpoint.py", "Orbax is train/checkpoint.py's alone"
        if top in ("tensorflow_datasets", "grain"):
            assert here in ("data", "worlds"), "TFDS and Grain are the data room's alone"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_runtimes_are_named_in_one_file(path):
    words = r"\b(pmap|shard_map|Mesh|NamedSharding|PartitionSpec)\b"
    if path.name != "parallel.py":
        text = re.sub(r"(['\"])(?:\\.|(?!\1).)*\1", "''", code(path))
        assert not re.search(words, text), f"{re.search(words, text)[0]} belongs to train/parallel.py"


def test_files_and_functions_are_of_a_readable_size():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert path.read_text(encoding="utf-8").count("\n") <= 400, f"{path} is longer than 400 lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 70, (
                    f"{path}:{node.lineno} {node.name} is longer than 70 lines"
                )
