"""The gallery: every experiment, its verdict and its figure; and the same as a page of documentation."""

import re

import pytest

from jaxtrain.apps.papers import figures, gallery, trials, verdicts
from jaxtrain.apps.papers.verdicts import Check, Paper
from jaxtrain.files import atomic

PAPERS = [
    Paper(
        name,
        f"Title of {name}",
        "Author 2020",
        "Figure 1",
        "It <rises>.",
        "1 | 2",
        "The rise.",
        "It is above 1.",
    )
    for name in ("one", "two", "three")
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("papers")
    for paper, passed in zip(PAPERS[:2], (True, False), strict=True):
        folder = root / paper.name
        folder.mkdir()
        checks = [Check("above 1", passed, "1.5; 2.5")]
        figures.write(
            folder, lambda figure: figures.band(figure.subplots(), [1, 2], [[1, 2], [2, 3]], "mean")
        )
        result = {"paper": paper._asdict(), "size": "cpu", "seeds": [0, 1, 2], "minutes": 2.5,
                  "verdict": verdicts.verdict(checks, 3), "checks": [check._asdict() for check in checks]}  # fmt: skip
        atomic.write_sealed(folder / trials.RESULT, result)
    return root


def test_every_experiment_is_counted(root):
    entries = gallery.read(root, PAPERS)
    assert gallery.counts(entries) == {"reproduced": 1, "not reproduced": 1, "not run": 1}
    assert entries[2]["result"] is None


def test_a_damaged_result_is_one_that_has_not_run(root, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    text = (root / "one" / trials.RESULT).read_text()
    (folder / trials.RESULT).write_text(text.replace("2.5", "9.5", 1))
    assert gallery.read(tmp_path, PAPERS[:1])[0]["result"] is None


def test_the_page_has_figures_and_verdicts(root):
    page = gallery.write_page(root, gallery.read(root, PAPERS)).read_text()
    assert page.count("<svg") == 4 and page.count("<article") == 3 and "http" not in page.split("<svg")[0]
    assert "It &lt;rises&gt;." in page and re.search(
        r'verdict good">reproduced</span>, 3 seeds, 2.5 minutes', page
    )
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 20, "two figures of a page share no id"
    used = {*re.findall(r'(?:url\(#|href="#)([^")]+)', page)}
    assert used and used <= {*ids}


def test_the_documentation_has_the_table_and_the_figures(root, tmp_path):
    text = gallery.write_docs(tmp_path, gallery.read(root, PAPERS)).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `papers.")]
    assert len(rows) == 3 and all(len(re.split(r"(?<!\\)\|", row)) == 7 for row in rows)
    assert (
        rows[2].endswith("|  | not run |") and "reproduced, seeds 0, 1, 2" in rows[0] and "1 \\| 2" in rows[0]
    )
    pictures = re.findall(r"\]\((figures/[^)#]+)#gh-", text)
    assert len(pictures) == 4 and all((tmp_path / name).exists() for name in pictures)
