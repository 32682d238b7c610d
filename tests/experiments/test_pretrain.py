"""Pretraining from the command to the files it leaves, and across everything that can end it."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import load
from tests.runs import CHILD, MODEL, arrays, column, prose, rows, write

STEPS = (
    "--steps=40",
    "--checkpoint_every=10",
    "--eval_every=15",
    "--sample_every=25",
    "--log_every=3",
    "--keep=9",
)
HARD = ("--ema=0.9", "--microbatches=2", f"--model={MODEL},dropout=0.1")


@pytest.fixture(scope="module")
def whole(bench):
    """(workdir, output) of a run that nothing disturbed."""
    workdir = bench.folder / "whole"
    return workdir, bench.run(*STEPS, *HARD, f"--workdir={workdir}")


def test_a_run_leaves_what_is_needed_to_know_and_continue_it(whole):
    workdir, said = whole
    held = json.loads((workdir / "config.json").read_text())
    assert held["stage"] == "pretrain" and held["config"]["optim"]["lr"] == 0.02 and held["parent"] == {}
    assert (
        held["arch"]["width"] == 32 and held["arch"]["causal"] and set(held["data"]) >= {"data", "tokenizer"}
    )
    names = {p.name for p in workdir.iterdir()}
    assert names == {
        "config.json",
        "lock",
        "metrics.jsonl",
        "tensorboard",
        "samples",
        "checkpoints",
        "tokenizer",
    }
    assert {p.name for p in (workdir / "checkpoints").iterdir() if p.is_dir()} == {"10", "20", "30", "40"}
    assert load(workdir / "tokenizer").vocab_size == 300
    assert sorted(p.name for p in (workdir / "samples").iterdir()) == ["00000025.txt", "00000040.txt"]
    sample = (workdir / "samples" / "00000040.txt").read_text()
    assert sample.count("▸") == 9 and sample in said + "\n"  # the heading and eight samples
    assert any(p.name.startswith("events") for p in (workdir / "tensorboard").iterdir())


def test_the_loss_falls_and_the_end_sums_it_up(whole):
    workdir, said = whole
    loss = column(workdir, "loss")
    assert [row["step"] for row in rows(workdir) if "loss" in row] == [*range(3, 40, 3), 40]
    assert loss[-1] < 0.7 * loss[0]
    held = column(workdir, "eval/loss")
    assert len(held) == 3 and held[2] < held[1] < held[0]
    end = said[said.index("finished 40 steps") :]
    assert f"{held[-1]:.4f}, perplexity {np.exp(held[-1]):.2f}" in end
    assert f"{column(workdir, 'eval/bits_per_byte')[-1]:.4f}" in end and "tokens/s" in end
    assert str(workdir / "checkpoints" / "40") in end
    lines = said.splitlines()  # the last are commands, each on one line, to be copied
    assert (
        lines[-1].endswith(f"./launch/run sample --init_from={workdir}")
        and f"./launch/run sft --init_from={workdir} " in lines[-2]
    )
    assert max(map(len, lines[:-2])) <= max(100, len(str(workdir)) + 40)


def kill_after(process, workdir, step):
    """Kills the process as soon as metrics.jsonl has the step."""
    file, deadline = workdir / "metrics.jsonl", time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        saved = any(p.name.isdecimal() for p in workdir.glob("checkpoints/*"))
        if saved and f'{{"step": {step},' in file.read_text():
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_goes_on_to_the_same_bits(bench, whole):
    workdir = bench.folder / "killed"
    flags = (*STEPS, *HARD, f"--workdir={workdir}")
    kill_after(bench.start(*flags), workdir, 15)
    assert "resuming from step " in bench.run(*flags)
    assert rows(workdir) == rows(whole[0])
    wanted, found = arrays(whole[0], 40), arrays(workdir, 40)
    assert wanted.keys() == found.keys() and any("average" in path for path in wanted)
    for path, value in wanted.items():
        assert np.array_equal(value, found[path]), path
    assert (workdir / "samples" / "00000040.txt").read_text() == (
        whole[0] / "samples" / "00000040.txt"
    ).read_text()


def test_another_topology_goes_on_within_rounding(bench, whole):
    workdir = bench.folder / "elsewhere"
    shutil.copytree(whole[0], workdir)
    for step in ("20", "30", "40"):
        shutil.rmtree(workdir / "checkpoints" / step)
    said = bench.run(*STEPS, *HARD, f"--workdir={workdir}", "--mesh=fsdp:2", devices=2)
    assert "resuming from step 10 of 40" in said
    for a, b in zip(rows(whole[0]), rows(workdir), strict=True):
        assert a.keys() == b.keys()
        # Adam makes much of what differs in the last digit: the longer ago, the more.
        close = 1e-5 if a["step"] <= 12 else 5e-2
        for name in a:
            if a["step"] <= 12 or name in ("loss", "eval/loss"):
                np.testing.assert_allclose(
                    b[name], a[name], rtol=close, err_msg=f"{name} of step {a['step']}"
                )
    wanted, found = arrays(whole[0], 10), arrays(workdir, 10)
    assert all(np.array_equal(value, found[path]) for path, value in wanted.items())
    assert arrays(whole[0], 40).keys() == arrays(workdir, 40).keys()


def test_a_finished_run_says_so_and_shows_its_results_again(bench, whole):
    workdir = whole[0]
    before = {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file() and p.name != "lock"}
    again = bench.run(*STEPS, *HARD, f"--workdir={workdir}")
    assert again.startswith("all 40 steps are done")
    last = column(workdir, "eval/loss")[-1]
    assert f"loss {last:.4f}" in again
    assert (workdir / "samples" / "00000040.txt").read_text() in again + "\n"
    assert before == {
        p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file() and p.name != "lock"
    }


def test_a_dry_run_leaves_nothing_behind_even_over_a_run(bench, whole):
    before = sorted(bench.folder.iterdir())
    said = bench.main("--dry_run", *STEPS, *HARD, f"--workdir={bench.folder / 'dry'}")
    for part in (
        "documents",
        "parameters",
        "positions are in the loss",
        "row 0: ",
        "first step",
        "loss",
        "seconds a step",
    ):
        assert part in said
    assert sorted(bench.folder.iterdir()) == before


def test_another_run_starts_from_the_averaged_parameters(bench, whole):
    """The learning rate is as good as 0, so that the first checkpoint is what it started from."""
    workdir = bench.folder / "child"
    flags = ("--steps=1", "--warmup=0", "--lr=1e-30", f"--workdir={workdir}", "--weight_decay=0")
    said = bench.main(f"--init_from={whole[0]}@30", *flags, small=CHILD)
    assert "finished 1 steps" in said
    source, found = arrays(whole[0], 30), arrays(workdir, 1)
    params = [path for path in found if path.startswith("['params']")]
    assert len(params) > 5
    for path in params:
        average = source[path.replace("['params']", "['opt_state']['average']")]
        assert np.array_equal(found[path], average), path
        assert not np.array_equal(found[path], source[path]) or "norm" in path
    held = json.loads((workdir / "config.json").read_text())
    assert held["parent"]["run"] == str(whole[0]) and held["parent"]["step"] == 30
    assert (workdir / "tokenizer" / "tokenizer.json").read_text() == (
        whole[0] / "tokenizer" / "tokenizer.json"
    ).read_text()


@pytest.mark.parametrize("objective", ["masked", "fim"])
def test_the_other_objectives_run_and_learn(bench, objective):
    workdir = bench.folder / objective
    rate = {"masked": "--mask_rate=0.3", "fim": "--fim_rate=0.8"}[objective]
    said = bench.main(
        f"--objective={objective}", rate, "--steps=60", f"--workdir={workdir}", "--eval_every=20"
    )
    held = column(workdir, "eval/loss")
    assert column(workdir, "loss")[-1] < 0.8 * column(workdir, "loss")[0] and held[-1] < held[0]
    assert json.loads((workdir / "config.json").read_text())["arch"]["causal"] == (objective == "fim")
    assert ("▸" in said) == (objective == "fim") and ("⟨" in said.split("row 0")[1]) == (
        objective == "masked"
    )


def two_processes(bench, *flags, port):
    """The command in two processes of one device each; returns what the first printed."""
    shared = {"JAXTRAIN_COORDINATOR": f"127.0.0.1:{port}", "JAXTRAIN_NUM_PROCESSES": "2"}
    both = [bench.start(*flags, env={**shared, "JAXTRAIN_PROCESS_ID": str(i)}) for i in range(2)]
    said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    printed = ["".join(line for line in out.splitlines(True) if "[Gloo]" not in line) for out, _ in said]
    assert printed[1] == "", "only the first process prints"
    return printed[0]


@pytest.mark.slow
def test_two_processes_are_one_with_two_devices(bench, free_port):
    one, two = bench.folder / "one", bench.folder / "two"
    flags = ("--steps=12", "--checkpoint_every=6", "--log_every=2", "--eval_every=6")
    first = bench.run(*flags, f"--workdir={one}", "--parallel=mesh", devices=2)
    other = two_processes(bench, *flags, f"--workdir={two}", port=free_port)
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=1e-5)
    samples = [text[text.index("samples at step 12") : text.index("finished")] for text in (first, other)]
    assert samples[0].split("▸")[1].split("│")[0] and _prompts(samples[0]) == _prompts(samples[1])


def _prompts(text):
    return [part.rsplit("│", 1)[-1].strip() for part in text.split("▸")[1:-1]]


def test_tinytown_gets_nearer_to_its_entropy(bench):
    workdir = bench.folder / "town"
    bench.main(
        "--steps=120", "--eval_every=40", "--seq_len=128", "--tokenizer=bpe:600", f"--workdir={workdir}",
        data="--data=tinytown:pretrain?documents=2000&held_out=200",
    )  # fmt: skip
    above = column(workdir, "eval/bits_per_byte_above_entropy")
    assert len(above) == 3 and 0 < above[2] < above[1] < above[0]
    assert above[2] < 0.8 * above[0]
    assert above[2] < column(workdir, "eval/bits_per_byte")[2]


@pytest.mark.slow
def test_the_default_model_learns_tinytown(bench):
    workdir = bench.folder / "default"
    bench.run(
        "--model=tinytown-200k", "--seq_len=128", "--tokenizer=bpe:1024", "--steps=300", "--eval_every=100",
        "--lr=4e-3", "--warmup=30", f"--workdir={workdir}", data="--data=tinytown:pretrain?documents=20000",
    )  # fmt: skip
    above = column(workdir, "eval/bits_per_byte_above_entropy")
    assert above[-1] < 0.35 and above[-1] < 0.5 * above[0]


def test_a_full_disk_ends_the_run_with_a_message_and_keeps_what_was_saved(bench, whole):
    workdir = bench.folder / "full"
    shutil.copytree(whole[0], workdir)
    for step in ("20", "30", "40"):
        shutil.rmtree(workdir / "checkpoints" / step)

    limited = ("bash", "-c", 'ulimit -f 60 && exec "$@"', "-")  # KiB of a file
    said = bench.run(*STEPS, *HARD, f"--workdir={workdir}", status=1, prefix=limited)
    assert said.startswith("error: saving step 20 in "), "tracebacks of Orbax are in a file"
    assert "Step 10 is the last good one" in said and "at most 61,440 bytes here (ulimit -f): raise" in said
    assert "Traceback" in (workdir / "save_errors.txt").read_text()
    assert "resuming from step 10" in bench.run(*STEPS, *HARD, f"--workdir={workdir}")
    assert rows(workdir) == rows(whole[0])


def test_a_run_that_diverges_stops_with_the_batches(bench):
    workdir = bench.folder / "diverged"
    flags = ("--lr=1e30", "--warmup=0", "--steps=50", "--max_skips=4", "--clip=0", f"--workdir={workdir}")
    said = bench.run(*flags, status=1)
    assert "error: 4 steps in a row, batches " in said and "lower --lr in another --workdir" in said
    assert "loss or gradient is not finite, not applied (batch " in said


BAD = {
    "not JSON": (b'{"text": "fine"}\n{"text": \n', [], r"{file}:2"),
    "no such field": (b'{"text": "fine"}\n{"body": "x"}\n', [], r"{file}:2.*text"),
    "another field": (b'{"text": "fine"}\n', ["--text_field=body"], r"{file}:1.*body"),
    "invalid UTF-8": (b'{"text": "fine"}\n{"text": "\xff"}\n', [], r"{file}:2"),
    "an empty file": (b"", [], r"{file}"),
    "nothing to hold out": (b'{"text": "one"}\n', [], r"it has 1 document, and one must be held out"),
}


@pytest.mark.parametrize("kind", BAD)
def test_broken_data_is_named_and_leaves_no_half_made_run(bench, tmp_path, kind):
    content, flags, message = BAD[kind]
    (tmp_path / "a.jsonl").write_bytes(content)
    workdir = tmp_path / "run"
    with pytest.raises(ConfigError, match=f"(?s){message.format(file='a.jsonl')}"):
        bench.main(*flags, f"--workdir={workdir}", data=f"--data=jsonl:{tmp_path}/a.jsonl")
    assert not workdir.exists()


def test_a_corrected_command_can_use_the_name(bench, tmp_path):
    """An empty folder that was there stays, a run that has trained stays."""
    data, workdir = write(tmp_path / "a.jsonl", prose(9), field="body"), tmp_path / "run"
    workdir.mkdir()
    with pytest.raises(ConfigError, match=r"a\.jsonl:1"):
        bench.main(f"--workdir={workdir}", data=data)
    assert workdir.exists() and not any(workdir.iterdir())


def test_another_config_and_a_run_in_use_are_refused_and_untouched(bench, whole, tmp_path):
    import fcntl

    before = (whole[0] / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"another config:(.|\n)*--lr: 0.02 -> 0.5(.|\n)*another --workdir"):
        bench.main(*STEPS, *HARD, "--microbatches=1", "--lr=0.5", f"--workdir={whole[0]}")
    with open(whole[0] / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"is in use by .*name another --workdir"):
            bench.main(*STEPS, *HARD, "--microbatches=1", f"--workdir={whole[0]}")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty and is no run \(it holds notes.txt"):
        bench.main(*STEPS, f"--workdir={tmp_path}")
    assert (whole[0] / "config.json").read_bytes() == before and (
        tmp_path / "notes.txt"
    ).read_text() == "mine"


def test_a_command_that_cannot_be_has_status_2_and_one_line(bench, tmp_path):
    """Through the command line, past the import of jax."""
    said = bench.run("--batch_size=9", f"--workdir={tmp_path / 'run'}", status=2, devices=2)
    assert said == (
        "error: --batch_size=9 does not split over 2 devices x --microbatches=1: use a multiple of 2\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_step_that_the_parent_never_saved_is_refused(bench, whole):
    workdir = bench.folder / "none"
    with pytest.raises(ConfigError, match=r"has no step 7: choose one of 10, 20, 30, 40"):
        bench.main(f"--init_from={whole[0]}@7", f"--workdir={workdir}", small=CHILD)
    assert not workdir.exists()


@pytest.mark.slow
def test_a_run_that_trains_while_its_data_are_tokenised_resumes_to_the_same_bits(bench, tmp_path):
    """Killed, and without the cache that its first start wrote."""
    flags = ("--streaming", "--steps=24", "--checkpoint_every=8", "--log_every=3", "--keep=9", "--eval_every=0",
             "--sample_every=0", "--data_workers=1", write(tmp_path / "corpus.jsonl", prose(900)))  # fmt: skip
    runs = [bench.folder / name for name in ("streaming", "streaming-killed")]
    bench.run(*flags, f"--workdir={runs[0]}", f"--cache_dir={tmp_path / 'a'}")
    kill_after(bench.start(*flags, f"--workdir={runs[1]}", f"--cache_dir={tmp_path / 'b'}"), runs[1], 12)
    shutil.rmtree(tmp_path / "b" / "tokens")
    said = bench.run(*flags, f"--workdir={runs[1]}", f"--cache_dir={tmp_path / 'b'}")
    assert "resuming from step " in said
    assert rows(runs[0]) == rows(runs[1])
    wanted, found = arrays(runs[0], 24), arrays(runs[1], 24)
    assert all(np.array_equal(value, found[path]) for path, value in wanted.items())
    with pytest.raises(ConfigError, match="--streaming"):
        bench.main(*(flag for flag in flags if flag != "--streaming"), f"--workdir={runs[0]}")
