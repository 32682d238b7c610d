"""Online DPO and XPO from the command to the files they leave: identities, resuming, what is refused."""

import shutil

import pytest

from experiments import online_dpo
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from tests.runs import quick, rows, same_arrays

FLAGS = (
    "--steps=4",
    "--minibatches=2",
    "--lr=3e-3",
    "--max_new=4",
    "--checkpoint_every=1",
    "--keep=9",
    "--log_every=1",
)


@pytest.fixture(scope="module")
def reward(town):
    body = "def score(completions, **columns):\n    return [len(text) for text in completions]\n"
    (town.folder / "long.py").write_text(body)
    return f"--reward={town.folder / 'long.py'}:score"


def trained(town, name, *flags):
    town.DATA.setdefault("online_dpo", town.DATA["grpo"])
    argv = town.flags("online_dpo", f"--workdir={town / name}", *flags)
    with quick():
        online_dpo.main(command_line.from_flags(online_dpo.OnlineDpo, list(argv)))
    return town / name


@pytest.fixture(scope="module")
def xpo(town, reward):
    return trained(town, "xpo", reward, *FLAGS, "--xpo_alpha=1e-3")


def test_a_run_starts_at_the_reference_and_learns_from_pairs(town, reward, capsys):
    run = trained(town, "online", reward, *FLAGS, "--group=4", "--loss=ipo")
    first, *later = (row for row in rows(run) if "loss" in row)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(25, rel=1e-3), "(1 / (2β))² at β = .1"
    assert any(abs(row["rewards/margins"]) > 1e-4 for row in later)
    assert "sampling/logp_difference" in first and first["sampling/logp_difference"] < 1e-4


def test_a_reward_that_is_the_same_for_all_is_counted_and_ends_no_run(town, capsys):
    (town.folder / "same.py").write_text(
        "def score(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    run = trained(town, "online-same", f"--reward={town.folder / 'same.py'}:score", *FLAGS, "--max_skips=2")
    assert [row["skipped"] for row in rows(run) if "skipped" in row] == [1, 2, 3, 4]
    assert [file.name for file in (run / "bad_batches").glob("*.npz")] == ["step-1.npz"]
    said = capsys.readouterr()
    assert "step 1: nothing of its batch is in the loss, not applied" in said.out + said.err


def test_xpo_samples_from_the_reference_and_resumes_to_the_bit(town, reward, xpo):
    found = [row for row in rows(xpo) if "loss" in row]
    assert all(row["loss/exploration"] < 0 for row in found)
    copy = town / "xpo-copy"
    shutil.copytree(xpo, copy)
    shutil.rmtree(copy / "checkpoints" / "4")
    trained(town, "xpo-copy", reward, *FLAGS, "--xpo_alpha=1e-3")
    assert same_arrays(xpo, copy, 4) and rows(copy) == rows(xpo)


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ("--group=3",),
            "--group=3: pairs are the best and the worst of a group: use 2 or more, and a divisor",
        ),
        (("--group=1",), "--group=1: pairs are the best and the worst"),
        (("--stop_kl=1", "--epochs=2"), "--stop_kl=1.0: a preference loss has no ratio"),
        (("--is_cap=2",), "--is_cap, --is_mask: a preference loss has no importance weights"),
        (("--xpo_alpha=1", "--group=4"), "--xpo_alpha: a completion of each model is a pair: use --group=2"),
        (
            ("--xpo_alpha=1", "--env=tinytown:search"),
            "--xpo_alpha: the reference model samples single completions",
        ),
        (("--loss=kto",), "--loss=kto: choose one of"),
        (("--loss=ipo", "--label_smoothing=.1"), "--label_smoothing=0.1 acts only with --loss="),
    ],
)
def test_what_pairs_cannot_be_made_of_is_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        online_dpo.main(command_line.from_flags(online_dpo.OnlineDpo, ["--reward=gold", *flags]))
