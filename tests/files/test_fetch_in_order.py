"""Files of a bucket that are read in order: what is fetched when, and that nothing stays."""

import subprocess
import sys

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import fetch_in_order, paths
from tests import buckets


@pytest.fixture(scope="module")
def bucket():
    with buckets.gcs() as environment, buckets.in_process(environment):
        yield paths.parse(f"gs://{buckets.BUCKET}", "data")


@pytest.fixture
def files(bucket):
    for name in "abc":
        (bucket / "order" / f"{name}.jsonl").write_text(name)
    return [bucket / "order" / f"{name}.jsonl" for name in "abc"]


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("ahead", [True, False])
def test_each_file_is_there_while_it_is_read_and_none_afterwards(files, tmp_path, ahead):
    contents, names = [], []
    for copy in fetch_in_order.in_order(files, "--data=x", tmp_path, ahead=ahead):
        contents.append(copy.read_text())
        names.append(copy.name)
        assert len(list(tmp_path.rglob("*.jsonl"))) <= 1 + ahead
    assert contents == ["a", "b", "c"] and names == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert left(tmp_path) == ["remote"]


def test_without_ahead_nothing_is_fetched_that_is_not_taken(files, tmp_path, monkeypatch):
    fetched, real = [], fetch_in_order._download
    monkeypatch.setattr(fetch_in_order, "_download", lambda a, b: (fetched.append(a), real(a, b)))
    copies = fetch_in_order.in_order(files, "--data=x", tmp_path, ahead=False)
    assert next(copies).read_text() == "a"
    copies.close()
    assert fetched == files[:1] and left(tmp_path) == ["remote"]


def test_files_of_this_machine_are_themselves(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    assert list(fetch_in_order.in_order(files, "--data=x", tmp_path)) == files and left(tmp_path) == []


KILLED = """
import os, sys
from pathlib import Path
from jaxtrain.files import fetch_in_order
with fetch_in_order._own_folder(Path(sys.argv[1])) as work:
    (work / "half").write_text("half")
    os._exit(9)
"""


def test_what_a_killed_process_left_goes_and_what_another_one_reads_stays(files, tmp_path):
    folder = tmp_path / "remote"
    folder.mkdir()
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder)]).returncode == 9
    assert [path.name for path in folder.rglob("half")] == ["half"]
    first = fetch_in_order.in_order(files, "--data=x", tmp_path)
    copy = next(first)
    assert not list(folder.rglob("half"))
    assert [one.read_text() for one in fetch_in_order.in_order(files, "--data=x", tmp_path)] == [
        "a",
        "b",
        "c",
    ]
    assert copy.read_text() == "a"
    assert [one.read_text() for one in first] == ["b", "c"] and left(tmp_path) == ["remote"]


def test_a_file_system_without_locks_keeps_what_was_left(files, tmp_path, monkeypatch):
    folder = tmp_path / "remote"
    folder.mkdir()
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder)]).returncode == 9
    monkeypatch.setattr(
        fetch_in_order.fcntl, "flock", lambda *args: (_ for _ in ()).throw(OSError(37, "no locks"))
    )
    assert [one.read_text() for one in fetch_in_order.in_order(files, "--data=x", tmp_path)] == [
        "a",
        "b",
        "c",
    ]
    assert [path.name for path in folder.rglob("half")] == ["half"]


def test_a_file_that_is_gone_is_named(files, bucket, tmp_path):
    copies = fetch_in_order.in_order([files[0], bucket / "order" / "gone"], "--data=x", tmp_path)
    with pytest.raises(ConfigError, match=r"--data=x: gs://bucket/order/gone: there is no such file"):
        list(copies)
    assert left(tmp_path) == ["remote"]
