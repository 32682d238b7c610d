"""Files of a checkpoint: metadata is read whole or named, and each small file has a checksum."""

import json
import subprocess
import sys

import pytest

from jaxtrain.files import checksums
from jaxtrain.train import checkpoint_files
from jaxtrain.train.checkpoint_files import DamagedMeta, damage, read_meta, replace_meta, sealed_meta

BODY = {"meta": {"step": 3, "loss": 0.5}, "leaves": {"params/w": [[2], "float32", "0f"]}, "digests": 2}


@pytest.fixture
def step(tmp_path, monkeypatch):
    """A checkpoint of files as Orbax has them, one of which is larger than those with a checksum."""
    monkeypatch.setattr(checkpoint_files, "LARGEST", 1000)
    folder = tmp_path / "checkpoints" / "3"
    for name, text in {"_METADATA": "m", "_sharding": "s", "d/small": "a", "d/large": "b" * 30}.items():
        file = folder / "state" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text * 90)
    (folder / "meta").mkdir()
    (folder / "meta" / "metadata").write_text(json.dumps(sealed_meta(BODY)))
    checkpoint_files.write_checksums(folder / "state")
    return folder


def test_meta_comes_back_and_is_replaced_alone(step):
    assert read_meta(step) == BODY
    replace_meta(step, {"step": 3, "best": True})
    assert read_meta(step) == {**BODY, "meta": {"step": 3, "best": True}}
    before = (step / "meta" / "metadata").stat().st_mtime_ns
    replace_meta(step, {"step": 3, "best": True})
    assert (step / "meta" / "metadata").stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "{}", "\xff", "[" * 100_000, json.dumps(BODY)])
def test_damaged_meta_is_named(step, text):
    file = step / "meta" / "metadata"
    file.write_text(text, encoding="latin-1")
    for read in (read_meta, lambda step: replace_meta(step, {})):
        with pytest.raises(DamagedMeta) as error:
            read(step)
        assert str(error.value).startswith(f"{file} is damaged: ")
    file.unlink()
    with pytest.raises(DamagedMeta, match=r"metadata is damaged: .*No such file"):
        read_meta(step)


def test_every_small_file_has_a_checksum_and_every_other_its_size(step):
    state = step / "state"
    assert damage(state) == ("", "")
    recorded = checksums.read(state)
    assert recorded.keys() == {"_METADATA", "d/small", "d/large"}
    assert recorded["d/large"] == (2700, None) and len(recorded["d/small"][1]) == 64
    for name in recorded:
        file, held = state / name, (state / name).read_bytes()
        for case in (held[:-1], b"", bytes([held[0] ^ 1]) + held[1:], None):
            file.unlink() if case is None else file.write_bytes(case)
            expected = "" if case and len(case) == 2700 else str(file)  # its arrays have digests
            assert damage(state)[0].startswith(expected) and bool(damage(state)[0]) == bool(expected)
            file.write_bytes(held)
    (state / "_sharding").unlink()
    assert damage(state) == ("", ""), "it is not read"


def test_without_its_list_a_checkpoint_is_of_an_earlier_release(step):
    file = step / "state" / checksums.FILE
    file.write_text(file.read_text()[:-9])
    differs, unverified = damage(step / "state")
    assert differs == "" and unverified.startswith(f"{file} is damaged")
    file.unlink()
    assert damage(step / "state") == ("", "")


def test_jax_is_not_imported():
    code = "import sys; from jaxtrain.train import checkpoint_files; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
