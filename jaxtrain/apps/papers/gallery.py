"""The gallery of all experiments: papers.html with each figure and verdict, and the table of docs/papers.md."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.apps.papers import figures, trials, verdicts
from jaxtrain.apps.papers.verdicts import Paper
from jaxtrain.files import atomic, html

PAGE, DOCS = "papers.html", "papers.md"
FIGURES = "figures"
NOT_RUN = "not run"
_MARKS = {verdicts.REPRODUCED: "good", verdicts.NOT_REPRODUCED: "bad"}


def read(root: Path, papers: Sequence[Paper]) -> list[dict[str, Any]]:
    """Each experiment with its result, None where it has none, and its folder."""
    found = []
    for paper in papers:
        folder = root / paper.name
        try:
            result = atomic.read_sealed(folder / trials.RESULT)
            result["verdict"], result["checks"], result["seeds"], result["minutes"]
        except (OSError, ValueError, LookupError, TypeError):
            result = None
        found.append({"paper": paper, "result": result, "folder": folder})
    return found


def counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of experiments by verdict."""
    outcomes = [entry["result"]["verdict"] if entry["result"] else NOT_RUN for entry in entries]
    every = (verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.INCONCLUSIVE, NOT_RUN)
    return {outcome: outcomes.count(outcome) for outcome in every if outcome in outcomes}


def write_page(root: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """Writes papers.html, which has the figures in it, those that have run first; returns its path."""
    cards = [
        {
            **entry["paper"]._asdict(),
            "result": entry["result"],
            "mark": _MARKS.get(entry["result"]["verdict"], "") if entry["result"] else "",
            "figures": [_inline(entry["folder"] / name, f"{entry['paper'].name}-{i}-")
                        for i, name in enumerate((figures.LIGHT, figures.DARK))] if entry["result"] else [],
        }
        for entry in sorted(entries, key=lambda entry: not entry["result"])
    ]  # fmt: skip
    template = html.template(Path(__file__).parent / "pages" / "papers.html.jinja", {"unbroken": _unbroken})
    path = root / PAGE
    atomic.write_text(path, template.render(cards=cards, counts=counts(entries)))
    return path


def _unbroken(numbers: str) -> str:
    """Numbers as pages have them: no line ends within 3e-07 or before a %."""
    text = re.sub(r"(?<=\d)e-(?=\d)", "e\N{NON-BREAKING HYPHEN}", numbers)
    return re.sub(r"(?<=\d) ?%", "\N{NO-BREAK SPACE}%", text)


def _inline(file: Path, prefix: str) -> str:
    """An SVG as part of a page: without its XML head, and with ids of its own."""
    text = file.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    for name in set(re.findall(r'\bid="([^"]+)"', text)):
        text = re.sub(rf'(id="|url\(#|href="#){re.escape(name)}(?=["\)])', rf"\g<1>{prefix}{name}", text)
    return text


def write_docs(folder: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """Writes papers.md and the figures that it shows, in FOLDER/figures; returns its path."""
    pictures = folder / FIGURES
    pictures.mkdir(parents=True, exist_ok=True)
    total = ", ".join(f"{number} {outcome}" for outcome, number in counts(entries).items())
    lines = [
        "# Papers", "",
        "Claims of papers as experiments that can fail. Each criterion was fixed before its seeds were run, and",
        "nothing was tuned on them; where a measurement was changed after a first run of them, the text says so.",
        "A criterion holds where it does on two thirds of the seeds, or by their mean where it says so; a mean that",
        "misses by less than its 95 % interval decides nothing, and neither do fewer than three seeds.", "",
        "```", "./launch/run papers.all   # all of them, one after the other; the same command goes on",
        *(f"./launch/run papers.{entry['paper'].name}" for entry in entries), "```", "",
        f"{len(entries)} experiments: {total}. Size `cpu`, on two cores.", "",
        "| experiment | claim | published | here | verdict |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for entry in entries:
        paper, result = entry["paper"], entry["result"]
        cells = [f"`papers.{paper.name}`", f"{paper.claim} {paper.source}, {paper.figure}", paper.published]
        lines.append("| " + " | ".join(_cell(text) for text in [*cells, *_here(result)]) + " |")
    for entry in entries:
        if entry["result"]:
            lines += _section(entry, pictures)
    path = folder / DOCS
    atomic.write_text(path, "\n".join(lines) + "\n")
    return path


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _here(result: Mapping[str, Any] | None) -> tuple[str, str]:
    """(numbers, verdict) of a row."""
    if result is None:
        return "", NOT_RUN
    numbers = "; ".join(f"{check['criterion']}: {check['numbers']}" for check in result["checks"])
    return numbers, f"{result['verdict']}, seeds {', '.join(map(str, result['seeds']))}"


def _section(entry: Mapping[str, Any], pictures: Path) -> list[str]:
    """An experiment's part of papers.md, whose figure is copied."""
    paper, result = entry["paper"], entry["result"]
    for name in (figures.LIGHT, figures.DARK):
        atomic.write_text(
            pictures / f"{paper.name}-{name}", (entry["folder"] / name).read_text(encoding="utf-8")
        )
    words = {True: "holds", False: "does not hold", None: "open"}
    checks = [
        f"- {check['criterion']}: {check['numbers']} ({words[check['passed']]})" for check in result["checks"]
    ]
    # The addresses' ends choose the picture by the page's colours, on GitHub and on the site.
    shown = ((figures.LIGHT, "gh-light-mode-only"), (figures.DARK, "gh-dark-mode-only"))
    drawn = [f"![{paper.title}]({FIGURES}/{paper.name}-{name}#{scheme})" for name, scheme in shown]
    return [
        "", f"## {paper.title}", "", f"`./launch/run papers.{paper.name}`, {result['minutes']:.1f} minutes for "
        f"{len(result['seeds'])} seeds. {paper.measured} Criterion: {paper.criterion}", "", *drawn, "", *checks,
        f"- {result['verdict']}",
    ]  # fmt: skip
