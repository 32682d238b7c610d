"""Which seeds a lifecycle has, and what a folder of other seeds is answered."""

import json
from pathlib import Path

import pytest

from jaxtrain import config
from jaxtrain.apps.lifecycle import seeds
from jaxtrain.apps.lifecycle.plan import LifecycleStep
from jaxtrain.config import ConfigError
from jaxtrain.files import checksums

STEPS = [
    LifecycleStep("base", "pretrain", "pretraining", ("--steps=2",), (), ()),
    LifecycleStep("tuned", "sft", "tuning", ("--init_from={base}",), ("base",), ()),
]


def write_run(place: Path, name: str, seed: int, **model) -> None:
    """The config.json of a stage, as far as it is read here."""
    (place / name).mkdir(parents=True)
    record = {"stage": name, "config": {"run": {"seed": seed}, "model": model}, "data": {}, "resumed": []}
    (place / name / "config.json").write_text(json.dumps(checksums.sealed(record)))


def folders(root, numbers, several=True, jitter=0.0):
    return seeds.folders(root, numbers, several, STEPS, jitter)


def test_seeds_are_a_number_or_a_list():
    assert seeds.parse("", "") == [0] and seeds.parse("7", "") == [7]
    assert seeds.parse("", "3") == [0, 1, 2] and seeds.parse("", "1") == [0]
    assert seeds.parse("", "4, 0,2") == [4, 0, 2]
    assert seeds.parse("", f"0,{config.SEED_MAX}") == [0, config.SEED_MAX]


@pytest.mark.parametrize(
    ("seed", "several", "message"),
    [
        ("", "0", "--seeds=0: one number is how many seeds, 1 to 99; a seed alone is --seed=0"),
        ("", "1234", "--seeds=1234: .* --seed=1234"),
        ("", "1,2,1", "--seeds=1,2,1: 1 stands there twice"),
        ("", "1,", "--seeds=1,: '' is not a seed"),
        ("", "1,-2", "'-2' is not a seed"),
        ("", "0,4294967296", "'4294967296' is not a seed; write whole numbers from 0 to 4,294,967,295"),
        ("", "9" * 5000, "is not a seed"),
        ("", "²", "'²' is not a seed"),
        ("x", "", "--seed=x: 'x' is not a seed"),
        ("1.0", "", "--seed=1.0"),
    ],
)  # fmt: skip
def test_what_are_no_seeds_is_refused(seed, several, message):
    with pytest.raises(ConfigError, match=message):
        seeds.parse(seed, several)


def test_each_seed_has_a_folder_and_the_same_seeds_go_on(tmp_path):
    root = tmp_path / "a" / "b"
    places = folders(root, [4, 1])
    assert places == {4: root / "seed-4", 1: root / "seed-1"}
    assert all((place / "logs").is_dir() for place in places.values()) and not (root / "logs").exists()
    write_run(places[4], "base", 4)
    assert folders(root, [1, 4]) == places
    assert folders(tmp_path / "alone", [4], several=False) == {4: tmp_path / "alone"}


@pytest.mark.parametrize("other", [[4], [4, 1, 2], [0, 1]])
def test_other_seeds_are_refused_with_both_named(tmp_path, other):
    folders(tmp_path, [4, 1])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as refused:
        folders(tmp_path, other)
    assert f"--seeds={','.join(map(str, other))}" in str(refused.value) and "--seeds=4,1" in str(
        refused.value
    )
    with pytest.raises(ConfigError, match=r"--seed=4: .* is of --seeds=4,1; name another --workdir"):
        folders(tmp_path, [4], several=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_one_seed_takes_no_others(tmp_path):
    write_run(tmp_path, "base", 2)
    assert folders(tmp_path, [2], several=False) == {2: tmp_path}
    with pytest.raises(ConfigError, match=r"--seed=0: --workdir=.* is of --seed=2"):
        folders(tmp_path, [0], several=False)
    with pytest.raises(ConfigError, match=r"--seeds=0,1: --workdir=.* is of --seed=2"):
        folders(tmp_path, [0, 1])
    assert not (tmp_path / "seeds.json").exists() and not (tmp_path / "seed-0").exists()


def test_the_folder_of_a_run_is_refused(tmp_path):
    write_run(tmp_path, "pretrain", 0)
    for several in (True, False):
        with pytest.raises(ConfigError, match=r"--workdir=.*pretrain is the folder of one run; name another"):
            folders(tmp_path / "pretrain", [0], several)


def test_another_jitter_is_refused_before_a_stage_starts(tmp_path):
    write_run(tmp_path, "base", 0)  # of an earlier version: no jitter
    write_run(tmp_path, "tuned", 0, jitter=0.0)  # has no parameters of its own
    assert folders(tmp_path, [0], several=False)
    with pytest.raises(ConfigError, match=r"--jitter=1e-06: the stages in .* have --jitter=0; name another"):
        folders(tmp_path, [0], several=False, jitter=1e-6)
    place = tmp_path / "b" / "seed-0"
    write_run(place, "base", 0, jitter=1e-6)
    assert folders(tmp_path / "b", [0], jitter=1e-6)
    with pytest.raises(ConfigError, match=r"--jitter=0: the stages in .*seed-0 have --jitter=1e-06"):
        folders(tmp_path / "b", [0])


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"seeds": 5}', b'{"seeds": ["x"]}', b"\xff", None])
def test_a_damaged_or_lost_record_is_that_of_the_folders(tmp_path, damage, capsys):
    places, file = folders(tmp_path, [0, 1]), tmp_path / "seeds.json"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    with pytest.raises(ConfigError, match=r"--seeds=3,4: .* is of --seeds=0,1"):
        folders(tmp_path, [3, 4])
    assert folders(tmp_path, [0, 1]) == places
    assert checksums.unsealed(json.loads(file.read_text())) == {"seeds": [0, 1]}
    if damage is not None:
        assert (tmp_path / "seeds.json.damaged").read_bytes() == damage
        assert f"{file} is damaged (" in capsys.readouterr().err
