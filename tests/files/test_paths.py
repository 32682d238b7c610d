"""Paths of buckets, against a server of Google's protocol on this machine; and no path of a bucket becomes a folder."""

import json
import time
from pathlib import Path

import pytest

from jaxtrain.config import ConfigError, is_bucket_error, is_remote
from jaxtrain.files import atomic, paths
from tests import buckets


@pytest.fixture(scope="module")
def bucket():
    with buckets.gcs() as environment, buckets.in_process(environment):
        yield paths.parse(f"gs://{buckets.BUCKET}", "data")


def test_a_path_of_this_machine_is_pathlibs(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.parse("~/runs/a", "workdir") == Path("/home/someone/runs/a")
    assert paths.absolute(Path("a")) == Path.cwd() / "a"
    assert paths.local_copy(Path("a"), "--data") == Path("a") and not is_remote("runs/gs:/a")
    with paths.written(Path("a")) as folder:
        assert folder == Path("a")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(paths.BUCKETS, "s3", "no_such_package")
    with pytest.raises(
        ConfigError, match=r"--data=s3://other/a: s3:// needs .*pip install 'jaxtrain\[remote\]'"
    ):
        paths.parse("s3://other/a", "data")


def test_a_bucket_that_does_not_answer_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(paths, "FIRST_ANSWER_WITHIN", 0.05)
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(paths, "file_system", lambda path: time.sleep(5))
    with pytest.raises(
        ConfigError, match=r"--workdir=gs://silent/a: no answer in .* credentials: `gcloud auth"
    ):
        paths.parse("gs://silent/a", "workdir")


def test_a_bucket_that_is_not_there_is_refused(bucket):
    with pytest.raises(
        ConfigError, match="--workdir=gs://none/run: there is no bucket none; create it, or correct"
    ):
        paths.parse("gs://none/run", "workdir")
    with pytest.raises(ConfigError, match="--workdir=gs:///run: no bucket is named"):
        paths.parse("gs:///run", "workdir")


def test_versions_tell_contents_apart(bucket):
    files = [bucket / "told" / name for name in ("b", "a")]
    for file in files:
        file.write_text("one")
    (b, a), again = paths.versions(files), paths.versions(files)
    assert again == [b, a] and b != a and (b[0], a[0]) == (3, 3)
    files[1].write_text("two")
    assert paths.versions(files)[0] == b and paths.versions(files)[1] != a
    with pytest.raises(ConfigError, match="gs://bucket/told/none: there is no such file any more"):
        paths.versions([*files, bucket / "told" / "none"])


def test_a_file_is_written_whole_or_not_at_all(bucket):
    file = bucket / "atomic" / "a.txt"
    atomic.write_text(file, "one")
    with pytest.raises(RuntimeError), atomic.replacing(file, "w") as half:
        half.write("two")
        raise RuntimeError
    assert file.read_text() == "one" and [one.name for one in file.parent.iterdir()] == ["a.txt"]
    assert paths.absolute(file) == file and str(file) == f"gs://{buckets.BUCKET}/atomic/a.txt"


def test_a_copy_is_fetched_once_and_again_after_a_change(bucket, tmp_path):
    (bucket / "copied" / "sub" / "b.json").write_text("{}")
    (bucket / "copied" / "a.txt").write_text("one")
    first = paths.local_copy(bucket / "copied", "--data", tmp_path)
    assert (first / "a.txt").read_text() == "one" and (first / "sub" / "b.json").read_text() == "{}"
    assert paths.local_copy(bucket / "copied", "--data", tmp_path) == first
    (bucket / "copied" / "a.txt").write_text("two")
    second = paths.local_copy(bucket / "copied", "--data", tmp_path)
    assert second != first and (second / "a.txt").read_text() == "two"
    some = paths.local_copy(bucket / "copied", "--data", tmp_path, names=("*.json",))
    assert [file.name for file in some.rglob("*.*")] == ["b.json"]
    alone = paths.local_copy(bucket / "copied" / "a.txt", "--data", tmp_path)
    assert alone.name == "a.txt" and alone.read_text() == "two"
    with pytest.raises(ConfigError, match="--data=x: there is no such file or folder"):
        paths.local_copy(bucket / "nothing", "--data=x", tmp_path)


def test_files_that_match_a_pattern_are_sorted_and_fetched(bucket, tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt", "sub/d.jsonl"):
        (bucket / "many" / name).write_text(name)
    found = paths.matches(f"{bucket}/many/*.jsonl", "data")
    assert found == [f"{bucket}/many/a.jsonl", f"{bucket}/many/b.jsonl"]
    assert paths.matches(f"{bucket}/none/*", "data") == []
    files = [paths.parse(one, "data") for one in found]
    copies = paths.local_copies(files, "--data", tmp_path)
    assert [copy.read_text() for copy in copies] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(ConfigError, match=f"^{files[1]}:3: broken$"), paths.named(copies, files):
        raise ConfigError(f"{copies[1]}:3: broken")


def test_a_folder_is_uploaded_when_it_is_written(bucket):
    with paths.written(bucket / "made") as folder:
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.json").write_text(json.dumps([1]))
        assert not (bucket / "made").exists()
    assert json.loads((bucket / "made" / "sub" / "a.json").read_text()) == [1]
    paths.remove_tree(bucket / "made")
    assert not (bucket / "made").exists()


def test_errors_of_the_network_are_known():
    aiohttp = pytest.importorskip("aiohttp")
    assert is_bucket_error(aiohttp.ClientPayloadError()) and not is_bucket_error(KeyError())
    said = "--data=x: ClientPayloadError; the same command goes on from there"
    with pytest.raises(paths.Failure, match=said), paths.explained("--data=x"):
        raise aiohttp.ClientPayloadError
