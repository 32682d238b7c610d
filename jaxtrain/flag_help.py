"""What --help prints: what a command does, examples, the flags that people use, and a search in all of its flags.

A command COMMAND.py has its description and examples in help/COMMAND.txt beside it, shown as they are; the file's last
line, `flags: NAME ...`, lists the flags that --help shows. A command without the file shows those of COMMON.
"""

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxtrain import flag_errors, suggestions
from jaxtrain.config import ConfigError, leaves

MOST_USED = 10
COMMON = (
    "init_from", "model", "data", "prompts", "out", "workdir", "steps", "lr", "batch_size", "seq_len", "lora_rank",
    "mesh", "seed", "dry_run",
)  # fmt: skip
# A word shorter than this is searched in texts as a word of its own: "lr" is in "already".
SUBSTRING = 4
Leaf = tuple[str, dataclasses.Field, Any]  # group, field, default


def text(
    cls: type, program: str, module: ModuleType | None = None, *, search: str = "", full: bool = False
) -> str:
    """The text of --help, of --helpfull (`full`), or of --help=SEARCH. Raises ConfigError where no flag has SEARCH.

    `module`: the command's, whose docstring and help file describe it.
    """
    every = list(leaves(cls))
    if search and not full:
        return "\n".join(_flags(_matching(every, search), program))
    about, used = describe(module)
    lines = [f"{program} [--flag=value ...] [--flagfile=experiments/recipes/NAME.flags]"]
    lines += ["", *about] if about else []
    shown = every if full else _often_used(every, used)
    if len(shown) == len(every):
        return "\n".join([*lines, *_grouped(every)])
    lines += ["", "flags that are often used:"]
    for _, field, default in shown:
        lines += entry(field, default)
    more = f"--helpfull lists all {len(every)} flags, --help=WORD those that have the word: --help=lr"
    return "\n".join([*lines, "", more])


def describe(module: ModuleType | None) -> tuple[list[str], list[str]]:
    """(description and examples as lines, the names of the flags that people use) of a command's module."""
    first = ((getattr(module, "__doc__", None) or "").strip().split("\n\n") or [""])[0]
    path = Path(getattr(module, "__file__", None) or "-")
    file = path.parent / "help" / f"{path.stem}.txt"
    second, examples, used = "", "", ""
    if file.is_file():
        body, _, used = file.read_text(encoding="utf-8").rpartition("\nflags:")
        second, _, examples = body.rstrip().partition("\n\n")
    about = textwrap.wrap(f"{first} {second}", 78, break_on_hyphens=False)
    return about + (["", *examples.splitlines()] if examples else []), used.split()


def _often_used(every: list[Leaf], used: list[str]) -> list[Leaf]:
    if len(every) <= MOST_USED:
        return every
    by_name = {leaf[1].name: leaf for leaf in every}
    return [by_name[name] for name in used or COMMON if name in by_name][:MOST_USED]


def _matching(every: list[Leaf], search: str) -> list[Leaf]:
    """The flags whose name, text or values have all words of `search`, those with it in their name first."""
    names = [leaf[1].name for leaf in every]
    words = search.lower().lstrip("-").replace("-", "_").split()
    meant = {
        name.removeprefix("--")
        for word in words
        for name in flag_errors.other_names(word, dict.fromkeys(names))
    }
    found = [leaf for leaf in every if leaf[1].name in meant or all(_has(leaf[1], word) for word in words)]
    if not found:
        hint = suggestions.hint(search, names, prefix="--")
        raise ConfigError(
            f"--help={search}: no flag has it in its name or text{hint} (--helpfull lists the flags)"
        )
    return sorted(found, key=lambda leaf: _rank(leaf[1].name, search, meant))


def _rank(name: str, search: str, meant: set[str]) -> int:
    return next(i for i, yes in enumerate((name == search, name in meant, search in name, True)) if yes)


def _has(field: dataclasses.Field, word: str) -> bool:
    prose = " ".join((field.metadata["help"], *field.metadata["choices"])).lower()
    pattern = re.escape(word) if len(word) >= SUBSTRING else rf"(?<!\w){re.escape(word)}(?!\w)"
    return word in field.name or re.search(pattern, prose) is not None


def _flags(found: list[Leaf], program: str) -> Iterator[str]:
    yield f"{program}: {len(found)} {'flag' if len(found) == 1 else 'flags'}"
    for _, field, default in found:
        yield from entry(field, default)


def _grouped(every: Iterable[Leaf]) -> Iterator[str]:
    last = ""
    for part, field, default in every:
        if part != last:
            yield from ("", f"{part}:")
            last = part
        yield from entry(field, default)


def entry(field: dataclasses.Field, default: Any) -> list[str]:
    """The lines of a flag: its form, its text, the flag with which alone it acts, and its default."""
    choices = field.metadata["choices"]
    shown = str(default).lower() if isinstance(default, bool) else default
    head = f"  --{field.name}={'|'.join(choices) if choices else type(default).__name__}"
    other, legal = field.metadata["only"] or ("", ())
    only = f" (with --{other}={'|'.join(legal)})" if any(legal) else ""
    body = field.metadata["help"] + only + (f" [{shown}]" if shown != "" else "")
    indent = " " * 6
    wrapped = textwrap.wrap(body, 78, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return [head, *wrapped]
