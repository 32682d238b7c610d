"""The lifecycle command: order of stages, report, failures, and a second call."""

import json
import re
import shutil
from pathlib import Path

import pytest

from jaxtrain import worlds
from jaxtrain.apps.lifecycle import html, plan, progress, report
from jaxtrain.apps.lifecycle.plan import LifecycleStep, Target
from jaxtrain.config import ConfigError, Failure
from jaxtrain.files import checksums
from tests.runs import MODEL, call

TINY = ("--seq_len=48", "--batch_size=8", "--warmup=2", "--eval_batches=1")
DATA = "documents=200&held_out=40"


def tiny_steps():
    pretrain = (
        f"--data=tinytown:pretrain?{DATA}",
        f"--model={MODEL}",
        "--tokenizer=bpe:400",
        "--steps=20",
        *TINY,
    )
    sft = (
        f"--data=tinytown:sft?{DATA}",
        "--init_from={base}",
        "--steps=6",
        *TINY,
        "--prompt_count=4",
        "--max_new=8",
    )
    return [
        LifecycleStep("base", "pretrain", "pretraining", pretrain, (), (Target("eval/loss", high=50),)),
        LifecycleStep("first", "sft", "one tuning", sft, ("base",), (Target("gold", low=9, gain=True),)),
        LifecycleStep(
            "second",
            "sft",
            "another",
            (*sft, "--lr=0.01", "--eval_every=2", "--checkpoint_every=2"),
            ("base",),
            (Target("nothing", low=0),),
            best="eval/loss:max",  # the worst, which is not the last
        ),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = plan.open_folder(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield folder, run(tiny_steps(), folder)


def run(steps, folder, jobs=2):
    cache = str(folder.parent / "cache")
    return plan.train(steps, folder, progress.show_progress, jobs=jobs, seed=3, cache_dir=cache)


def test_what_needs_a_run_waits_for_it_and_the_rest_runs_beside(trained):
    folder, times = trained
    ended = times["base"]["began"] + times["base"]["seconds"]
    assert all(times[name]["began"] >= ended for name in ("first", "second"))
    assert times["second"]["began"] < times["first"]["began"] + times["first"]["seconds"]
    alone = sum(one["seconds"] for one in times.values())
    assert list(times).index("base") < list(times).index(f"{plan.SAMPLED}base")
    assert {*times} == {name for step in tiny_steps() for name in (step.name, plan.SAMPLED + step.name)}
    assert all(times[name]["began"] >= ended for name in times if name != "base")
    assert max(one["seconds"] for one in times.values()) < plan.busy_seconds(times) < alone
    parent = json.loads((folder / "second" / "config.json").read_text())["parent"]
    assert parent["origin"].startswith(str(folder / "base"))


def test_a_second_call_runs_what_is_missing_alone(trained, capsys):
    folder, times = trained
    steps = tiny_steps()
    assert run(steps, folder) == times
    assert "another: was trained before" in capsys.readouterr().out
    steps.append(
        LifecycleStep("third", "sft", "a third", ("--init_from={first}", "--no_such_flag=1"), ("first",), ())
    )
    with pytest.raises(Failure, match=r"sft ended with status 2(.|\n)*no_such_flag(.|\n)*third.log"):
        run(steps, folder)
    assert checksums.unsealed(json.loads((folder / plan.TIMES).read_text())) == times


def test_the_best_checkpoint_is_the_one_that_is_sampled_from_and_measured(trained, capsys):
    folder, times = trained
    result = report.result(tiny_steps(), folder, times)
    *_, second = result["stages"]
    losses = {row["step"]: row["eval/loss"] for row in plan.rows(folder / "second") if "eval/loss" in row}
    worst = max(losses, key=losses.get)
    assert second["taken"] == worst < 6 and [stage["taken"] for stage in result["stages"][:2]] == [None, None]
    (train,), samples = times["second"]["commands"], times[f"{plan.SAMPLED}second"]["commands"]
    assert "--keep_best=eval/loss:max" in train and len(samples) == len(plan.ANSWER_SETS)
    assert all(f"--init_from={folder / 'second'}@best" in sample for sample in samples)
    assert plan.latest(plan.rows(folder / "second"), worst)["eval/loss"] == losses[worst]
    report.write(result, folder)
    report.print_result(result, folder)
    assert f"another: the best checkpoint is taken, of step {worst}" in capsys.readouterr().out
    assert f"another: the best checkpoint is taken, of step {worst}" in (folder / "report.html").read_text()


def test_a_later_stage_takes_the_best_checkpoint(tmp_path):
    (one, *_), other = tiny_steps(), tiny_steps()[2]
    child = LifecycleStep("child", "sft", "child", ("--init_from={second}",), ("second",), ())
    runs = {"base": "b", "second": f"{tmp_path}/second@best", "child": "c"}
    first, other_job, third, *samplings = plan._jobs((one, other, child), tmp_path, runs, ("--seed=1",), 1e-6)
    assert f"--init_from={tmp_path}/second@best" in third.commands[0]
    rest = str([job.commands for job in (other_job, third, *samplings)])
    assert "--jitter=1e-06" in first.commands[0] and "--jitter" not in rest


@pytest.fixture
def copied(trained, monkeypatch):
    """Stages that are the trained ones' files, put where a command would write them; seed 3 has a higher loss."""
    source, ran, sampled = trained[0], [], []

    def copy(job, log, running):
        for file in job.files:
            sampled.append(file.name)
            shutil.copy(source / plan.ANSWERS / file.name, file)
        if job.files:
            return 1.0, 2.0
        (command,) = job.commands
        place = next(Path(flag.partition("=")[2]) for flag in command if flag.startswith("--workdir="))
        if len(ran) == copy.most:
            raise Failure("the power is cut")
        ran.append(f"{place.parent.name}/{place.name}")
        shutil.copytree(source / place.name, place, dirs_exist_ok=True)
        if ran[-1] == "seed-3/base":
            with (place / "metrics.jsonl").open("a") as file:
                file.write('{"step": 20, "eval/loss": 60.0}\n')
        return 1.0, 2.0

    copy.most, copy.sampled = None, sampled
    monkeypatch.setattr(plan, "steps", tiny_steps)
    monkeypatch.setattr(plan, "_run", copy)
    return ran, copy


def test_several_seeds_go_on_where_they_were_stopped_and_have_one_report(copied, tmp_path):
    ran, copy = copied
    flags = ("--seeds=5,3", f"--workdir={tmp_path / 'w'}", "--jobs=1")
    copy.most = 4
    with pytest.raises(Failure, match="the power is cut"):
        call("lifecycle", *flags)
    assert ran == ["seed-5/base", "seed-5/first", "seed-5/second", "seed-3/base"]
    assert (tmp_path / "w" / "seed-5" / "report.html").exists()
    assert not (tmp_path / "w" / "report.html").exists()
    copy.most = None
    printed = call("lifecycle", *flags)
    assert ran[4:] == ["seed-3/first", "seed-3/second"]
    assert "seed 5, 1 of 2:" in printed and "pretraining: was trained before" in printed
    assert "of 2 seeds; 3 targets missed" in printed and "60.000" in printed
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    loss = result["stages"][0]["claims"][0]
    assert loss["worst"] == {"seed": 3, "value": 60.0} and loss["missed"] == [3] and not loss["reached"]
    assert loss["after"]["least"] < 10 and loss["after"]["most"] == 60
    assert result["stages"][1]["measures"]["gold"]["least"] == result["stages"][1]["measures"]["gold"]["most"]
    alone = json.loads((tmp_path / "w" / "seed-5" / "result.json").read_text())
    assert alone["stages"][0]["reached"] and isinstance(alone["seconds"], float)
    page = (tmp_path / "w" / "report.html").read_text()
    assert (
        "to 60.000</small>" in page
        and "the mean of seeds 5, 3" in page
        and "3 of 3 numbers fall short" in page
    )
    assert call("lifecycle", *flags) and len(ran) == 6


@pytest.mark.parametrize(
    "damage", [lambda text: None, lambda text: b"{" + text, lambda text: text[:-9], lambda text: b""]
)
def test_damaged_completions_are_sampled_again(copied, tmp_path, capsys, damage):
    ran, copy = copied
    folder = plan.open_folder(tmp_path / "whole")
    times = run(tiny_steps(), folder)
    steps = len(tiny_steps())
    assert len(ran) == steps and len(copy.sampled) == 2 * steps and run(tiny_steps(), folder) == times
    file = plan.answers_of(folder, "second", plan.CLOSED)
    text = file.read_bytes()
    file.unlink()
    if (damaged := damage(text)) is not None:
        file.write_bytes(damaged)
    assert run(tiny_steps(), folder) == times and file.read_bytes() == text
    assert len(ran) == steps and copy.sampled[2 * steps :] == ["second.jsonl", "second.closed.jsonl"]
    assert f"{file} is missing or differs from what was written" in capsys.readouterr().err


def test_a_stage_with_other_flags_is_trained_anew_with_those_that_start_from_it(copied, tmp_path):
    ran, copy = copied
    folder = plan.open_folder(tmp_path / "whole")
    run(tiny_steps(), folder)
    del ran[:], copy.sampled[:]
    base, *rest = tiny_steps()
    run([base, rest[0]._replace(flags=(*rest[0].flags, "--lr=9")), *rest[1:]], folder)
    assert ran == ["whole/first"] and copy.sampled == ["first.jsonl", "first.closed.jsonl"]
    again = [base._replace(flags=(*base.flags, "--lr=9")), *rest]
    run(again, folder, jobs=1)  # two at once end in either order
    assert ran[1:] == ["whole/base", "whole/first", "whole/second"] and len(copy.sampled) == 2 + 2 * len(
        ran[1:]
    )


def test_seeds_that_contradict_are_refused_before_a_stage_starts(copied, tmp_path):
    ran, _ = copied
    for flags, message in (
        (("--seed=0", "--seeds=2"), "--seed=0 and --seeds=2 both decide it"),
        (("--seeds=0",), "--seeds=0: one number is how many seeds"),
        (("--jitter=nan",), "--jitter=nan: must be a finite number"),
        (("--jitter=-1e-6",), "--jitter=-1e-06: must be at least 0"),
        (("--jitter=1e-9",), "--jitter=1e-09: a relative amount"),
    ):
        with pytest.raises(ConfigError, match=message):
            call("lifecycle", f"--workdir={tmp_path / 'w'}", *flags)
    call("lifecycle", "--seeds=1", f"--workdir={tmp_path / 'w'}")
    before = len(ran)
    for flags in (("--seeds=2",), ("--seed=0",), ()):
        with pytest.raises(ConfigError, match=r"is of --seeds=0; name another --workdir"):
            call("lifecycle", f"--workdir={tmp_path / 'w'}", *flags)
    assert len(ran) == before == 3


def test_damaged_times_are_moved_aside(tmp_path, capsys):
    file, times = (
        tmp_path / plan.TIMES,
        {"base": {"began": 1.5, "seconds": 2.0, "commands": [["sft", "--steps=3"]], plan.SUMS: {}}},
    )
    assert plan._read_times(file) == {}
    whole = json.dumps(checksums.sealed(times)).encode()
    for text in (whole, json.dumps(times).encode()):  # an earlier release wrote no checksum
        file.write_bytes(text)
        assert plan._read_times(file) == times
    for damaged in (whole.replace(b"2.0", b"2.1"), whole[:-9], b"", b"[]", b'{"base": {}}', b"\xff"):
        file.write_bytes(damaged)
        assert plan._read_times(file) == {} and not file.exists()
        assert f"{file} is damaged (" in capsys.readouterr().err
        assert (tmp_path / "times.json.damaged").read_bytes() == damaged


def test_the_report_tells_what_was_reached_and_what_was_not(trained, capsys):
    folder, times = trained
    result = report.result(tiny_steps(), folder, times)
    base, first, second = result["stages"]
    assert base["reached"] and not first["reached"] and not second["reached"]
    (claim,) = first["claims"]
    assert claim["before"] == base["measures"]["gold"] and claim["after"] == first["measures"]["gold"]
    assert second["claims"][0]["after"] is None, "what was not measured is not reached"
    assert {*result["answers"][0]["answers"]} == {"base", "first", "second"}
    report.write(result, folder)
    report.print_result(result, folder)
    printed = capsys.readouterr().out
    assert "2 targets missed" in printed and "one tuning: Nothing in its metrics says why" in printed
    page = (folder / "report.html").read_text()
    assert page.count('class="missed"') == 2 and "2 of 3 numbers fall short" in page
    assert not re.search(r"""src=|href="(?!data:)|url\((?!#)|@import""", page), "it needs no network"
    assert json.loads((folder / "result.json").read_text())["stages"][1]["name"] == "first"


def test_texts_of_a_model_are_escaped(trained):
    folder, times = trained
    result = report.result(tiny_steps(), folder, times)
    result["answers"][0]["answers"]["base"] = "<script>alert(1)</script>"
    assert "<script>alert" not in html.page(result)


def test_the_lineage_has_a_column_a_depth():
    stages = [
        {"name": name, "stage": name, "needs": needs, "seconds": 1.0, "reached": True}
        for name, needs in (("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["a", "c"]))
    ]
    boxes, arrows, (width, height) = html.lineage(stages)
    x = {box.name: box.x for box in boxes}
    assert x["a"] < x["b"] == x["c"] < x["d"] and len(arrows) == 4
    (long,) = [arrow for arrow in arrows if " H" in arrow]  # from a to d, over the column of b and c
    lane = float(long.split(" H")[0].split()[-1])
    assert not any(box.y <= lane <= box.y + html.HIGH for box in boxes), "not behind a box"
    assert len({(box.x, box.y) for box in boxes}) == 4
    assert all(box.x + html.WIDE < width and box.y + html.HIGH < height for box in boxes)


def test_targets_are_compared_with_the_stage_that_they_name():
    def judged(claim, before, after):
        return report.claim_result(claim, {"gold": before}, {"gold": after})

    beside = Target("gold", low=-0.1, gain=True, over="dpo")
    assert judged(beside, 1.9, 1.81)["reached"] and not judged(beside, 1.9, 1.79)["reached"]
    assert judged(beside, 1.9, 1.79)["wanted"] == "at most 0.1 below dpo"
    kept = Target("gold", low=-0.05, gain=True)
    assert judged(kept, 1.0, 0.95)["reached"] and not judged(kept, 1.0, 0.9499)["reached"]
    assert report.wanted(kept) == "at most 0.05 below before"
    assert report.wanted(Target("steps", low=-0.05, gain=True)) == "at most 5 points below before"
    assert report.wanted(Target("steps", low=0.95)) == "at least 95 %"
    assert report.wanted(Target("gold", low=1, gain=True)) == "gain at least 1"
    assert (
        judged(Target("gold", high=4), None, 4.0)["reached"]
        and not judged(Target("gold", high=4), None, 4.1)["reached"]
    )
    for nothing in (None, float("nan")):
        result = judged(kept, nothing, 1.0)
        assert not result["reached"] and result["margin"] is None and result["before"] is None


def test_what_the_real_steps_claim():
    claims = {step.name: {claim: True for claim in step.claims} for step in plan.steps()}
    for name in ("ppo", "dpo"):
        assert all(
            Target(one, low=-0.05, gain=True) in claims[name] for one in ("steps", "facts", "spelling")
        )
    assert Target("objective/kl", high=4) in claims["ppo"]
    assert Target("gold", low=-0.1, gain=True, over="dpo") in claims["ppo"]
    assert Target("parsable", low=0.9) in claims["distill"]
    measures = {"gold", *worlds.get().measures}
    known = {"eval/bits_per_byte_above_entropy", "eval/gold_accuracy", "objective/kl", "eval/divergence"}
    assert all(claim.measure in measures | known for each in claims.values() for claim in each)
    assert all(claim.over in {"", *claims} for each in claims.values() for claim in each)


def test_a_jitter_is_of_the_stages_that_draw_parameters():
    assert [step.name for step in plan.steps() if plan.starts_fresh(step)] == ["pretrain", "distill"]


def test_the_real_steps_are_in_order():
    steps = plan.steps()
    known = set()
    for step in steps:
        assert {*step.needs} <= known, "earlier stages are started first"
        known.add(step.name)
        assert all(claim.low is not None or claim.high is not None for claim in step.claims)
        used = {name for text in step.flags for name in re.findall(r"\{(\w+)\}", text)}
        assert used <= {*step.needs} and not set(step.needs) - used - {"sft"}
