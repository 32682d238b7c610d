"""What to look at where a filter rejects much: the same sentences in the terminal and on the page."""

from collections.abc import Mapping
from typing import Any

from jaxtrain.files.terminal import percent

_MANY = 0.2  # share of near duplicates from which there is advice
_MOST = 0.5  # share of rejected documents likewise


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Warnings about a report.json: that most documents are rejected, and that many are near duplicates."""
    lines = []
    read, rejected = report["read"], report["rejected"]
    if rejected > _MOST * read:
        name, step = max(report["steps"].items(), key=lambda item: item[1]["dropped"])
        lines.append(
            f"The filter rejects {rejected:,} of {read:,} documents ({percent(rejected / read)}); most of them, "
            f"{step['dropped']:,}, by the step {name}. Look at its samples in report.html before you train on the rest."
            if name != "read"
            else f"{rejected:,} of {read:,} documents ({percent(rejected / read)}) are rejected, most of them because "
            "they cannot be read: see rejected.jsonl."
        )
    near = report["steps"].get("near", {"seen": 0, "dropped": 0})
    if near["dropped"] > _MANY * near["seen"]:
        lines.append(
            f"The step near drops {percent(near['dropped'] / near['seen'])} of the documents that reach it. Short "
            "texts of one form, such as questions and answers, may differ in the word that matters: see its samples in "
            "report.html; a higher --near_similarity, --near_from=WORDS or --near=off keeps more."
        )
    return lines
