"""Runs with --eval_tasks: when tasks are answered, what they are called, what is refused, lm-eval's own numbers."""

import json

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.tasks import harness
from tests.runs import call, jsonl, rows, same_arrays
from tests.tasks import bundles, harness_tasks

RUN = ("--steps=12", "--eval_every=3", "--sample_every=0", "--log_every=3", "--eval_tasks=core")


@pytest.fixture(scope="module")
def bundle(bench):
    return f"--eval_tasks_dir={bundles.write(bench.folder / 'bundle')}"


@pytest.fixture(scope="module")
def measured(bench, bundle):
    """A run with CORE at every second evaluation; (its folder, what it printed)."""
    folder = bench.folder / "measured"
    printed = bench.main(
        *RUN,
        bundle,
        "--eval_tasks_every=6",
        "--keep_best=eval/core",
        "--checkpoint_every=6",
        f"--workdir={folder}",
    )
    return folder, printed


def test_tasks_are_metrics_of_the_evaluations_at_which_they_are_due(measured):
    folder, printed = measured
    evaluations = {row["step"]: row for row in rows(folder) if "eval/loss" in row}
    assert list(evaluations) == [3, 6, 9, 12]
    assert [step for step, row in evaluations.items() if "eval/core" in row] == [6, 12]
    names = {name for name in evaluations[12] if name.startswith("eval/core")}
    assert names == {"eval/core", "eval/core/piqa", "eval/core/winograd", "eval/core/jeopardy"}
    last = evaluations[12]
    assert last["eval/core"] == pytest.approx(
        sum(last[f"eval/core/{name}"] for name in ("piqa", "winograd", "jeopardy")) / 3
    )
    assert (
        "core is the mean of 3 tasks, and not DCLM's number: without agi_eval_lsat_ar and 18 more" in printed
    )
    assert "core, every 6 steps and after the last" in printed
    assert "the checkpoint with the highest eval/core is kept" in printed


def test_they_change_nothing_and_are_the_same_in_another_run(bench, bundle, measured):
    folder, _ = measured
    plain, second = bench.folder / "plain", bench.folder / "second"
    bench.main("--steps=12", "--eval_every=3", "--sample_every=0", f"--workdir={plain}")
    same_arrays(plain, folder, 12)
    flags = (*RUN, bundle, "--eval_tasks_every=6", "--checkpoint_every=6", f"--workdir={second}")
    bench.main(*flags)
    last = [row for row in rows(folder) if "eval/core" in row][-1]
    other = [row for row in rows(second) if "eval/core" in row][-1]
    assert {name: last[name] for name in last if name != "time"} == {
        name: other[name] for name in other if name != "time"
    }
    again = bench.main(*flags)
    assert "all 12 steps are done" in again and f"core {last['eval/core']:.4f}" in again


def test_a_model_that_has_learned_the_texts_knows_their_words(bench):
    """One text again and again: its last word is right, the other one is not."""
    folder = bundles.write(bench.folder / "learned-bundle")
    tasks = folder / "core.yaml"
    tasks.write_text(tasks.read_text().replace("num_fewshot: [1]", "num_fewshot: [0]"))
    text = "the old captain saw a white whale by night"
    (folder / "eval_data" / "jeopardy.jsonl").write_text(
        "".join(
            json.dumps({"context": text.rpartition(" ")[0], "continuation": word, "category": word}) + "\n"
            for word in ("night", "day")
        )
    )
    corpus = f"--data={jsonl(bench.folder / 'one.jsonl', [{'text': text}] * 60)}"
    run = bench.folder / "learned"
    bench.main(
        "--steps=60", "--eval_every=0", "--sample_every=0", "--eval_tasks=core", f"--eval_tasks_dir={folder}",
        f"--workdir={run}", data=corpus,
    )  # fmt: skip
    assert rows(run)[-1]["eval/core/jeopardy"] == 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--eval_tasks_limit=3",), "--eval_tasks_limit: acts only with --eval_tasks; leave it out"),
        (("--eval_tasks=core", "--eval_every=4", "--eval_tasks_every=6"), "--eval_tasks_every=6: write a multiple"),
        (("--eval_tasks=core", "--eval_every=0", "--eval_tasks_every=6"), "a multiple of --eval_every=0, above 0"),
        (("--eval_tasks=core",), "--eval_tasks=core: name a folder with DCLM's evaluation bundle"),
        (("--eval_tasks=core", "--objective=masked"), "--eval_tasks=core: this stage trains no model that predicts"),
        (("--eval_tasks=core", "--keep_best=eval/core/boolq:max"), "eval/core/boolq: evaluation has no such metric"),
    ],
)  # fmt: skip
def test_what_would_do_nothing_or_is_wrong_is_refused_before_training(bench, bundle, flags, message):
    own = () if "name a folder" in message or "acts only" in message else (bundle,)
    with pytest.raises(ConfigError, match=message):
        bench.main(*flags, *own, f"--workdir={bench.folder / 'refused'}")
    assert not (bench.folder / "refused" / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore")  # of transformers, torch and datasets, whose numbers are compared
def test_numbers_are_lm_evals_own(bench, tmp_path):
    """lm-eval's model of the same parameters in torch has the same numbers on the same task files."""
    evaluator = pytest.importorskip("lm_eval.evaluator", reason="the extra lm-eval is not installed")
    pytest.importorskip("torch", reason="the extra hf-test is not installed")
    from lm_eval.models.huggingface import HFLM

    harness_tasks.write(tmp_path)
    names, run, folder = sorted(harness_tasks.TASKS), tmp_path / "run", tmp_path / "export"
    bench.main(
        "--steps=20", "--eval_every=0", "--sample_every=0", f"--eval_tasks={','.join(names)}",
        f"--eval_tasks_dir={tmp_path}", f"--workdir={run}",
    )  # fmt: skip
    call("export", f"--init_from={run}", f"--to=hf:{folder}")
    ours = {name: value for name, value in rows(run)[-1].items() if name.count("/") == 2}
    manager = harness.open_tasks(names, str(tmp_path), "eval_tasks")
    theirs = {}
    for bos, of in (
        (True, ("chosen", "likely", "written")),
        (False, ("rolling",)),
    ):  # else BOS would stand twice
        lm = HFLM(pretrained=str(folder), add_bos_token=bos, dtype="float32", device="cpu", batch_size=4)
        with harness._quiet():
            found = evaluator.simple_evaluate(
                lm, tasks=list(of), task_manager=manager, bootstrap_iters=0, log_samples=False
            )
        for task, values in found["results"].items():
            theirs |= {f"eval/{task}/{name.partition(',')[0]}": value for name, value in values.items()}
    assert len(ours) == 7 and ours == {name: pytest.approx(theirs[name], rel=1e-6) for name in ours}
    assert 0 < ours["eval/written/exact_match"] < 1 and 0 < ours["eval/chosen/acc"] < 1
