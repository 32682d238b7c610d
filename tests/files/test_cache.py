"""The cache: whole or not there, whatever happens to the process that writes it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxtrain.config import Corpus, Dialogs
from jaxtrain.data import chat, dialogs, pipeline, preferences, tokenizer
from jaxtrain.files import cache, checksums
from tests.data.corpus import prose

RUN = """
import json, sys
from jaxtrain.config import Corpus
from jaxtrain.data import pipeline
made = pipeline.prepare(Corpus(**json.loads(sys.argv[1])), seed=0)
print(made.fingerprints["data"], made.train.batch(3)["tokens"].sum())
"""
KILLED = (
    """
import os, signal, sys
stage, event, word = sys.argv[2:]
def hook(name, args):
    if name == event and f"/{stage}/." in str(args[0]) and word in str(args[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
    + RUN
)
LIMITED = (
    """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import jaxtrain.data.pipeline, grain, tensorflow_datasets
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
"""
    + RUN
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return prose(tmp_path_factory.mktemp("source") / "a.jsonl", 1500)


@pytest.fixture
def cfg(tmp_path, source):
    return Corpus(data=source, tokenizer="bpe:500", seq_len=64, cache_dir=str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("clean")
    return batches(Corpus(data=source, tokenizer="bpe:500", seq_len=64, cache_dir=str(folder)))


def start(cfg, code=RUN, *rest):
    command = [sys.executable, "-c", code, json.dumps(dataclasses.asdict(cfg)), *map(str, rest)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def batches(cfg):
    made = pipeline.prepare(cfg, seed=0)
    return made.fingerprints, [made.train.batch(i) for i in range(4)] + [made.eval.batch(0)]


@pytest.mark.parametrize(
    ("stage", "event", "word"),
    [
        ("records", "open", "dataset_info.json"),
        ("tokenizers", "open", "special_tokens.json"),
        ("tokens", "os.rename", ".tmp-"),
    ],
)
def test_a_process_killed_while_it_writes_leaves_nothing_that_is_taken_as_whole(
    cfg, clean, tmp_path, stage, event, word
):
    """The process is killed when it opens a file half-way, or renames the whole at the end."""
    folder = tmp_path / "cache" / stage
    _, err = (process := start(cfg, KILLED, stage, event, word)).communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert any(".tmp-" in name for name in os.listdir(folder))
    assert all(name.startswith(".") for name in os.listdir(folder))
    rebuilt = batches(cfg)
    assert rebuilt[0] == clean[0]
    for a, b in zip(rebuilt[1], clean[1], strict=True):
        assert all((a[name] == b[name]).all() for name in b)
    assert not any(".tmp-" in name for name in os.listdir(folder)), "what was left is removed"


def test_two_processes_at_once_build_once_and_agree(cfg, tmp_path):
    ends = [(*process.communicate(), process.returncode) for process in [start(cfg), start(cfg)]]
    assert [code for _, _, code in ends] == [0, 0], ends
    assert ends[0][0] == ends[1][0]
    for stage, count in (("records", 1), ("tokenizers", 1), ("tokens", 2)):
        names = [name for name in os.listdir(tmp_path / "cache" / stage) if not name.endswith(".lock")]
        assert len(names) == count and not any(".tmp-" in name for name in names)


@pytest.mark.parametrize("limit", [1_000, 100_000])
def test_a_full_disk_is_a_clear_error_and_loses_nothing(cfg, tmp_path, limit):
    """A limit on the size of files stands for the disk: the same errors come out of the same writes."""
    cfg = dataclasses.replace(cfg, tokenizer="byte" if limit > 1_000 else "bpe:500")
    out, err = (process := start(cfg, "import sys\n" + LIMITED, limit)).communicate()
    assert process.returncode == 1 and not out
    assert (
        "ConfigError: --cache_dir: no space left while writing" in err
        and "Nothing half-written is kept" in err
    )
    for folder in (tmp_path / "cache").iterdir():
        assert not any(".tmp-" in name for name in os.listdir(folder))
    assert batches(cfg)[1][0]["tokens"].shape == (8, 64)


def test_build_runs_once_and_takes_what_is_there(tmp_path):
    calls = []

    def fill(work):
        calls.append(work)
        np.save(work / "x.npy", np.arange(3))

    for _ in range(2):
        assert np.load(cache.build(tmp_path / "deep" / "x", fill) / "x.npy").tolist() == [0, 1, 2]
    assert len(calls) == 1

    def fail(work):
        (work / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build(tmp_path / "y", fail)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock" and path.name != "deep"]


def test_where_there_are_no_locks_the_first_to_finish_wins(tmp_path):
    def fill(work):
        (work / "by").write_text("me")
        other = tmp_path / "x"
        other.mkdir()
        (other / "by").write_text("the other")

    assert (cache.build(tmp_path / "x", fill) / "by").read_text() == "the other"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.lock", "x"]


def flip(path):
    bits = bytearray(path.read_bytes())
    bits[len(bits) // 2] ^= 4
    path.write_bytes(bits)


def test_damaged_folders_are_made_anew(cfg, clean, tmp_path, capsys):
    """One file of each kind of folder that pretraining has: flipped, cut off, removed."""
    batches(cfg)
    folders = {
        stage: [path for path in (tmp_path / "cache" / stage).iterdir() if not path.name.startswith(".")]
        for stage in ("records", "tokenizers", "tokens")
    }
    files = {stage: [path for path in of[0].rglob("*") if path.is_file()] for stage, of in folders.items()}
    names = {stage: {path.name: path for path in paths} for stage, paths in files.items()}
    records = next(path for path in files["records"] if "array_record" in path.name)
    damaged = [records, names["tokenizers"]["special_tokens.json"], names["tokens"]["ids.bin"]]
    flip(damaged[0])
    damaged[1].write_text(damaged[1].read_text()[:-9])
    damaged[2].unlink()
    capsys.readouterr()
    again = batches(cfg)
    said = capsys.readouterr().err
    for path, why in zip(damaged, ("differs from what was written", "bytes", "is missing"), strict=True):
        assert any(
            str(path) in line and why in line and line.endswith(": made anew") for line in said.split("\n")
        )
    assert again[0] == clean[0]
    for a, b in zip(again[1], clean[1], strict=True):
        assert all((a[name] == b[name]).all() for name in b)
    batches(cfg)
    assert capsys.readouterr().err == ""


def prepared(folder):
    """The fingerprints and some batches of each kind of data; it has every kind of folder in the cache."""
    kind, cfg = tokenizer.ByteTokenizer(), {"batch_size": 4, "cache_dir": str(folder)}
    given = dict(seed=0, tokenizer=kind, template=chat.load_template("plain", kind))
    data = {name: f"tinytown:{name}?documents=60&held_out=8" for name in ("pretrain", "sft", "preferences")}
    corpus = Corpus(data=data["pretrain"], tokenizer="bpe:300", seq_len=64, **cfg)
    made = [pipeline.prepare(corpus, seed=0)]
    made += [make.prepare(Dialogs(data=data[name], **cfg), **given)
             for name, make in (("sft", dialogs), ("preferences", preferences))]  # fmt: skip
    return [(one.fingerprints, one.train.batch(2), one.eval.batch(0)) for one in made]


DAMAGES = {
    "a flipped bit": lambda body: body[:-1] + bytes([body[-1] ^ 16]),
    "half of it": lambda body: body[: len(body) // 2],
    "empty": lambda body: b"",
    "deleted": lambda body: None,
}


def test_any_damage_of_any_file_is_repaired(tmp_path, capsys):
    """A file of every folder at a time, with one damage after another; without checksums.json nothing is verified."""
    wanted = prepared(tmp_path)
    folders = [file.parent for file in tmp_path.rglob(checksums.FILE)]
    assert {str(folder.relative_to(tmp_path)).partition("/")[0] for folder in folders} == {
        path.name for path in tmp_path.iterdir()
    }
    files = {folder: sorted(file for file in folder.iterdir() if file.stat().st_size) for folder in folders}
    for turn in range(max(map(len, files.values()))):
        damaged = []
        for i, folder in enumerate(folders):
            if turn < len(files[folder]):
                path, (what, damage) = files[folder][turn], list(DAMAGES.items())[(turn + i) % 4]
                if (what, path.name) != ("deleted", checksums.FILE):
                    body = damage(path.read_bytes())
                    path.unlink() if body is None else path.write_bytes(body)
                    damaged.append(path)
        capsys.readouterr()
        again, said = prepared(tmp_path), capsys.readouterr().err
        assert damaged and all(str(path) in said for path in damaged)
        assert "Traceback" not in said
        for (prints, *batches), (other, *others) in zip(again, wanted, strict=True):
            assert prints == other
            for a, b in zip(batches, others, strict=True):
                assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in b)


def test_what_an_earlier_release_built_is_taken_as_it_is(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("old")
    built = cache.build(tmp_path / "x", lambda work: (work / "a").write_text("new"))
    assert (built / "a").read_text() == "old"


def test_a_large_file_is_read_again_only_where_it_has_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "_LARGE", 100)
    read = []
    real = checksums.of_file
    monkeypatch.setattr(checksums, "of_file", lambda path: read.append(path.name) or real(path))

    def build():
        read.clear()
        fill = {"large": "x" * 200, "small": "y"}
        cache.build(
            tmp_path / "x", lambda work: [(work / name).write_text(text) for name, text in fill.items()]
        )
        return sorted(read)

    assert build() == ["large", "small"], "their checksums are made"
    assert build() == ["large", "small"] and build() == ["small"] == build()
    flip(tmp_path / "x" / "large")
    assert build() == ["large", "large", "small"] and "large differs" in capsys.readouterr().err
    assert build() == ["large", "small"] and build() == ["small"]


def test_digests_tell_parts_and_files_apart(tmp_path):
    assert cache.digest("a", 1) == cache.digest("a", 1) != cache.digest("a1")
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "b").write_bytes(b"hellO")
    memo = tmp_path / "memo"
    assert cache.digest_file(tmp_path / "a", memo) != cache.digest_file(tmp_path / "b", memo)
    assert not memo.exists(), "small files are read each time"


def test_the_digest_of_a_large_file_is_kept_until_the_file_changes(tmp_path):
    path, memo = tmp_path / "large", tmp_path / "memo"
    path.write_bytes(b"")
    os.truncate(path, 1 << 28)
    first = cache.digest_file(path, memo)
    (kept,) = memo.iterdir()
    kept.write_text("what was kept")
    assert cache.digest_file(path, memo) == "what was kept"
    with path.open("r+b") as file:
        file.write(b"changed")
    assert cache.digest_file(path, memo) not in ("what was kept", first)
