"""What is said of steps that are not applied, and of the streak that ends a run."""

import functools
import json
import re

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.train import bad_batches, skipped_steps, spikes
from jaxtrain.train.skipped_steps import SkippedSteps, TrainingError
from tests import tiny


def decode(ids):
    return "".join(chr(97 + token % 26) for token in ids)


def values(spike=None):
    """The metrics of a step, with the rule on spikes where `spike` says whether it was one."""
    made = {"loss": (np.float32(np.nan), np.float32(1)), "skipped": (np.float32(3), np.float32(1))}
    if spike is not None:
        z = {f"spikes/{name}_z": (np.float32(7.5), np.float32(1)) for name in ("loss", "grad_norm")}
        made |= {spikes.SHARE: (np.float32(spike), np.float32(1)), **z}
    return made


def tracker(folder=None, saved=(), write=None, **run):
    lines = []
    if folder is not None:
        write = functools.partial(bad_batches.write_batch, folder)

        def write(step, batch, why, metrics, write=write):
            return write(step, batch, decode, why, metrics)

    skips = SkippedSteps(config.Run(**{"max_skips": 3, **run}), lines.append, write, lambda: list(saved))
    return skips, lines


def streak(spike_flags, saved=(), first=7, **how):
    """The end of a run of a streak that begins at step `first`."""
    skips, _ = tracker(saved=saved, max_skips=len(spike_flags), **how)
    with pytest.raises(TrainingError) as error:
        for i, spike in enumerate(spike_flags):
            skips.add(first + i, i + 1, values(spike), {})
    return str(error.value)


def test_a_step_is_named_with_its_batch_and_why():
    skips, lines = tracker(skip_spikes=6.0)
    skips.add(4, 1, values(), {})
    skips.add(9, 1, values(True), {})
    skips.add(10, 2, values(False), {})
    assert (
        lines[0]
        == lines[2].replace("10", "4").replace("9", "3")
        == ("step 4: loss or gradient is not finite, not applied (batch 3)")
    )
    assert "step 9: a spike, loss +7.5 and gradient norm +7.5 standard deviations" in lines[1]
    assert "(--skip_spikes=6), not applied (batch 8)" in lines[1]


def test_the_end_of_a_streak_says_what_the_steps_were_and_what_helps():
    plain = streak([None, None, None])
    assert plain.startswith("3 steps in a row, batches 6 to 8, had a loss or gradient that is not finite. ")
    assert plain.endswith("train with a lower --lr in another --workdir") and "--skip_spikes" not in plain
    spiking = streak([True, True])
    assert "2 steps in a row, batches 6 to 7, were spikes. " in spiking and "higher --skip_spikes" in spiking
    assert "were spikes, or had a loss" in streak([True, False, True])


@pytest.mark.parametrize(
    ("saved", "wanted"),
    [
        ([2, 4], "The last good checkpoint is step 4. No checkpoint was deleted since."),
        ([2, 6], "The last good checkpoint is step 2; step 6 has the parameters they met. No"),
        ([2, 6, 8], "The last good checkpoint is step 2; steps 6 and 8 have the parameters they met. No"),
        ([6], "There is no checkpoint from before them; step 6 has the parameters they met. No"),
        ([], "There is no checkpoint from before them. No checkpoint was deleted since."),
    ],
)
def test_the_last_good_checkpoint_is_one_that_an_applied_step_went_on_from(saved, wanted):
    """Step 6 was applied, and steps 7 to 9 were not: the state after step 6 may be what they failed on."""
    assert wanted in streak([None] * 3, saved)


def test_a_streak_counts_from_its_last_applied_step():
    skips, _ = tracker()
    for in_row in (1, 2, 1, 2):
        skips.add(3, in_row, values(), {})
    with pytest.raises(TrainingError, match="3 steps in a row, batches 6 to 8"):
        skips.add(9, 3, values(), {})


def test_the_batch_is_written_with_its_rows_as_text(tmp_path):
    skips, lines = tracker(tmp_path)
    batch = tiny.batch(3, 16, 40)
    skips.add(5, 1, values(), batch)
    file = tmp_path / "bad_batches" / "step-5.npz"
    assert f"(batch 4, {file})" in lines[0]
    with np.load(file) as arrays:
        assert set(arrays.files) == set(batch) and all(np.array_equal(arrays[n], batch[n]) for n in batch)
    body = json.loads(file.with_suffix(".json").read_text())
    assert (body["step"], body["batch"], body["metrics"]["loss"], body["metrics"]["skipped"]) == (
        5,
        4,
        "nan",
        3.0,
    )
    assert body["why"] == "loss or gradient is not finite" and len(body["rows"]) == 3
    for i, row in enumerate(body["rows"]):
        mask, here = batch["mask"][i] > 0, batch["segments"][i] > 0
        assert (row["row"], row["positions"], row["in_the_loss"]) == (i, 16, mask.sum())
        learnt = re.sub(r"⟨.*?⟩", "", row["targets"].replace("\n", ""))
        assert learnt == decode(batch["targets"][i][mask & here]), "what is not in the loss stands in ⟨⟩"


def test_batches_on_disk_are_bounded_and_those_left_out_are_counted(tmp_path):
    batch, most = tiny.batch(1, 8, 40), bad_batches.MOST
    for start in range(2):  # a resumed run meets the same steps again
        skips, lines = tracker(tmp_path)
        for step in range(1, most + 4):
            skips.add(2 * step, 1, values(), batch)
        assert len(list((tmp_path / "bad_batches").glob("*.npz"))) == most, start
        assert [".npz)" in line for line in lines] == [True] * most + [False] * 3
        assert lines[-1].endswith(f"bad_batches/ has {most} others: 3 left out by this start of the run)")


def test_a_batch_that_cannot_be_written_ends_no_training(tmp_path):
    (tmp_path / "bad_batches").write_text("a file where the folder should be")
    skips, lines = tracker(tmp_path)
    skips.add(5, 1, values(), tiny.batch(1, 8, 40))
    assert "not applied (batch 4; not written: " in lines[0] and skips.unwritten == [5]
    assert set(skipped_steps.COUNTERS) >= {"skipped", spikes.TOTAL}


def test_of_steps_without_weight_the_first_is_named_and_written(tmp_path):
    skips, lines = tracker(tmp_path)
    for step in (3, 4, 9):
        skips.add_empty(step, values(), tiny.batch(1, 8, 40))
    (file,) = tmp_path.rglob("*.npz")
    why = f"step 3: nothing of its batch is in the loss, not applied (batch 2, {file})"
    assert lines == [f"{why}; the later ones are in `skipped`"] and skips.empty == 3
