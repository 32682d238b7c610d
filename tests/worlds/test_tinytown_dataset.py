import multiprocessing
import tempfile
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxtrain.files import checksums
from jaxtrain.files.tf_example import encoder
from jaxtrain.worlds.tinytown import dataset
from jaxtrain.worlds.tinytown.configs import COLUMNS, CONFIGS, SPLITS, VERSION, resolve
from jaxtrain.worlds.tinytown.dataset import load
from jaxtrain.worlds.tinytown.records import rows

SMALL = {"documents": 50, "held_out": 20}


def decoded(row):
    return tuple(value.decode() if isinstance(value, bytes) else value for value in row.values())


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_read_is_what_was_made(config, tmp_path):
    for split in SPLITS[config]:
        source = load(config, split, data_dir=tmp_path, **SMALL)
        made = list(rows(resolve(config, SMALL), split))
        assert len(source) == len(made) == (50 if split == "train" else 20)
        columns = list(COLUMNS[config])
        for row, expected in zip(source, made, strict=True):
            assert decoded({name: row[name] for name in columns}) == expected


def test_log_probabilities_keep_64_bits(tmp_path):
    source = load("pretrain", "train", data_dir=tmp_path, **SMALL)
    made = list(rows(resolve("pretrain", SMALL), "train"))
    assert [float(row["logp"]) for row in source] == [document.logp for document in made]
    assert source[0]["logp"].dtype == np.float64


def test_tfds_reads_the_folder_without_the_builder(tmp_path):
    load("sft", "train", data_dir=tmp_path, **SMALL)
    (folder,) = (tmp_path / "tinytown").glob("sft-*")
    builder = tfds.builder_from_directory(folder / VERSION)
    assert builder.info.splits["train"].num_examples == 50
    assert builder.info.splits["train"].num_bytes > 2_000
    assert len(builder.as_data_source("train[:20%]")) == 10


def test_a_build_leaves_no_temporary_files(tmp_path, monkeypatch):
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    load("sft", "train", data_dir=tmp_path, **SMALL)
    assert not list(temporary.iterdir())


def test_splits_of_several_shards_are_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_SHARD", 16)
    source = load("sft", "train", data_dir=tmp_path, **SMALL)
    assert len(list(tmp_path.glob("tinytown/sft-*/*/*train*"))) == 4
    assert [decoded(row)[1] for row in source] == [row[0] for row in rows(resolve("sft", SMALL), "train")]


def test_records_are_those_of_the_tfds_encoder():
    for config in CONFIGS:
        features = dataset.features_of(COLUMNS[config])
        encode = encoder(COLUMNS[config])
        for row in rows(resolve(config, SMALL), "train"):
            example = dict(zip(COLUMNS[config], row, strict=True))
            standard = features.serialize_example(example)
            ours = features.deserialize_example_np(encode(row))
            theirs = features.deserialize_example_np(standard)
            assert ours == theirs


def test_encoder_handles_every_size_and_sign():
    features = dataset.features_of({"text": str, "n": int, "x": float})
    encode = encoder({"text": str, "n": int, "x": float})
    for size in (0, 1, 127, 128, 4_095, 4_096, 16_383, 16_384, 70_000):
        for n in (0, 1, -1, 127, 128, 2**62, -(2**63)):
            row = features.deserialize_example_np(encode(("é" * size, n, n / 3)))
            assert (row["text"].decode(), row["n"], float(row["x"])) == ("é" * size, n, n / 3)


def test_other_options_are_other_data(tmp_path):
    first = load("sft", "train", data_dir=tmp_path, **SMALL)
    second = load("sft", "train", data_dir=tmp_path, seed=1, **SMALL)
    assert [row["response"] for row in first] != [row["response"] for row in second]
    assert len(load("sft", "train", data_dir=tmp_path, documents=30, held_out=20)) == 30


def test_wrong_names_build_nothing(tmp_path):
    for wrong in (("sfd", "train", {}), ("sft", "trian", {}), ("sft", "train", {"dup": 1})):
        with pytest.raises(ValueError, match="tinytown"):
            load(wrong[0], wrong[1], data_dir=tmp_path, **wrong[2])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_build_leaves_nothing_to_be_read(tmp_path, monkeypatch):
    def broken(options, split):
        yield from rows(options, split, 0, 10)
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "rows", broken)
        with pytest.raises(OSError, match="no space"):
            load("sft", "train", data_dir=tmp_path, **SMALL)
    assert not list(tmp_path.rglob("*.array_record*"))
    assert len(load("sft", "train", data_dir=tmp_path, **SMALL)) == 50


def test_a_second_call_reads_what_the_first_built(tmp_path):
    load("sft", "train", data_dir=tmp_path, **SMALL)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")}
    load("sft", "train", data_dir=tmp_path, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")} == files


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
def test_a_damaged_build_is_named_and_made_anew(tmp_path, damage, capsys):
    """Whichever file it is, in the padding of a shard too."""
    wanted = [decoded(row) for row in load("sft", "train", data_dir=tmp_path, **SMALL)]
    (folder,) = tmp_path.glob(f"tinytown/sft-*/{VERSION}")
    names = sorted(file.name for file in folder.iterdir() if file.name != checksums.FILE)
    assert len(names) == 5
    for name in names:
        held = (folder / name).read_bytes()
        spoilt = {
            "flip": held[:-3] + bytes([held[-3] ^ 8]) + held[-2:],
            "cut": held[: len(held) // 2],
            "empty": b"",
        }
        (folder / name).unlink()
        if damage != "delete":
            (folder / name).write_bytes(spoilt[damage])
        assert [decoded(row) for row in load("sft", "train", data_dir=tmp_path, **SMALL)] == wanted
        said = capsys.readouterr().err
        assert said.startswith(str(folder / name)) and said.endswith(": made anew\n")
        assert (folder / name).read_bytes() == held
    load("sft", "train", data_dir=tmp_path, **SMALL)
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tinytown"]


def test_what_an_earlier_release_built_is_taken_as_it_is(tmp_path):
    load("sft", "train", data_dir=tmp_path, **SMALL)
    (file,) = tmp_path.rglob(checksums.FILE)
    file.unlink()
    assert len(load("sft", "train", data_dir=tmp_path, **SMALL)) == 50 and not file.exists()


def test_building_says_nothing(tmp_path, capsys):
    load("sft", "train", data_dir=tmp_path, **SMALL)
    assert capsys.readouterr() == ("", "")


def _build(folder, queue):
    source = load("pretrain", "train", data_dir=folder, documents=4_000, held_out=20)
    queue.put((len(source), source[3_999]["text"]))


def test_two_processes_may_build_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_build, args=(tmp_path, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert found[0] == found[1]
    assert found[0][0] == 4_000
    assert len(list(tmp_path.rglob("*train.array_record*"))) == 1


@pytest.mark.slow
def test_the_default_pretraining_set_is_built_in_seconds(tmp_path):
    begin = time.process_time()
    assert len(load("pretrain", "train", data_dir=tmp_path)) == 100_000
    assert time.process_time() - begin < 30
