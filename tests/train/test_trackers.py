"""--track: the packages' own offline modes where they are installed, and what is done with a tracker that fails."""

import importlib.util
import sqlite3
from types import SimpleNamespace

import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.train import trackers
from jaxtrain.train.trackers import Tracker, TrackerWriter
from tests.apps.serve.conftest import eventually

LINES = [
    (10, {"loss": 2.5, "lr": 0.1, "tokens_per_s": 7.0}),
    (10, {"eval/loss": 3.5, "eval/bits_per_byte": float("nan")}),
    (20, {"loss": 1.5, "lr": 0.1}),
]
RECORD = {
    "stage": "sft", "started": "2026-01-01T00:00:00+00:00", "config": {"optim": {"lr": 0.1}, "run": {"steps": 20}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "sft").mkdir()
    return trackers.tracked_run(tmp_path / "sft", RECORD)


def installed(name, *more):
    there = all(importlib.util.find_spec(one) for one in (name, *more))
    return pytest.mark.skipif(not there, reason=f"{name} is not installed")


def send(name, run, lines=LINES):
    writer = TrackerWriter([name], run)
    writer.open()
    for step, values in lines:
        writer.write(step, values)
    writer.text(20, "samples", "Q▸A <b>")
    writer.close()
    return writer


def scripted(calls, fail=""):
    def act(kind):
        def call(*args):
            if kind == fail:
                raise RuntimeError("the server is down\nand more")
            calls.append((kind, *args))

        return call

    return Tracker(act("write"), act("text"), act("close"), "at home")


def test_lines_have_the_names_of_tensorboard(run, monkeypatch, capsys):
    calls = []
    monkeypatch.setitem(trackers._OPEN, "wandb", lambda run: scripted(calls))
    send("wandb", run)
    assert [call[:2] for call in calls] == [
        ("write", 10), ("write", 10), ("write", 20), ("text", 20), ("close",)
    ]  # fmt: skip
    assert calls[0][2] == {"train/loss": 2.5, "train/lr": 0.1, "time/tokens_per_s": 7.0}
    assert calls[1][2]["eval/loss"] == 3.5 and calls[3][2:] == ("samples", "Q▸A <b>")
    assert capsys.readouterr().err == "wandb: at home\n"


@pytest.mark.parametrize("fail", ["write", "text", "close"])
def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(run, monkeypatch, capsys, fail):
    bad, good = [], []
    monkeypatch.setitem(trackers._OPEN, "wandb", lambda run: scripted(bad, fail))
    monkeypatch.setitem(trackers._OPEN, "mlflow", lambda run: scripted(good))
    writer = TrackerWriter(["wandb", "mlflow"], run)
    writer.open()
    for step, values in LINES:
        writer.write(step, values)
    writer.text(20, "samples", "a")
    writer.close()
    assert len(good) == 5 and len(bad) == {"write": 0, "text": 3, "close": 4}[fail]
    said = capsys.readouterr().err
    assert said.count("wandb: the server is down; nothing more is sent to it") == 1 and "and more" not in said


def test_a_tracker_that_cannot_be_opened_is_named_once(run, monkeypatch, capsys):
    def closed(run):
        raise ConnectionError

    monkeypatch.setitem(trackers._OPEN, "mlflow", closed)
    send("mlflow", run)
    assert capsys.readouterr().err.count("mlflow: ConnectionError; nothing more is sent to it") == 1


def test_a_stop_is_no_failure_of_a_tracker(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(trackers._OPEN, "wandb", lambda run: Tracker(stop, stop, lambda: None, ""))
    with pytest.raises(KeyboardInterrupt):
        send("wandb", run)


def test_a_run_without_trackers_and_a_process_that_does_not_write_open_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers._OPEN, "wandb", pytest.fail)
    for names, primary in (((), True), (("wandb",), False)):
        with trackers.open_writer(names, tmp_path, primary) as writer:
            assert writer is None


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    trackers.require([])
    with pytest.raises(
        ConfigError, match=r"--track=trackio: needs the package trackio; .*'jaxtrain\[trackio\]'"
    ):
        trackers.require(["trackio"])


def test_mlflow_without_a_server_needs_a_database(monkeypatch):
    monkeypatch.setattr(
        trackers.importlib.util, "find_spec", lambda name: None if name == "sqlalchemy" else SimpleNamespace()
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    trackers.require(["mlflow"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match="needs the package sqlalchemy"):
        trackers.require(["mlflow"])


@pytest.mark.parametrize("text", ["wandb,", "tensorboard", "wandb,wanbd"])
def test_names_that_are_none(text):
    with pytest.raises(ConfigError, match=r"^--track=.*is none of wandb, trackio, mlflow"):
        config.Run(track=text)


def test_a_run_has_one_id_for_life(tmp_path, run):
    assert run == trackers.tracked_run(tmp_path / "sft", RECORD)
    assert run.flags == {"stage": "sft", "lr": 0.1, "steps": 20} and run.folder == tmp_path / "sft"
    again = trackers.tracked_run(tmp_path / "sft", {**RECORD, "started": "2026-01-02T00:00:00+00:00"})
    other = trackers.tracked_run(tmp_path / "other", RECORD)
    assert len({run.id, again.id, other.id}) == 3


@installed("wandb")
def test_wandb_without_a_key_writes_offline(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    send("wandb", run)
    (folder,) = (tmp_path / "sft" / "wandb").glob("offline-run-*")
    assert folder.name.endswith(run.id)
    said = capsys.readouterr().err
    assert said == f"wandb: no key, so that it is written offline: `wandb sync {folder}` sends it\n"
    data = next(folder.glob("*.wandb"))
    assert eventually(
        lambda: all(name in data.read_bytes() for name in (b"train/loss", b"eval/loss", b"2.5"))
    )


@installed("trackio")
def test_trackio_keeps_runs_on_this_machine(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    send("trackio", run)
    send("trackio", run, [(30, {"loss": 0.5, "lr": 0.1})])  # resumed
    assert "trackio show --project jaxtrain" in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "trackio" / "jaxtrain.db") as db:
        rows = db.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    db.close()
    assert [step for step, _ in rows] == [10, 10, 20, 20, 30, 20]
    assert b"train/loss" in rows[0][1] and b"eval/loss" in rows[1][1]


@installed("mlflow", "sqlalchemy")
@pytest.mark.filterwarnings("ignore:The ..noload.. loader")  # its own
def test_mlflow_without_a_server_has_a_database_beside_the_runs(run, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    send("mlflow", run)
    send("mlflow", run, [(30, {"loss": 0.5, "lr": 0.1})])  # resumed
    assert f"mlflow: run sft in sqlite:///{tmp_path}/mlflow.db\n" in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        runs = db.execute("SELECT name, status FROM runs").fetchall()
        losses = db.execute(
            "SELECT step, value FROM metrics WHERE key = 'train/loss' ORDER BY step"
        ).fetchall()
        params = dict(db.execute("SELECT key, value FROM params").fetchall())
        names = {name for (name,) in db.execute("SELECT DISTINCT key FROM metrics")}
    db.close()
    assert runs == [("sft", "FINISHED")] and losses == [(10, 2.5), (20, 1.5), (30, 0.5)]
    assert params == {"stage": "sft", "lr": "0.1", "steps": "20"}
    assert "eval/bits_per_byte" not in names, "not a number"
    (text,) = (tmp_path / "mlflow").rglob("20.txt")
    assert text.read_text(encoding="utf-8") == "Q▸A <b>"
