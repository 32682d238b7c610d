"""./launch/run runs: the table and tree of runs, and what is deleted and what is not."""

import fcntl
import re

import pytest

from experiments import runs
from jaxtrain import flags
from jaxtrain.config import ConfigError
from jaxtrain.train import run_list
from tests.train.test_run_list import here, run  # noqa: F401


def call(*argv):
    runs.main(flags.from_flags(runs.Runs, list(argv)))


@pytest.fixture
def lineage(here):  # noqa: F811
    """pretrain -> sft -> reward and ppo, whose reward model is reward; and a run of its own."""
    place = here / "runs" / "lifecycle"
    run(place / "pretrain", "pretrain", 1200, (1200,), [{"step": 1, "eval/bits_per_byte": 0.25}])
    run(place / "sft", "sft", 300, (300,), parent={"run": str(place / "pretrain")}, age=1)
    run(place / "reward", "reward", 190, (100,), parent={"run": str(place / "sft")}, age=2)
    facts = {"parent": {"run": str(place / "sft")}, "reward_model": f"{place / 'reward'}@190"}
    run(place / "ppo", "ppo", 128, (128,), [{"step": 1, "after/gold": 1.776}], **facts, age=3)
    run(here / "runs" / f"sft-{'long-' * 12}name", age=4)
    return place


def test_each_run_stands_below_the_one_that_it_starts_from(lineage, capsys):
    call()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == "run stage steps main number also from age size".split()
    assert [
        re.sub(r"(?<=\w)  .*", "", line) for line in lines if re.match("[│├└ ]*(lifecycle|sft-)", line)
    ] == [
        f"sft-{'long-' * 12}name",
        "lifecycle/pretrain",
        "└ lifecycle/sft",
        "  ├ lifecycle/ppo",
        "  └ lifecycle/reward",
    ]
    (ppo,) = [line for line in lines if "/ppo" in line]
    assert re.search(r"ppo +128/128 +gold 1\.776 +reward +\d+ d +\d+ B$", ppo)
    assert "bits_per_byte 0.25" in "".join(lines) and lines[-1].startswith("5 runs, ")
    assert max(map(len, lines)) <= runs.WIDTH


def test_a_damaged_run_is_named_and_an_empty_folder_says_so(lineage, here, capsys):  # noqa: F811
    (lineage / "sft" / "config.json").write_text("{")
    call()
    assert f"{lineage.relative_to(here)}/sft: config.json cannot be read" in capsys.readouterr().out
    (here / "none").mkdir()
    call("--folder=none")
    assert "there is no run in none" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--folder=nowhere: there is no such folder"):
        call("--folder=nowhere")


def test_a_run_from_which_another_starts_is_not_deleted_alone(lineage, capsys):
    for name, children in (("sft", "ppo"), ("reward", "ppo"), ("pretrain", "sft")):
        with pytest.raises(
            ConfigError, match=rf"--delete=.*{name}: .*lifecycle/{children}.* from it; delete them"
        ):
            call(f"--delete=runs/lifecycle/{name}", "--yes")
    call("--delete=runs/ppo,runs/lifecycle/reward", "--yes")
    assert "deleted runs/lifecycle/ppo (" in capsys.readouterr().out
    assert sorted(path.name for path in lineage.iterdir()) == ["pretrain", "sft"]


def test_deleting_asks(lineage, monkeypatch, capsys):
    with pytest.raises(ConfigError, match="add --yes"):
        call("--delete=runs/lifecycle/ppo")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    call("--delete=runs/lifecycle/ppo")
    assert "runs/lifecycle/ppo stays" in capsys.readouterr().out and (lineage / "ppo").is_dir()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    call("--delete=runs/lifecycle/ppo")
    assert not (lineage / "ppo").exists()


def test_what_is_no_run_or_in_use_or_a_link_is_not_deleted(lineage, here):  # noqa: F811
    with pytest.raises(
        ConfigError, match=r"--delete=runs/lifecycle is not a run: it has no config\.json; the runs"
    ):
        call("--delete=runs/lifecycle", "--yes")
    (here / "runs" / "link").symlink_to(lineage / "ppo")
    with pytest.raises(ConfigError, match="a link to"):
        call("--delete=runs/link", "--yes")
    with (lineage / "ppo" / "lock").open("w") as lock:
        lock.write("process 7 on here\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="is in use by process 7 on here: stop it"):
            call("--delete=runs/lifecycle/ppo", "--yes")
    with pytest.raises(ConfigError, match="--yes: acts only with --delete"):
        call("--yes")
    assert run_list.read(lineage / "ppo") is not None


def test_sizes_and_ages_are_short():
    assert [runs.in_bytes(n) for n in (0, 999, 12_345, 5e6, 7.25e9)] == [
        "0 B",
        "999 B",
        "12.3 kB",
        "5 MB",
        "7.25 GB",
    ]
    assert [runs.duration(s) for s in (-1, 59, 300, 7300, 1e6)] == ["0 s", "59 s", "5 min", "2 h", "12 d"]
