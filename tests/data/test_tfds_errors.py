"""A data set of TFDS that somebody has prepared, with a damaged file: the file is named, whatever TFDS raises."""

import shutil

import pytest

from jaxtrain.apps.soak import array_records
from jaxtrain.config import ConfigError, Data
from jaxtrain.data import source_spec, sources
from jaxtrain.files import checksums
from jaxtrain.files.tf_example import encoder
from jaxtrain.worlds.tinytown import dataset


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    dataset.load("sft", "train", data_dir=folder, documents=300, held_out=20)
    (version,) = folder.glob("tinytown/*/1.0.0")
    (version / checksums.FILE).unlink()
    return version


def read(folder, tmp_path):
    """How many records are read, of both sides."""
    name = f"tfds:{folder}"
    (source,) = source_spec.parse(name)
    sides = sources.train_and_held_out(source, Data(data=name, cache_dir=str(tmp_path / "cache")), None)
    return [sum(len(block) for _, block in side.blocks()) for side in sides]


@pytest.mark.parametrize(
    "file", ["dataset_info.json", "features.json", "tinytown-train.array_record-00000-of-00001"]
)
def test_the_damaged_file_is_named(built, tmp_path, file):
    folder = tmp_path / "set"
    shutil.copytree(built, folder)
    assert read(folder, tmp_path) == [300, 20]
    held = (folder / file).read_bytes()
    middle = len(held) // 8  # within the records
    flipped = held[:middle] + bytes([held[middle] ^ 128]) + held[middle + 1 :]
    for case in (flipped, held[: len(held) // 2], held[:-1], b"", None):
        (folder / file).unlink() if case is None else (folder / file).write_bytes(case)
        with pytest.raises(ConfigError) as error:
            read(folder, tmp_path)
        assert str(folder / file) in str(error.value) and "Restore it from a copy" in str(error.value)
        (folder / file).write_bytes(held)
    assert read(folder, tmp_path) == [300, 20]


def test_json_that_is_read_as_something_else_names_the_folder(built, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(built, folder)
    text = (folder / "features.json").read_text()
    for old, new in (("text_feature", "texv_feature"), ("pythonClassName", "pythonClassNamf")):
        (folder / "features.json").write_text(text.replace(old, new, 1))
        with pytest.raises(ConfigError, match=f"{folder}: it cannot be read"):
            read(folder, tmp_path)


def test_a_record_that_is_no_example_is_named_by_its_number(tmp_path):
    intact = encoder({"text": str})(("b",))
    for number, damaged in enumerate(
        (b"\x0a\x00", b"no Example", b"", intact[:-1], encoder({"text": int})((5,)))
    ):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        examples = [damaged if i == number else intact for i in range(5)]
        for name, content in array_records.data_set({"text": "b"}, examples).items():
            (folder / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"^{folder} record {number}: it cannot be read"):
            read(folder, tmp_path)


def test_a_file_with_more_or_fewer_records_than_its_metadata_say_is_named(built, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(built, folder)
    info = folder / "dataset_info.json"
    text = info.read_text()
    for count in (299, 301):
        info.write_text(text.replace('"300"', f'"{count}"'))
        with pytest.raises(
            ConfigError, match=f"00000-of-00001: it has 300 records, dataset_info.json says {count}"
        ):
            read(folder, tmp_path)
