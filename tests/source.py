"""The source of jaxtrain and experiments as syntax trees: what tests/test_layering.py and tests/test_names.py read."""

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGES = ("jaxtrain", "experiments")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """A module: its dotted name, its tree, its number of lines, and the dotted names that it imports anywhere."""

    name: str
    tree: ast.Module
    lines: int
    imports: frozenset[str]

    @property
    def room(self) -> str:
        """`ops` of jaxtrain.ops.x, `types` of jaxtrain.types, `apps.serve` of an application, or `experiments`."""
        return room(self.name)


Source = Mapping[str, Module]


def room(name: str) -> str:
    """The room of a dotted name; empty for the package jaxtrain itself."""
    first, *rest = name.split(".")
    if first != "jaxtrain":
        return first
    return ".".join(rest[: 2 if rest[:1] == ["apps"] else 1])


def read(root: Path) -> dict[str, Module]:
    """All modules of a checkout by dotted name; a package stands under its own name."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        *folders, stem = path.relative_to(root).with_suffix("").parts
        name = ".".join(folders if stem == "__init__" else [*folders, stem])
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        imports = frozenset(_imports(tree, ".".join(folders)))
        found[name] = Module(name, tree, len(text.splitlines()), imports)
    return found


@functools.cache
def checkout() -> Source:
    """The modules of this checkout."""
    return read(ROOT)


def write(root: Path, files: Mapping[str, str]) -> dict[str, Module]:
    """The modules of a made-up checkout, for the tests of the rules."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read(root)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Dotted names of every import, inside functions and under TYPE_CHECKING too, and of import_module("...")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            before = parts[: len(parts) - node.level + 1] if node.level else []
            start = ".".join([*before, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _last(node.func) in ("import_module", "__import__"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def _last(node: ast.AST) -> str:
    """The last name of `a.b.c`."""
    return getattr(node, "attr", getattr(node, "id", ""))


def edges(source: Source) -> dict[str, set[str]]:
    """Module -> the modules of the checkout that it imports."""

    def resolve(name: str) -> str:
        while name and name not in source:
            name = name.rpartition(".")[0]
        return name

    return {
        name: {found for each in module.imports if (found := resolve(each)) and found != name}
        for name, module in source.items()
    }


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Every function with its qualified name, methods and nested ones too."""

    def walk(node: ast.AST, before: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            name = f"{before}{child.name}" if isinstance(child, Function | ast.ClassDef) else ""
            if isinstance(child, Function):
                yield name, child
            yield from walk(child, f"{name}." if name else before)

    return walk(tree, "")


def length(node: ast.stmt) -> int:
    """Lines of a function from its `def` on."""
    return node.end_lineno - node.lineno + 1


def public_functions(tree: ast.Module) -> Iterator[str]:
    """Qualified names of public functions at the top level and of the public methods of public classes."""
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else ()
        before = f"{node.name}." if inside else ""
        for each in inside or [node]:
            if isinstance(each, Function) and not each.name.startswith("_"):
                yield before + each.name


def public_classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Public classes, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node


def bases(node: ast.ClassDef) -> set[str]:
    """The last names of a class's bases."""
    return {_last(base) for base in node.bases}


def calls(tree: ast.AST, dotted: str) -> bool:
    """Whether `dotted(...)` is called anywhere in a tree."""
    return any(isinstance(node, ast.Call) and ast.unparse(node.func) == dotted for node in ast.walk(tree))


def names(tree: ast.AST) -> Iterator[str]:
    """Every identifier of the code: names, attributes and what is imported; not strings, not comments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield _last(node)
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")


def shrinking(found: Iterable[str], exceptions: Iterable[str]) -> list[str]:
    """What breaks a rule without standing in its list of exceptions, and exceptions that are no longer needed."""
    found, exceptions = set(found), set(exceptions)
    new = [f"{name}: breaks the rule" for name in sorted(found - exceptions)]
    return new + [f"{name}: no longer needed, take it off the list" for name in sorted(exceptions - found)]
