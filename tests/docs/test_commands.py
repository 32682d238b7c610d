"""README.md and docs/: commands parse, files and links exist, code blocks are sound, the README stays short."""

import ast
import functools
import importlib
import json
import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxtrain import flags
from jaxtrain.config import ConfigError

ROOT = Path(__file__).parent.parent.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
SHELL = ("", "sh", "bash", "console", "shell")  # languages of blocks whose lines may be commands
# Launchers of a stage, and where the stage stands after them.
STAGE_AT = {"launch/run": 1, "launch/local.sh": 2, "launch/slurm.sbatch": 1}
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```[ ]*$", re.M | re.S)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)|^\[[^\]]+\]: *(\S+)", re.M)
PATH = re.compile(r"(?:jaxtrain|experiments|tests|launch|docs)/[\w./*-]*")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of the fenced code blocks."""
    return [(language, content) for _, language, content in FENCE.findall(text)]


def spans(text: str) -> list[str]:
    """Inline code outside of blocks, table cells included."""
    return [code.replace("\\|", "|") for code in CODE.findall(FENCE.sub("", text))]


def command_lines(text: str) -> list[str]:
    """Lines that name a file of launch/, from shell blocks and from inline code."""
    shell = [content for language, content in blocks(text) if language in SHELL]
    lines = [line for content in shell for line in content.replace("\\\n", " ").splitlines()]
    found = [line.strip().removeprefix("$ ") for line in [*lines, *spans(text)]]
    return [line for line in found if re.match(r"(\w+=\S+ +)*(\w+ +)?(\./)?launch/", line)]


def stages() -> list[str]:
    """The commands: modules of experiments/ that can be run."""
    found = [p for p in (ROOT / "experiments").rglob("*.py") if 'if __name__ == "__main__"' in read(p)]
    return sorted(".".join(p.relative_to(ROOT / "experiments").with_suffix("").parts) for p in found)


@functools.cache
def config_class(stage: str) -> type:
    """The first argument of the stage's `flags.launch(...)`. Raises LookupError where there is no such stage."""
    if stage not in stages():
        raise LookupError(f"no stage named {stage}")
    name = f"experiments.{stage}"
    tree = ast.parse(read(ROOT / Path(*name.split(".")).with_suffix(".py")))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    (given,) = [c.args[0] for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "launch"]
    return functools.reduce(getattr, ast.unparse(given).split("."), importlib.import_module(name))


def stage_problem(words: list[str]) -> str:
    """What is wrong with `STAGE --flag=value ...`; empty: nothing. A STAGE in upper case is a placeholder."""
    if not words or words[0] in ("-h", "--help") or words[0].isupper():
        return ""
    stage, *argv = words
    given = [re.sub(r"^(--flagfile=)(?!/)", rf"\1{ROOT}/", word) for word in argv]
    try:
        flags.from_flags(config_class(stage), given)
    except (LookupError, ConfigError) as error:
        return str(error)
    return ""


def problems(line: str) -> list[str]:
    """What is wrong with a command line: files of the repository that are not there, stages, flags."""
    words = shlex.split(line, comments=True)
    found = []
    for at, word in enumerate(words):
        name = word.removeprefix("./")
        if name.startswith(("launch/", "tests/")) and not (ROOT / name).exists():
            found.append(f"no file {name}")
        if name in STAGE_AT:
            found.append(stage_problem(words[at + STAGE_AT[name] :]))
    return [f"{line}: {problem}" for problem in found if problem]


def slugs(heading: str) -> set[str]:
    """The anchors of a heading: on GitHub, and of Python-Markdown."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    github = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return {github, re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip())}


def anchors(text: str) -> set[str]:
    """Anchors that mean the same heading on GitHub and on the site."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {slug for heading in headings if len(slugs(heading)) == 1 for slug in slugs(heading)}


def link_problems(page: Path, text: str) -> Iterator[str]:
    """Relative links and anchors that lead nowhere, and links of docs/ that leave it: the site has no such file."""
    for match in LINK.finditer(CODE.sub("", FENCE.sub("", text))):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if path.startswith("/") or not target.exists():
            yield f"{link}: no such file"
        elif page.parent == DOCS and DOCS not in target.parents:
            yield f"{link}: leaves docs/"
        elif (
            anchor
            and target.suffix == ".md"
            and anchor not in anchors(text if target == page else read(target))
        ):
            yield f"{link}: no such heading"


def block_problem(language: str, content: str) -> str:
    """Why a block of Python or JSON does not parse; empty: it does."""
    try:
        if language in ("python", "py"):
            ast.parse(content)
        elif language == "json":
            json.loads(content)
    except (SyntaxError, ValueError) as error:
        return str(error)
    return ""


@each_page
def test_commands_name_stages_and_flags_that_exist(page):
    assert [p for line in command_lines(read(page)) for p in problems(line)] == []


@each_page
def test_links_lead_somewhere(page):
    assert list(link_problems(page, read(page))) == []


@each_page
def test_paths_in_the_text_exist(page):
    found = {path.rstrip(".") for code in spans(read(page)) for path in PATH.findall(code)}
    known = {path for path in found if "NAME" in path or any(ROOT.glob(path))}
    assert found - known == set()


@each_page
def test_code_blocks_parse(page):
    assert [p for block in blocks(read(page)) if (p := block_problem(*block))] == []


def test_every_stage_is_shown():
    shown = {word for page in PAGES for line in command_lines(read(page)) for word in line.split()}
    assert set(stages()) - shown == set()


def test_the_readme_is_short_and_links_every_page():
    text = read(README)
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1300
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= set(re.findall(r"\]\(([^)#]+)", text))


def test_the_site_lists_every_page():
    listed = re.findall(r": (\w+\.md)$", read(ROOT / "mkdocs.yml").partition("\nnav:")[2], re.M)
    assert sorted(listed) == [page.name for page in PAGES[1:]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("./launch/run pretrian --steps=3", "no stage named pretrian"),
        ("./launch/run pretrain --step=3 # a comment", "did you mean --steps?"),
        ("launch/local.sh 2 pretrain --seed=one", "--seed"),
        ("sbatch launch/slurm.sbatch sft --lr=-1", "--lr=-1"),
        ("X=1 ./launch/run sft --flagfile=experiments/recipes/none.flags", "none.flags"),
        ("launch/supervise.py -- ./launch/run nothing", "no stage named nothing"),
        ("launch/fetch_data sotu", "no file launch/fetch_data"),
        ("launch/test tests/none", "no file tests/none"),
    ],
)
def test_the_checker_finds_a_wrong_command(line, said):
    found = [p for one in command_lines(f"text\n\n```\n{line}\n```\n") for p in problems(one)]
    assert len(found) == 1 and said in found[0]
    cell = line.partition(" #")[0]
    assert [p for one in command_lines(f"| a | `{cell}` |") for p in problems(one)] != []


@pytest.mark.parametrize(
    "line",
    [
        "./launch/run",
        "./launch/run STAGE --help",
        "./launch/run sft --help",
        "./launch/run sft \\\n  --steps=300",
        "./launch/run dpo --flagfile=experiments/recipes/dpo_hh.flags --init_from=hf:DIR",
    ],
)
def test_the_checker_passes_a_right_command(line):
    (found,) = command_lines(f"```\n{line}\n```\n")
    assert problems(found) == []


@pytest.mark.parametrize("link", ["none.md", "data.md#nothing", "#nothing", "../README.md", "/data.md"])
def test_the_checker_finds_a_wrong_link(link):
    wrong = f"# Start\n\n[a]({link})\n"
    right = f"# Start\n\n`[a]({link})` [b](data.md#sources) [c](#start)\n"
    assert len(list(link_problems(DOCS / "index.md", wrong))) == 1
    assert list(link_problems(DOCS / "index.md", right)) == []


def test_the_checker_finds_a_wrong_block():
    assert block_problem("python", "def f(:") and block_problem("json", "{,}")
    assert not block_problem("python", "x = 1") and not block_problem("", "def f(:")
