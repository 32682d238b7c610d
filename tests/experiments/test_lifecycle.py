"""The lifecycle command: order of stages, report, failures, and a second call."""

import json
import re

import pytest

from jaxtrain.apps.lifecycle import html, plan, progress, report
from jaxtrain.apps.lifecycle.plan import LifecycleStep, Target
from jaxtrain.config import Failure
from jaxtrain.files import checksums
from tests.runs import MODEL

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
            "second", "sft", "another", (*sft, "--lr=0.01"), ("base",), (Target("nothing", low=0),)
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


def run(steps, folder):
    cache = str(folder.parent / "cache")
    return plan.train(steps, folder, progress.show_progress, jobs=2, seed=3, cache_dir=cache)


def test_what_needs_a_run_waits_for_it_and_the_rest_runs_beside(trained):
    folder, times = trained
    ended = times["base"]["began"] + times["base"]["seconds"]
    assert all(times[name]["began"] >= ended for name in ("first", "second"))
    assert times["second"]["began"] < times["first"]["began"] + times["first"]["seconds"]
    alone = sum(one["seconds"] for one in times.values())
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


def test_damaged_times_are_moved_aside(tmp_path, capsys):
    file, times = (
        tmp_path / plan.TIMES,
        {"base": {"began": 1.5, "seconds": 2.0, "commands": [["sft", "--steps=3"]]}},
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
    assert "2 targets missed" in printed and "one tuning" in printed
    page = (folder / "report.html").read_text()
    assert page.count('class="missed"') == 2 and "2 of 3 numbers fall short" in page
    assert not re.search(r"src=|https?://", page), "it needs no network"
    assert json.loads((folder / "result.json").read_text())["stages"][1]["name"] == "first"


def test_texts_of_a_model_are_escaped(trained):
    folder, times = trained
    result = report.result(tiny_steps(), folder, times)
    result["answers"][0]["answers"]["base"] = "<script>alert(1)</script>"
    assert "<script>" not in html.page(result)


def test_the_lineage_has_a_column_a_depth():
    stages = [
        {"name": name, "stage": name, "needs": needs, "seconds": 1.0, "reached": True}
        for name, needs in (("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["a", "c"]))
    ]
    boxes, lines, (width, height) = html.lineage(stages)
    x = {box.name: box.x for box in boxes}
    assert x["a"] < x["b"] == x["c"] < x["d"] and len(lines) == 4
    assert len({(box.x, box.y) for box in boxes}) == 4
    assert all(box.x + html.WIDE < width and box.y + html.HIGH < height for box in boxes)


def test_the_real_steps_are_in_order():
    steps = plan.steps()
    known = set()
    for step in steps:
        assert {*step.needs} <= known, "earlier stages are started first"
        known.add(step.name)
        assert all(claim.low is not None or claim.high is not None for claim in step.claims)
        used = {name for text in step.flags for name in re.findall(r"\{(\w+)\}", text)}
        assert used <= {*step.needs} and not set(step.needs) - used - {"sft"}
