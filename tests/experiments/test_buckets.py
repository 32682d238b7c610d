"""Commands whose files are in buckets: gs:// and s3:// of servers on this machine."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import mirror, paths
from jaxtrain.train import bucket_lock, workdir
from tests import buckets
from tests.experiments.test_two_processes import CHILD
from tests.runs import ROOT, SMALL, Bench, call, in_two_processes, prose, quick, rows, same_arrays, write

HERE = f"gs://{buckets.BUCKET}"
PACKAGES = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
STEPS = (
    "--steps=8",
    "--checkpoint_every=2",
    "--log_every=1",
    "--sample_every=0",
    "--eval_every=4",
    "--warmup=1",
)


@pytest.fixture(scope="module")
def bucket():
    with buckets.gcs() as environment:
        yield environment


@pytest.fixture(scope="module")
def whole(bench):
    """A run on this machine's disk, whose like those in buckets must be."""
    bench.main(*STEPS, f"--workdir={bench.folder / 'plain'}")
    return bench.folder / "plain"


def fetched(url, folder):
    """A run of a bucket, copied to this machine."""
    return paths.local_copy(paths.parse(url, "workdir"), url, folder)


def test_a_run_in_a_bucket_goes_on_to_the_same_bits(bench, whole, bucket, tmp_path, monkeypatch):
    """The second start finds what kill -9 leaves: a lock, half a checkpoint, metrics up to the last upload."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bucket_lock, "DEAD_AFTER", 0.3)
    monkeypatch.setattr(bucket_lock, "SETTLES_WITHIN", 0.1)
    monkeypatch.setattr(mirror, "UPLOAD_EVERY", 0.2)
    best = "--keep_best=eval/loss:max"  # of the first evaluation
    with buckets.in_process(bucket):
        url = f"{HERE}/runs/a"
        said = bench.main(*STEPS, best, f"--workdir={url}")
        run = paths.parse(url, "workdir")
        assert f"{url}/checkpoints/8" in said and not (run / "lock").exists()
        assert {"config.json", "metrics.jsonl", "tokenizer", "samples", "tensorboard"} <= {
            p.name for p in run.iterdir()
        }
        assert workdir.saved_steps(run / "checkpoints") == [4, 6, 8]
        (run / "checkpoints" / "8" / workdir.COMMITTED).unlink()
        (run / "lock").write_text("process 1 on here, 00000000\n3\n")
        assert workdir.newest_step(run) == 6
        said = bench.main(*STEPS, best, f"--workdir={url}")
        assert "is locked by process 1 on here" in said and "resuming from step 6 of 8" in said
        assert workdir.split_step(f"{url}@best") == (run, 4) and workdir.newest_step(run) == 8
        copy = fetched(url, tmp_path / "copies")
    assert rows(copy) == rows(whole)
    same_arrays(copy, whole, 8)
    assert not (tmp_path / "gs:").exists()


NOWHERE = {  # a flag that names a bucket which is not there -> the other flags that its command needs
    "pretrain --workdir=gs://none/a": "",
    "pretrain --init_from=gs://none/a@3": "",
    "pretrain --init_from=hf:gs://none/a": "",
    "pretrain --data=jsonl:gs://none/*.jsonl": "",
    "pretrain --data=tfds:gs://none/set/1.0.0": "",
    "pretrain --data=filtered:gs://none/kept": "",
    "pretrain --eval_data=jsonl:gs://none/a.jsonl": "",
    "pretrain --tokenizer=gs://none/tokenizer.json": "",
    "sft --template=gs://none/a.jinja": "--init_from=RUN",
    "sft --prompts=jsonl:gs://none/a.jsonl": "--init_from=RUN --seq_len=32 --data=tinytown:sft?documents=96",
    "ppo --reward_model=gs://none/a": "--init_from=RUN --data=tinytown:prompts?documents=64 --seq_len=64 --workdir=NEW",
    "distill --teacher=gs://none/a": "--init_from=RUN --seq_len=32",
    "sample --init_from=gs://none/a": "--prompt=x",
    "sample --out=gs://none/a.jsonl": "--init_from=RUN --prompts=tinytown:prompts:test",
    "sample --prompts=jsonl:gs://none/a": "--init_from=RUN --out=NEW.jsonl",
    "export --to=hf:gs://none/a": "--init_from=RUN",
    "serve --model=gs://none/a": "--store=",
    "evaluate --models=gs://none/a": "--out=NEW",
}


@pytest.mark.parametrize("case", NOWHERE)
def test_a_bucket_that_is_not_there_is_refused(case, whole, bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage, flag = case.split()
    others = NOWHERE[case].replace("RUN", str(whole)).replace("NEW", str(tmp_path / "new")).split()
    with (
        buckets.in_process(bucket),
        quick(),
        pytest.raises(ConfigError, match="there is no bucket none; create it") as e,
    ):
        call(
            stage,
            flag,
            f"--cache_dir={tmp_path / 'cache'}" if stage != "export" else "--dtype=float32",
            *others,
        )
    assert str(e.value).startswith(flag.partition("=")[0])
    assert not list(tmp_path.glob("*:"))


@pytest.fixture(params=["gs", "s3"])
def store(request, bucket, tmp_path):
    """(scheme, environment) of a bucket of each protocol."""
    if request.param == "gs":
        yield request.param, bucket
        return
    with buckets.s3(tmp_path) as environment:
        yield request.param, environment


@pytest.mark.slow
def test_every_file_of_a_stage_may_be_in_a_bucket(store, whole, tmp_path, monkeypatch):
    """A run is killed and goes on; another starts from it; samples, exports and data."""
    scheme, environment = store
    environment = environment | PACKAGES
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    here, one = f"{scheme}://{buckets.BUCKET}", Bench(tmp_path)
    with buckets.in_process(environment):
        data = paths.parse(f"{here}/data", "data")
        (data / "a.jsonl").write_text((tmp_path / "corpus.jsonl").read_text())
        corpus = f"--data=jsonl:{here}/data/*.jsonl"
        killed = (
            *STEPS,
            "--steps=120",
            "--checkpoint_every=30",
            "--eval_every=0",
            f"--workdir={here}/runs/a",
        )
        with one.start(*killed, data=corpus, env=environment.items()) as process:
            for line in process.stdout:
                if (step := re.match(r"step (\d+)/", line)) and int(step[1]) > 60:  # that of 30 is saved
                    process.kill()
        assert process.returncode == -signal.SIGKILL
        said = one.run(*killed, data=corpus, env=environment.items())
        assert "taken over" in said and "resuming from step " in said and "resuming from step 0 " not in said
        plain = one.folder / "plain"
        one.run(*killed[:-1], f"--workdir={plain}", data=corpus, env=environment.items())
        copy = fetched(f"{here}/runs/a", tmp_path / "copies")
        assert rows(copy) == rows(plain)
        same_arrays(copy, plain, 120)

        short = (
            "--seq_len=32",
            "--batch_size=8",
            "--warmup=1",
            "--steps=2",
            "--prompt_count=2",
            "--max_new=4",
        )
        dialogs = "--data=tinytown:sft?documents=96&held_out=24"
        flags = (f"--init_from={here}/runs/a@90", f"--workdir={here}/runs/sft")
        one.run(*flags, stage="sft", data=dialogs, small=short, env=environment.items())
        record = workdir.read_run(paths.parse(f"{here}/runs/sft", "init_from"))
        assert record["parent"]["origin"] == f"{here}/runs/a@90"
        run = dict(env=environment, cwd=tmp_path)
        command(f"export --init_from={here}/runs/sft --to=hf:{here}/exported", **run)
        answers = f"--prompts=tinytown:prompts:test --prompt_count=3 --max_new=4 {one.cache}"
        for name, start in (("a", f"{here}/runs/sft"), ("b", f"hf:{here}/exported")):
            command(
                f"sample --init_from={start} --out={here}/out/{name}.jsonl --temperature=0 {answers}", **run
            )
        texts = [(paths.parse(f"{here}/out/{name}.jsonl", "out")).read_text() for name in "ab"]
        assert texts[0] == texts[1] and texts[0].count("\n") == 3
    assert not list(tmp_path.glob("*:"))


def command(line, env, cwd):
    name, *flags = line.split()
    environment = {
        **os.environ,
        **env,
    }
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *flags],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_write_one_run(bench, whole, bucket, tmp_path):
    flags = [write(tmp_path / "corpus.jsonl", prose(300)), bench.cache, *SMALL, *STEPS]
    url, commands = f"{HERE}/runs/two", tmp_path / "commands.json"
    commands.write_text(json.dumps([("pretrain", [*flags, "--mesh=fsdp:4", f"--workdir={url}"])]))
    in_two_processes(CHILD, commands, **bucket, **PACKAGES)
    with buckets.in_process(bucket):
        copy = fetched(url, tmp_path / "copies")
    for a, b in zip(rows(whole), rows(copy), strict=True):
        assert a.keys() == b.keys() and a["loss" if "loss" in a else "eval/loss"] == pytest.approx(
            b["loss" if "loss" in b else "eval/loss"], rel=1e-4
        )
    assert workdir.saved_steps(copy / "checkpoints") == [6, 8]
