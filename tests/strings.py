"""All strings that people see, in one text: messages, help, pages. `python -m tests.strings FILE` writes it.

A string of the library or of a command counts if it has two words and is no docstring; the fields of an f-string stand
in braces. So a few that no one sees are among them, such as SQL, and none that someone sees is missing.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.source import ROOT

FOLDERS = ("experiments", "jaxtrain", "launch")
_WORDS = re.compile(r"[A-Za-z]{2,}\W*\s\W*[A-Za-z{]|[}A-Za-z]\W*\s\W*[A-Za-z]{2,}")
_CODE = re.compile(r"^\s*(SELECT|INSERT|CREATE|UPDATE|DELETE|PRAGMA|BEGIN|import |from |def |class )", re.M)


class SeenString(NamedTuple):
    """A string with the place that it is from."""

    path: str
    line: int
    text: str


def of_python(source: str, path: str) -> Iterator[SeenString]:
    """The strings of a module; a docstring counts where it is the help of a command."""
    tree = ast.parse(source)
    hidden = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            hidden.add(id(first.value))
        if isinstance(node, ast.JoinedStr):
            hidden |= {id(part) for part in node.values if isinstance(part, ast.Constant)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        text = _text(node)
        if text and _WORDS.search(text) and not _CODE.search(text):
            yield SeenString(path, node.lineno, text)


def _text(node: ast.AST) -> str:
    """A string constant, or an f-string with its fields in braces."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if not isinstance(node, ast.JoinedStr):
        return ""
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
        for part in node.values
    )


def of_page(source: str, path: str) -> Iterator[SeenString]:
    """The texts of an HTML page or template: what stands between tags, and in the attributes that people see."""
    hidden = r"<(style|script)\b.*?</\1>|\{#.*?#\}|\{% block style %\}.*?\{% endblock %\}"
    source = re.sub(hidden, _blank, source, flags=re.S)
    shown = re.sub(r"""\b(title|aria-label|placeholder|alt)="([^"]*)\"""", r">\2<", source)
    shown = re.sub(r"\{%.*?%\}", _blank, shown, flags=re.S)
    for match in re.finditer(r">([^<>]+)<", shown):
        text = match[1]
        line = shown.count("\n", 0, match.start(1)) + text[: len(text) - len(text.lstrip())].count("\n")
        yield from _piece(text, path, line + 1)


def of_script(source: str, path: str) -> Iterator[SeenString]:
    """The string literals of a JavaScript file."""
    source = re.sub(r"^\s*//.*$", _blank, source, flags=re.M)
    for match in re.finditer(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`', source):
        yield from _piece(match[1] or match[2] or "", path, source.count("\n", 0, match.start()) + 1)


def of_shell(source: str, path: str) -> Iterator[SeenString]:
    """What a shell script prints: the quoted texts of its lines that say something."""
    for number, line in enumerate(source.splitlines(), 1):
        if re.search(r"\b(echo|printf|say|die|fail|note|warn)\b", line) and not line.lstrip().startswith("#"):
            for match in re.finditer(r'"((?:[^"\\]|\\.)*)"|\'([^\']*)\'', line):
                yield from _piece(match[1] or match[2] or "", path, number)


def _piece(text: str, path: str, line: int) -> Iterator[SeenString]:
    text = " ".join(text.split())
    if _WORDS.search(text):
        yield SeenString(path, line, text)


def _blank(match: re.Match) -> str:
    return "\n" * match[0].count("\n")


def collect(root: Path = ROOT) -> list[SeenString]:
    """All strings, by file and line."""
    found: list[SeenString] = []
    readers = {".py": of_python, ".jinja": of_page, ".html": of_page, ".js": of_script}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            relative = str(path.relative_to(root))
            if path.suffix in readers and "uplot" not in path.parts and "templates" not in path.parts:
                found += readers[path.suffix](path.read_text(encoding="utf-8"), relative)
            elif path.suffix == ".txt" and "help" in path.parts:
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                    found += _piece(line, relative, number)
            elif folder == "launch" and path.is_file() and path.suffix in ("", ".sh"):
                found += of_shell(path.read_text(encoding="utf-8"), relative)
    return found


def main(out: Path) -> None:
    """Writes every string behind its file and line."""
    strings = collect()
    out.write_text(
        "".join(f"{one.path}:{one.line}\t{' '.join(one.text.split())}\n" for one in strings), "utf-8"
    )
    print(f"{len(strings):,} strings, {sum(len(one.text) for one in strings):,} characters, in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
