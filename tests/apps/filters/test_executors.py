"""The executors: kills, a full disk, and Ray and Slurm give the result of local processes."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtrain.apps.filters import executors, plan, run
from jaxtrain.config import ConfigError
from jaxtrain.data import filtered
from tests.apps.filters import filtering
from tests.apps.filters.filtering import QUIET
from tests.data.corpus import prose, text


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_later(tmp_path):
    source = filtering.source(tmp_path, [text(i) * 40 for i in range(60)])
    opened = plan.open_run(filtering.config(source, tmp_path / "out", "--shard=20", *QUIET))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(
            ConfigError, match=r"--out: no space left while writing .*check.*Nothing half-written"
        ):
            executors.execute(opened)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not run.is_done(opened, "check", 0)
    report, kept, _ = filtering.run(source, tmp_path / "out", "--shard=20", *QUIET)
    assert report["read"] == 60 == len(kept)


def _start(tmp_path, source, out, *more):
    command = [
        sys.executable, "-P", "-m", "experiments.filter_data", f"--data={source}", f"--out={out}",
        f"--cache_dir={tmp_path / 'cache'}", *more,
    ]  # fmt: skip
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found]


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_kill_9_in_mid_shard(tmp_path, victim):
    source, flags = prose(tmp_path / "a.jsonl", 12_000), ("--shard=300", "--workers=2")
    out = tmp_path / "out"
    with _start(tmp_path, source, out, *flags) as process:
        until = time.monotonic() + 120
        while sum(run_dir.is_dir() for run_dir in out.glob("work/check/0*")) < 2:
            assert time.monotonic() < until and process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        workers = _children(process.pid)
        if victim == "worker":
            at_work = [pid for pid in workers if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(at_work[0], signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    if victim == "worker":
        assert process.returncode == 1 and b"the same command resumes it" in said, said
    until = time.monotonic() + 30
    while any(map(_alive, workers)):
        assert time.monotonic() < until, "the workers outlive their parent"
        time.sleep(0.1)
    assert filtered.read_report(out) is None
    with _start(tmp_path, source, out, *flags) as process:
        said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    report, kept, lines = filtering.read_result(out)
    assert report["read"] == 12_000
    whole = filtering.run(source, tmp_path / "whole", "--shard=300")
    assert (kept, lines) == whole[1:]


@pytest.mark.slow
def test_ray_does_the_same(tmp_path):
    pytest.importorskip("ray")
    pytest.importorskip("datatrove")
    source = prose(tmp_path / "a.jsonl", 900)
    whole = filtering.run(source, tmp_path / "whole", "--shard=200")
    with _start(
        tmp_path, source, tmp_path / "out", "--shard=200", "--executor=ray", "--workers=2"
    ) as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, (out + err).decode()
    assert filtering.read_result(tmp_path / "out")[1:] == whole[1:]


@pytest.mark.slow
def test_slurm_scripts_run_each_phase_after_the_one_before(tmp_path, monkeypatch):
    pytest.importorskip("datatrove")
    programs, asked = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    # A scheduler of one machine: it runs the tasks of a job at once, in order, and prints the job's number.
    (programs / "sbatch").write_text(
        f"""#!/bin/bash
for last; do :; done
cat "$last" >> {asked}; echo "## $*" >> {asked}
n=$(ls {tmp_path}/jobs 2>/dev/null | wc -l); mkdir -p {tmp_path}/jobs; touch {tmp_path}/jobs/$n
tasks=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$last")
export SLURM_NODELIST=here
for i in $(seq 0 "$tasks"); do SLURM_ARRAY_TASK_ID=$i bash "$last" >> {tmp_path}/log 2>&1 || exit 1; done
echo "Submitted batch job $((1000 + n))"
"""
    )
    (programs / "srun").write_text('#!/bin/bash\nshift 3\nexec "$@"\n')
    (programs / "scontrol").write_text("#!/bin/bash\necho here\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    source = prose(tmp_path / "a.jsonl", 300)
    whole = filtering.run(source, tmp_path / "whole", "--shard=100")
    flags = ("--shard=100", "--executor=slurm", "--slurm_partition=cpu", "--slurm_time=01:00:00")
    with _start(tmp_path, source, tmp_path / "out", *flags) as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, (out + err).decode()
    script = asked.read_text()
    for line in (
        "--partition=cpu",
        "--time=01:00:00",
        "--mem-per-cpu=4G",
        "--array=0-2",
        "--job-name=filter-check",
    ):
        assert f"#SBATCH {line}" in script
    assert "--dependency=afterok:1000" in script
    log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    assert filtering.read_result(tmp_path / "out")[1:] == whole[1:], log[-2000:]
