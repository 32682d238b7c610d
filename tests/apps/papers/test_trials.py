"""Trials over seeds: each measured once, results of other flags refused, a failed seed named, two at once refused."""

import dataclasses
import json

import pytest

from jaxtrain import config
from jaxtrain.apps.papers import figures, trials, verdicts
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Paper
from jaxtrain.config import ConfigError
from jaxtrain.files import accelerators, atomic, locks

PAPER = Paper("x", "A title", "Author 2020", "Figure 1", "It rises.", "1 to 2", "The rise.", "It is above 1.")


@dataclasses.dataclass(frozen=True)
class Own(config.Group):
    scale: float = config.arg(2.0, "Scale")


@dataclasses.dataclass(frozen=True)
class Trial:
    trial: PaperTrial = config.group(PaperTrial)
    own: Own = config.group(Own)


@pytest.fixture
def measured():
    return []


@pytest.fixture
def call(tmp_path, measured):
    def measure(cfg, runs):
        measured.append(runs.seed)
        if runs.seed == 7:
            raise config.Failure("seed 7 fails")
        return {"rise": cfg.own.scale * (runs.seed + 1)}

    def judge(cfg, results):
        return [verdicts.by_seed("above 1", results, lambda one: (one["rise"] > 1, f"{one['rise']:.1f}"))]

    def draw(cfg, results, figure):
        figure.subplots().plot([one["rise"] for one in results])

    def call(scale=2.0, sizes=("cpu", "gpu"), **flags):
        flags = {"workdir": str(tmp_path / "x"), "shared": str(tmp_path / "shared")} | flags
        return trials.run(
            PAPER._replace(sizes=sizes), Trial(PaperTrial(**flags), Own(scale)), measure, judge, draw
        )

    return call


def test_each_seed_is_measured_once(call, measured, tmp_path, capsys):
    result = call(seeds=2)
    assert sorted(measured) == [0, 1] and result["verdict"] == verdicts.INCONCLUSIVE
    result = call()
    assert sorted(measured) == [0, 1, 2] and result["verdict"] == verdicts.REPRODUCED
    assert result["seeds"] == [0, 1, 2] and result["checks"][0]["numbers"] == "2.0; 4.0; 6.0"
    assert atomic.read_sealed(tmp_path / "x" / "result.json") == json.loads(config.dumps(result))
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "3 seeds, 1 to run" in printed and "verdict reproduced, 3 seeds" in printed and "It rises." in printed
    )
    light, dark = ((tmp_path / "x" / name).read_text() for name in (figures.LIGHT, figures.DARK))
    assert light.startswith("<?xml") and light != dark and "#2f5fc4" in light and "#7ea6ff" in dark


def test_a_damaged_result_is_measured_again(call, measured, tmp_path):
    call()
    file = tmp_path / "x" / "seed1" / "result.json"
    file.write_text(file.read_text().replace('"rise"', '"fall"'))
    call()
    assert sorted(measured) == [0, 1, 1, 2]


def test_results_of_other_flags_are_refused(call, measured):
    call(seeds=1)
    with pytest.raises(ConfigError, match=r"holds results of other flags \(--scale\)"):
        call(scale=3.0)
    call(jobs=1)
    assert sorted(measured) == [0, 1, 2], "how many at once decides no number"


def test_a_failed_seed_is_named_and_the_others_stay(call, measured, tmp_path):
    with pytest.raises(config.Failure, match="seed 7 fails"):
        call(first_seed=6, seeds=2, jobs=1)
    assert trials.read_result(tmp_path / "x", 6)["values"] == {"rise": 14.0}
    assert trials.read_result(tmp_path / "x", 7) is None and not (tmp_path / "x" / "result.json").exists()
    call(first_seed=4)
    assert sorted(measured) == [4, 5, 6, 7]


def test_two_in_one_folder_are_refused(call, tmp_path):
    (tmp_path / "x").mkdir()
    with (
        locks.exclusive(tmp_path / "x" / trials.LOCK, tmp_path / "x"),
        pytest.raises(ConfigError, match="is in use by process"),
    ):
        call()


def test_a_size_without_its_hardware_is_refused(call, monkeypatch):
    monkeypatch.setattr(accelerators, "present", lambda devices=None: False)
    with pytest.raises(ConfigError, match=r"--size=gpu: there is no GPU or TPU here.*8 minutes on one H100"):
        call(size="gpu")
    monkeypatch.setattr(accelerators, "present", lambda devices=None: True)
    assert call(size="gpu")["size"] == "gpu"


def test_a_size_that_an_experiment_does_not_have_is_refused(call):
    with pytest.raises(ConfigError, match=r"--size=gpu: x has cpu alone; leave the flag out"):
        call(size="gpu", sizes=("cpu",))


def test_a_folder_that_cannot_be_made_is_refused(call, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--workdir=.*cannot be used"):
        call(workdir=str(tmp_path / "file" / "x"))
