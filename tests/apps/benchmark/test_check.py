"""The whole check with parts that need nothing, and each part of the real one at tiny size (slow)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxtrain.apps.benchmark import check, process
from jaxtrain.apps.benchmark.config import GpuCheck
from jaxtrain.apps.benchmark.parts import PARTS, Part
from jaxtrain.config import ConfigError

ROOT = Path(__file__).parents[3]


def jobs(**parts):
    """Parts of tests/apps/benchmark/jobs.py: how they end, their least and most seconds."""
    return {
        name: Part(name, "tests.apps.benchmark.jobs", "work", (how,), least, most)
        for name, (how, least, most) in parts.items()
    }


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "GRACE", 0.2)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")  # the parts here do not import jax

    def run(seconds, **parts):
        for table in (check, sys.modules["jaxtrain.apps.benchmark.config"]):
            monkeypatch.setattr(table, "PARTS", jobs(**parts))
        out, said = tmp_path / "r.json", []
        cfg = GpuCheck(out=str(out), page="", seconds=seconds, compiled="")
        check.run(cfg, said.append)
        return json.loads(out.read_text())["parts"], said

    return run


def test_each_part_has_its_own_end_and_the_others_go_on(run):
    parts, said = run(
        60, a=("", 1, 20), b=("exit", 1, 20), c=("shortened", 1, 20), d=("sleep", 1, 1), e=("left out", 1, 20)
    )
    ends = [parts[name]["status"] for name in "abcde"]
    assert ends == ["complete", "failed", "shortened", "stopped", "left out"]
    assert not any(parts[name]["results"]["seconds"]["tiny"] for name in "abcde")
    assert parts["a"]["results"]["seconds"]["given"] == 20 and parts["d"]["seconds"] < 10
    assert any(line.startswith("b: failed after") and "status 7" in line for line in said)


def test_a_part_for_which_too_little_time_is_left_is_left_out(run):
    parts, said = run(10, a=("", 1, 5), b=("", 11, 20), c=("", 1, 20))
    assert [parts[name]["status"] for name in "abc"] == ["complete", "left out", "complete"]
    assert "it takes 11 or more" in parts["b"]["note"] and any(
        line.startswith("b: left out") for line in said
    )
    assert parts["c"]["results"]["seconds"]["given"] < 10  # what is left, not what it may have


def test_an_interrupted_check_leaves_what_there_was(run, monkeypatch, tmp_path):
    def interrupted(record):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "brief", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(30, a=("", 1, 20), b=("", 1, 20))
    parts = json.loads((tmp_path / "r.json").read_text())["parts"]
    assert list(parts) == ["a"] and parts["a"]["results"]["seconds"]["given"] == 20
    assert (parts["a"]["status"], parts["a"]["note"]) == ("stopped", "interrupted")


def test_xla_s_flags_are_a_part_s_own(monkeypatch):
    env = []
    monkeypatch.setattr(check, "PartProcess", lambda module, function, given: env.append(given))
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    for name in ("decode", "decode_graphs"):
        check._start(PARTS[name], GpuCheck(out="x", page="", compiled="~/c"))
    assert [each["XLA_FLAGS"] for each in env] == ["--a=1", f"--a=1 {PARTS['decode_graphs'].xla_flags}"]
    assert env[0]["JAX_COMPILATION_CACHE_DIR"] == str(Path("~/c/compiled").expanduser())


def test_a_cpu_is_refused_for_the_sizes_of_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(ConfigError, match="--tiny"):
        check.run(GpuCheck(out=str(tmp_path / "r.json"), page=""), print)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_part_runs_at_tiny_size(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- gpu_check: begin -->\n<!-- gpu_check: end -->\n")
    flags = ["--tiny", f"--out={tmp_path / 'r.json'}", f"--page={page}", "--seconds=900", "--compiled="]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-m", "experiments.gpu_check", *flags]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "r.json").read_text())["parts"]
    assert list(parts) == list(PARTS)
    left_out = {name for name, part in parts.items() if part["status"] != "complete"}
    assert left_out <= {"torch_pretrain", "torch_decode"}
    assert page.read_text().count("| right |") >= 8
