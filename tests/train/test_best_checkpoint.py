"""--keep_best: its metric and direction, and the best checkpoint as the ones on disk say it."""

import json
import math
import shutil

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files.checksums import json_sha256
from jaxtrain.train import best_checkpoint, workdir
from jaxtrain.train.best_checkpoint import best_step, parse, record, resume, retained


@pytest.mark.parametrize(
    ("text", "metric", "mode"),
    [
        ("eval/loss", "eval/loss", "min"),
        ("eval/loss:max", "eval/loss", "max"),
        ("eval/bits_per_byte_above_entropy", "eval/bits_per_byte_above_entropy", "min"),
        ("eval/gold_accuracy", "eval/gold_accuracy", "max"),
        ("eval/rewards/accuracies", "eval/rewards/accuracies", "max"),
        ("eval/ece", "eval/ece", "min"),
        ("judge/gold", "judge/gold", "max"),
        ("eval/bits_per_byte/wiki", "eval/bits_per_byte/wiki", "min"),
        ("eval/core/piqa", "eval/core/piqa", "max"),
        ("eval/arc_easy/acc_norm", "eval/arc_easy/acc_norm", "max"),
        ("eval/lambada/word_perplexity", "eval/lambada/word_perplexity", "min"),
        ("completions/mean_length:min", "completions/mean_length", "min"),
        ("completions/clipped_ratio", "completions/clipped_ratio", "min"),
    ],
)
def test_the_direction_is_of_the_flag_or_of_the_name(text, metric, mode):
    best = parse(text)
    assert (best.metric, best.mode) == (metric, mode) and parse(str(best)).mode == mode


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("completions/mean_length", "say whether more is better: completions/mean_length:max or"),
        ("eval/rewards/rejected", "say whether more is better"),
        ("eval/truthfulqa/brier_score", "say whether more is better"),
        ("eval/loss:low", "write METRIC, METRIC:max or METRIC:min"),
        (":max", "write METRIC"),
    ],
)
def test_a_direction_that_is_not_known_is_asked_for(text, message):
    with pytest.raises(ConfigError, match=f"^--keep_best={text}: {message}"):
        parse(text)
    assert parse("") is None


@pytest.mark.parametrize(("mode", "best"), [("max", (3, 2.0)), ("min", (2, -1.0))])
def test_ties_go_to_the_earlier_and_nan_is_never_the_best(mode, best):
    tracked = parse(f"eval/x:{mode}")
    for step, value in enumerate((math.nan, 1.0, -1.0, 2.0, 2.0, -1.0, math.inf, -math.inf, None)):
        tracked.update(step, {"eval/x": value, "eval/y": 0})
    tracked.update(9, {"eval/y": 99.0})
    assert (tracked.step, tracked.value) == best


def test_a_metric_that_evaluation_does_not_have_is_refused_with_those_it_has():
    best = parse("eval/gold:max")
    with pytest.raises(ConfigError, match=r"--keep_best=eval/gold: .* choose one of eval/ece, eval/loss$"):
        best.require(["eval/loss", "eval/ece"], more=True)
    with pytest.raises(ConfigError, match="choose one of none"):
        parse("judge/gold").require([], more=False)
    judged = parse("judge/gold")
    judged.require(["eval/loss"], more=True)  # the first samples will show
    with pytest.raises(ConfigError, match=r"choose one of eval/loss, judge/steps\. Step 4 is saved"):
        judged.require(["judge/steps"], more=False, note=". Step 4 is saved")
    best.require(["eval/gold"], more=False)


def test_the_newest_stay_and_the_best():
    assert retained([1, 2, 3, 4], 2, 1) == {1, 3, 4} and retained([1, 2, 3, 4], 2, 4) == {3, 4}
    assert retained([1, 2], 3, None) == {1, 2} and retained([2, 3], 1, 1) == {3}


def run(folder, values, flag="eval/x:max"):
    """Checkpoints with the evaluations of these steps, as Orbax writes them."""
    for step, evaluation in values.items():
        best = parse(flag) if flag else None
        body = {"meta": {"step": step, **record(best, evaluation)}, "leaves": {}}
        file = folder / workdir.CHECKPOINTS / str(step) / "meta" / "metadata"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**body, "sha256": json_sha256(body)}))
    (folder / workdir.CONFIG).write_text(
        json.dumps({"stage": "sft", "config": {}, "data": {}, "resumed": []})
    )
    return folder


def at(folder, name=best_checkpoint.BEST):
    return workdir.split_step(f"{folder}@{name}")


EVALUATIONS = {
    2: {"eval/x": 1.0}, 4: {"eval/x": 3.0, "eval/loss": 0.5}, 6: {"eval/x": 3.0}, 8: {"eval/x": math.nan}, 10: {},
}  # fmt: skip


def test_the_best_is_what_the_checkpoints_on_disk_say(tmp_path):
    folder = run(tmp_path / "a", EVALUATIONS)
    assert at(folder) == (folder, 4) and at(folder, "6") == (folder, 6)
    steps = folder / workdir.CHECKPOINTS
    best = resume("eval/x:max", steps, workdir.saved_steps(steps))
    assert (best.step, best.value, best.names) == (4, 3.0, {"eval/x", "eval/loss"})
    assert resume("eval/loss", steps, [2, 4, 6]).step == 4 and resume("", steps, [2]) is None
    shutil.rmtree(steps / "4")  # as after a kill in whatever it was that removed it
    assert at(folder) == (folder, 6)
    run(folder, {12: {"eval/x": 9.0}}, "eval/x:min")  # resumed with another direction
    assert at(folder) == (folder, 2)


def test_a_damaged_record_is_named_and_does_not_count(tmp_path):
    folder = run(tmp_path / "a", EVALUATIONS)
    file = folder / workdir.CHECKPOINTS / "2" / "meta" / "metadata"
    file.write_text(file.read_text().replace("1.0", "9.0"))
    with pytest.warns(UserWarning, match=r"checkpoints/2/meta/metadata is damaged: .*SHA-256"):
        assert at(folder) == (folder, 4)
    file.unlink()
    with pytest.warns(UserWarning, match="2/meta/metadata is damaged: .*No such file"):
        assert at(folder) == (folder, 4)


@pytest.mark.parametrize(
    ("values", "flag", "message"),
    [
        ({5: {}}, "", "it was not trained with --keep_best; name a step: 5"),
        ({5: {"eval/x": math.nan}}, "eval/x:max", "none was evaluated with a finite eval/x; name a step: 5"),
        ({}, "", "it was not trained with --keep_best; name a step: none"),
    ],
)
def test_a_run_without_a_best_checkpoint_says_why(tmp_path, values, flag, message):
    folder = run(tmp_path / "a", values, flag) if values else tmp_path / "a"
    if not values:
        folder.mkdir()
        run(folder, {})
    with pytest.raises(
        ConfigError, match=f"^--model={folder}@best: the run has no best checkpoint, {message}"
    ):
        workdir.split_step(f"{folder}@best", "model")


def test_a_folder_of_that_name_is_a_run_and_a_run_that_is_not_there_is_named(tmp_path):
    (tmp_path / "v@best").mkdir()
    assert workdir.split_step(f"{tmp_path}/v@best") == (tmp_path / "v@best", None)
    with pytest.raises(ConfigError, match=r"--model=.*/none is not a run: there is no such folder"):
        workdir.split_step(f"{tmp_path}/none@best", "model")
    with pytest.raises(ConfigError, match="has no best checkpoint"):
        best_step(tmp_path, [], "--init_from=x")
