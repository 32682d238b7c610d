"""Recall on generated data in many formats, and false alarms in real code and prose.

JAXTRAIN_REAL_CODE names files or folders, joined by a colon (:): code, pages and prose that are no part of the
repository. For each the alarms by kind and million characters are printed, and every alarm, to be read by eye, is
written to personal_data_alarms.tsv in the current folder.
"""

import json
import lzma
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxtrain.apps.filters import pii
from jaxtrain.apps.filters.pii import PiiFilter
from tests.apps.filters.personal_data.generated import MAKERS, planted_text

CHECK = pii.check(PiiFilter())
PLACES = [Path(one) for one in os.environ.get("JAXTRAIN_REAL_CODE", "").split(":") if one]
_MAX_CHARS = 400_000
_SUFFIXES = (".py", ".js", ".ts", ".mjs", ".cjs", ".md", ".txt", ".json")
# An alarm of these kinds in published code is false but for the examples of a test.
_RARE = ("phone", "card", "iban", "ssn", "key")


def measured(kind: str, count: int, seed: int) -> tuple[float, list[str]]:
    """(the share of the data of a kind that is covered whole but for one character, the texts of the others)."""
    rng, missed = random.Random(seed), []
    for _ in range(count):
        text, (start, end) = planted_text(rng, kind)
        covered = {i for one in CHECK(text) for i in range(*one.span)} & {*range(start, end)}
        if len(covered) < len(text[start:end].strip("()+ ")) - 1:
            missed.append(text[max(0, start - 30) : end + 10])
    return 1 - len(missed) / count, missed


@pytest.mark.parametrize("kind", MAKERS)
def test_recall_of_generated_data(kind):
    recall, missed = measured(kind, 150, 5)
    assert recall >= 0.96, missed[:9]


@pytest.mark.slow
def test_recall_over_all_kinds_is_98_percent():
    recalls = {kind: measured(kind, 1_000, 6)[0] for kind in MAKERS}
    print(json.dumps(recalls, indent=1))
    assert sum(recalls.values()) / len(recalls) >= 0.98 and min(recalls.values()) >= 0.97, recalls


def texts_of(place: Path) -> Iterator[str]:
    """The texts of a file of JSON lines, plain or .xz, or of the source files of a folder."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file() and "site-packages" not in path.parts:
                text = path.read_text(encoding="utf-8", errors="replace")
                yield from (text[i : i + _MAX_CHARS] for i in range(0, len(text), _MAX_CHARS))
        return
    with (lzma.open if place.suffix == ".xz" else open)(place, "rt", encoding="utf-8") as file:
        yield from (json.loads(line)["text"] for line in file)


@pytest.mark.slow
@pytest.mark.skipif(not PLACES, reason="JAXTRAIN_REAL_CODE names no files")
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_alarms_in_real_code_and_prose(place):
    counts, chars = Counter(), 0
    with open("personal_data_alarms.tsv", "a", encoding="utf-8") as file:
        for text in texts_of(place):
            chars += len(text)
            for one in CHECK(text):
                start, end = one.span
                counts[one.rule] += 1
                around = (text[start:end], text[max(0, start - 40) : start], text[end : end + 20])
                file.write("\t".join([str(place), one.rule, *map(repr, around)]) + "\n")
    rates = {kind: round(1e6 * n / chars, 3) for kind, n in sorted(counts.items())}
    print(f"{place}: {chars / 1e6:.1f} million characters, alarms a million: {rates}, in all {dict(counts)}")
    assert sum(counts[kind] for kind in _RARE) <= chars / 1e6, rates
