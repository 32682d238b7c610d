"""All experiments, one after the other: a failure is named and does not stop the rest."""

import pytest

from experiments.papers import all as all_papers
from jaxtrain.apps.papers import runner
from jaxtrain.apps.papers.config import GalleryFlags
from jaxtrain.config import ConfigError
from jaxtrain.files import locks


def test_experiments_are_found_and_chosen():
    names = [paper.name for paper in all_papers.papers()]
    assert names[0] == all_papers.ORDER[0] and len(names) == len(set(names))
    assert [paper.name for paper in all_papers.chosen("dpo_tabular")] == ["dpo_tabular"]
    with pytest.raises(ConfigError, match=r"no experiment dpo_tabula; there are .*dpo_tabular"):
        all_papers.chosen("dpo_tabula")


def test_a_failure_is_named_and_the_rest_run(tmp_path, capsys):
    tabular, *_ = all_papers.chosen("dpo_tabular")
    options = GalleryFlags(seeds=1, cache_dir=str(tmp_path / "cache"))
    gone = tabular._replace(name="is_not_there", title="Not there")
    assert runner.run(options, [gone, tabular], tmp_path) == ["is_not_there"]
    printed = capsys.readouterr().out
    assert "1 of 2  is_not_there" in printed and "failed with status" in printed and "inconclusive" in printed
    assert (tmp_path / "papers.html").exists() and (
        tmp_path / "dpo_tabular" / "seed0" / "result.json"
    ).exists()
    assert "is_not_there" in (tmp_path / "logs" / "is_not_there.log").read_text()


def test_a_size_goes_to_the_experiments_that_have_it(tmp_path):
    tabular, *_ = all_papers.chosen("dpo_tabular")
    options = GalleryFlags(size="gpu")
    assert "--size=cpu" in runner._command(options, tabular, tmp_path)
    assert "--size=gpu" in runner._command(options, tabular._replace(sizes=("cpu", "gpu")), tmp_path)


def test_two_in_one_folder_are_refused(tmp_path):
    with (
        locks.exclusive(tmp_path / runner.LOCK, tmp_path),
        pytest.raises(ConfigError, match="in use"),
    ):
        runner.run(GalleryFlags(), [], tmp_path)
