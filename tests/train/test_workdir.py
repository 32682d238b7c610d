"""The workdir: one owner, one config, and a record of where the run came from."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtrain import config as configs
from jaxtrain import flags
from jaxtrain.config import ConfigError
from jaxtrain.train import workdir
from jaxtrain.train.workdir import open_workdir, read_run, record_data, split_step


@dataclasses.dataclass(frozen=True)
class Config:
    model: configs.Model = dataclasses.field(default_factory=configs.Model)
    optim: configs.Optim = dataclasses.field(default_factory=configs.Optim)
    run: configs.Run = dataclasses.field(default_factory=configs.Run)


def changed(**given) -> Config:
    return flags.from_flags(Config, [f"--{name}={value}" for name, value in given.items()])


def start(path: Path, config: Config | None = None, stage: str = "pretrain", **more) -> dict:
    with open_workdir(path, config or Config(), stage, **more) as workdir:
        return read_run(workdir)


def test_the_record_holds_what_reproduces_the_run(tmp_path):
    parent = {"init_from": "runs/pretrain", "step": 500}
    held = start(tmp_path / "new" / "run", changed(lr=0.5), data={"a.jsonl": "f00"}, lineage=parent)
    assert held["stage"] == "pretrain" and held["parent"] == parent and held["data"] == {"a.jsonl": "f00"}
    assert flags.from_dict(Config, held["config"]) == changed(lr=0.5)
    assert {"python", "jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets"} <= {
        *held["versions"]
    }
    assert held["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert shlex.split(held["command"])[1:] == sys.orig_argv[1:] and held["started"].endswith("+00:00")
    repository = Path(__file__).parents[2]
    if (repository / ".git").exists():
        asked = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True)
        assert held["git"]["commit"] == asked.stdout.strip() and held["git"]["dirty"] in (True, False)


def test_the_same_config_resumes_and_leaves_the_record_alone(tmp_path):
    start(tmp_path / "run", data={"a": "1"})
    before = (tmp_path / "run" / "config.json").read_bytes()
    start(tmp_path / "run", data={"a": "1"})
    start(tmp_path / "run", changed(keep=7, log_every=3))
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_another_config_is_refused_with_its_difference(tmp_path):
    start(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigError) as error:
        start(tmp_path / "run", changed(lr=0.25, steps=70, keep=9), stage="sft")
    text = str(error.value)
    assert (
        "stage: pretrain -> sft" in text and "--lr: 0.004 -> 0.25" in text and "--steps: 1500 -> 70" in text
    )
    assert "keep" not in text and "another --workdir" in text and "delete this folder" in text
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_flag_that_is_newer_than_the_run_had_its_default(tmp_path):
    start(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    assert [part for part in record["config"].values() if part.pop("lr", None)]
    path.write_text(json.dumps({name: record[name] for name in record if name not in ("format", "sha256")}))
    start(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--lr: 0\.004 -> 0\.25"):
        start(tmp_path / "run", changed(lr=0.25))


def test_a_changed_record_is_refused_until_it_is_accepted(tmp_path):
    """A bit that turned, and an edit by hand: no run goes on from what it did not have."""
    start(tmp_path / "run")
    record_data(tmp_path / "run", {"a": "1"})
    workdir.record(tmp_path / "run", arch={"rope_theta": 10000.0})
    path, want = tmp_path / "run" / "config.json", read_run(tmp_path / "run")
    assert not {"format", "sha256"} & want.keys()
    whole = path.read_text()
    for damaged in (
        whole.replace("10000.0", "10001.0"),
        whole.replace('"arch"', '"arbh"'),
        whole[:-20],
        "",
        "[1]",
    ):
        path.write_text(damaged)
        for use in (read_run, lambda run: record_data(run, {"a": "1"}), start):
            with pytest.raises(
                ConfigError, match=r"config\.json (cannot be read: .*delete its fields|lacks stage)"
            ):
                use(tmp_path / "run")
        assert path.read_text() == damaged
    accepted = json.loads(whole.replace("10000.0", "500000.0"))
    del accepted["format"], accepted["sha256"]
    path.write_text(json.dumps(accepted))
    assert read_run(tmp_path / "run")["arch"] == {"rope_theta": 500000.0}
    workdir.record(tmp_path / "run", branch="x")
    assert json.loads(path.read_text()).keys() >= {"format", "sha256", "branch"}, "and has a checksum again"


def test_other_data_is_refused_with_its_difference(tmp_path):
    start(tmp_path / "run")
    assert read_run(tmp_path / "run")["data"] is None
    record_data(tmp_path / "run", {"a": "1", "b": "2"})
    record_data(tmp_path / "run", {"b": "2", "a": "1"})
    with pytest.raises(
        ConfigError, match=r"(?s)the data changed.*a: 1 -> 9\n.*b: 2 -> \(none\)\n.*c: \(none\) -> 3"
    ):
        start(tmp_path / "run", data={"a": "9", "c": "3"})
    assert read_run(tmp_path / "run")["data"] == {"a": "1", "b": "2"}


def test_a_start_with_other_versions_or_command_is_noted(tmp_path, monkeypatch):
    start(tmp_path / "run")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.pretrain", "--keep=3 4"])
    for _ in range(2):
        held = start(tmp_path / "run")
    assert len(held["resumed"]) == 1
    assert held["resumed"][0]["command"].endswith("-m experiments.pretrain '--keep=3 4'")
    assert held["resumed"][0]["command"] != held["command"]


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_workdir import Config, open_workdir
with open_workdir(Path(sys.argv[1]), Config(), "pretrain"):
    print("held", flush=True)
    time.sleep(20)
"""


def test_a_workdir_has_one_owner_until_it_dies(tmp_path):
    """A second process is refused by name, kill -9 frees the lock, and so does a normal end."""
    ask = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), str(Path(__file__).parent)]
    with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        before = (tmp_path / "run" / "config.json").read_bytes()
        with pytest.raises(
            ConfigError, match=rf"in use by process {holder.pid} on {os.uname().nodename}, since 2"
        ):
            start(tmp_path / "run")
        with open_workdir(tmp_path / "run", Config(), "pretrain", primary=False) as shared:
            assert shared == tmp_path / "run", "the other processes of a run do not lock"
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    start(tmp_path / "run")
    refused = pytest.raises(ConfigError, match=f"in use by process {os.getpid()}")
    with open_workdir(tmp_path / "run", Config(), "pretrain"), refused:
        start(tmp_path / "run")
    start(tmp_path / "run")


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--workdir=.*file/run cannot be used: Not a directory"):
        start(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match=r"--workdir=.*file cannot be used: File exists"):
        start(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"--workdir=/proc/nothing cannot be used"):
        start(Path("/proc/nothing"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match=r"--workdir=.*run cannot be used: Permission denied"):
        start(tmp_path / "run")


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"not empty and is no run \(it holds thesis.tex, no config.json\)"):
        start(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_start_left_that_was_killed_is_taken_over(tmp_path):
    (tmp_path / "lock").write_text("process 1 on elsewhere, since 2020\n")
    (tmp_path / "config.json.tmp").write_text('{"sta')
    assert start(tmp_path)["stage"] == "pretrain"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.json", "lock"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"--init_from=.* is not a run: it has no config.json"),
        (b'{"stage": "pre', r"--init_from=.*config.json cannot be read"),
        (b"\xff\xfe", r"--init_from=.*config.json cannot be read"),
        (b"[]", r"--init_from=.*config.json lacks stage, config, data, resumed"),
        (b'{"stage": "x", "config": {}}', r"--init_from=.*config.json lacks data, resumed"),
    ],
)
def test_what_is_no_run_cannot_be_a_parent(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_run(tmp_path)
    with pytest.raises(ConfigError, match="there is no such folder"):
        read_run(tmp_path / "nowhere")


def test_a_broken_record_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text('{"stage": "pre')
    with pytest.raises(ConfigError, match=r"--workdir=.*config.json cannot be read"):
        start(tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"stage": "pre'


def test_a_step_of_another_run(tmp_path, monkeypatch):
    assert split_step("runs/a@500") == (Path("runs/a"), 500)
    assert split_step("runs/a") == (Path("runs/a"), None)
    assert split_step("runs/a@b") == (Path("runs/a@b"), None)
    assert split_step("~/a@5") == (Path.home() / "a", 5)
    monkeypatch.chdir(tmp_path)
    Path("v@2").mkdir()
    assert split_step("v@2") == (Path("v@2"), None)


def test_it_is_fast_and_without_jax():
    """A changed flag must be refused before jax is loaded."""
    script = "import sys, jaxtrain.train.workdir; print('jax' in sys.modules, 'numpy' in sys.modules)"
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n" and time.monotonic() - begun < 10
