"""Runs of a command whose batches are spoilt: what is skipped, written, kept and said, and how such a run goes on."""

import json
import shutil

import numpy as np
import pytest

from jaxtrain.config import ConfigError, Run
from jaxtrain.stages import offline, run_guards
from jaxtrain.train import workdir
from jaxtrain.train.skipped_steps import TrainingError
from tests.runs import CHILD, column, rows, same_arrays

MASKED = "--objective=masked"  # which draws no samples
FLAGS = (
    "--steps=30", "--checkpoint_every=5", "--eval_every=5", "--log_every=1", "--keep=9",
    "--keep_best=eval/accuracy", "--skip_spikes=3", "--lr=0.01", MASKED,
)  # fmt: skip
MASK, TARGETS, INFINITE = "mask", "targets", "infinite"


@pytest.fixture
def spoil(monkeypatch):
    """Spoils batches by number: without a mask nothing is in the loss, with other targets the loss is far higher.

    With an infinite one the loss is infinite.
    """
    spoilt = {}

    class SpoiltBatches(offline.OfflineBatches):
        def __new__(cls, iterate):
            def spoilt_from(first):
                for number, batch in enumerate(iterate(first), first):
                    batch = dict(batch)
                    match spoilt.get(number):
                        case "mask":
                            batch["mask"] = np.zeros_like(batch["mask"])
                        case "infinite":
                            batch["mask"] = np.full_like(batch["mask"], np.inf)
                        case "targets":
                            batch["targets"] = 20 + batch["targets"][:, ::-1] % 7
                    yield batch

            return super().__new__(cls, spoilt_from)

    monkeypatch.setattr(offline, "OfflineBatches", SpoiltBatches)
    return spoilt.update


def saved(folder):
    return workdir.saved_steps(folder / "checkpoints")


def test_spoilt_batches_are_skipped_written_and_met_again_to_the_bit(bench, spoil):
    spoil({20: TARGETS, 24: MASK})
    folder = bench.folder / "guarded"
    said = bench.main(*FLAGS, f"--workdir={folder}")
    assert "step 21: a spike, loss +" in said and f"(batch 20, {folder}/bad_batches/step-21.npz)" in said
    assert f"step 25: nothing of its batch is in the loss, not applied (batch 24, {folder}/bad" in said
    assert column(folder, "skipped")[-1] == 2 and column(folder, "spikes/skipped")[-1] == 1
    lines = {row["step"]: row for row in rows(folder) if row.get("loss") is None and "spikes/share" in row}
    assert {step: row["spikes/share"] for step, row in lines.items()} == {21: 1.0, 25: 0.0}
    bodies = {step: json.loads((folder / f"bad_batches/step-{step}.json").read_text()) for step in (21, 25)}
    assert bodies[21]["metrics"]["loss"] > 1.5 * column(folder, "loss")[-1] and len(bodies[21]["rows"]) == 8
    assert all(row["in_the_loss"] == 0 and "⟨" in row["targets"] for row in bodies[25]["rows"])

    accuracy = {row["step"]: row["eval/accuracy"] for row in rows(folder) if "eval/accuracy" in row}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert f"step {best}: best eval/accuracy:max so far" in said
    assert workdir.split_step(f"{folder}@best") == (folder, best)

    copy = bench.folder / "guarded-resumed"
    shutil.copytree(folder, copy)
    for later in ("checkpoints/25", "checkpoints/30", "bad_batches"):  # as if it was killed after step 20
        shutil.rmtree(copy / later)
    assert "resuming from step 20 of 30" in bench.main(*FLAGS, "--keep=1", f"--workdir={copy}")
    assert rows(copy) == rows(folder)
    assert any("params" in path for path in same_arrays(folder, copy, 30))
    assert saved(copy) == sorted({best, 30}) and workdir.split_step(f"{copy}@best") == (copy, best)
    written = sorted(p.name for p in (copy / "bad_batches").iterdir())
    assert written == ["step-21.json", "step-21.npz", "step-25.json", "step-25.npz"]


def test_a_streak_deletes_no_checkpoint_and_the_run_goes_on_with_the_rule_off_and_on(bench, spoil):
    folder = bench.folder / "streak"
    flags = (
        "--steps=20", "--checkpoint_every=2", "--eval_every=0", "--max_skips=5", "--log_every=1",
        MASKED, f"--workdir={folder}",
    )  # fmt: skip
    spoil(dict.fromkeys(range(12, 17), INFINITE))
    with pytest.raises(TrainingError, match=r"5 steps in a row, batches 12 to 16, .*lower --lr") as error:
        bench.main(*flags)
    assert saved(folder) == [10, 12], "the step after the save of 12 is the first that was skipped"
    assert "The last good checkpoint is step 10; step 12 has the parameters they met." in str(error.value)
    spoil(dict.fromkeys(range(12, 17)))
    assert "resuming from step 12 of 20" in bench.main(*flags, "--skip_spikes=6", "--steps=20")
    assert saved(folder) == [18, 20] and column(folder, "spikes/skipped")[-1] == 0
    shutil.rmtree(folder / "checkpoints" / "20")
    assert "resuming from step 18 of 20" in bench.main(*flags)


def test_a_metric_that_is_not_there_is_refused_before_the_first_step(bench):
    folder = bench.folder / "metric"
    for metric, message in (
        ("loss", r"choose one of eval/accuracy, eval/bits_per_byte, eval/loss, eval/perplexity$"),
        ("eval/gold:max", "choose one of eval/accuracy"),
        ("eval/what", "say whether more is better"),
    ):
        with pytest.raises(ConfigError, match=f"--keep_best={metric.partition(':')[0]}: .*{message}"):
            bench.main("--steps=30", MASKED, f"--keep_best={metric}", f"--workdir={folder}")
        assert not folder.exists()


def test_the_best_checkpoint_of_a_run_is_a_start(bench):
    parent, child = bench.folder / "best", bench.folder / "of_best"
    bench.main("--steps=12", "--eval_every=2", "--keep_best=eval/loss:max", MASKED, f"--workdir={parent}")
    assert saved(parent) == [2, 12], "the loss was highest at the first evaluation"
    bench.main(
        f"--init_from={parent}@best", "--steps=2", "--warmup=1", MASKED, f"--workdir={child}", small=CHILD
    )
    assert json.loads((child / "config.json").read_text())["parent"]["step"] == 2
    with pytest.raises(
        ConfigError, match=r"@best: the run has no best checkpoint, it was not trained with --keep_best"
    ):
        bench.main(f"--init_from={child}@best", MASKED, f"--workdir={bench.folder / 'none'}", small=CHILD)


@pytest.mark.parametrize(("every", "said"), [(0, True), (10, False), (30, True), (500, True)])
def test_a_run_that_saves_nothing_before_its_end_says_so(every, said):
    rows = run_guards.saves(Run(steps=30, checkpoint_every=every))
    assert bool(rows) == said
    assert all(f"--checkpoint_every={every}" in text for _, text in rows)
