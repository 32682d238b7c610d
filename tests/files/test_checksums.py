"""Checksums: damage is named, and what has none or was accepted is taken as it is."""

import json
import random

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import checksums

RECORD = {"stage": "sft", "config": {"rope_theta": 10000.0, "text": "ü\n"}, "resumed": []}


def damages(text: bytes, count: int = 400):
    """A bit flipped at a time, cut off, and each field renamed."""
    draw = random.Random(3)
    for _ in range(count):
        bits = bytearray(text)
        bits[draw.randrange(len(text))] ^= 1 << draw.randrange(8)
        yield bytes(bits)
    yield from (text[:cut] for cut in range(0, len(text) - 2, 7))


def test_a_sealed_record_comes_back_or_is_refused():
    sealed = checksums.sealed(RECORD)
    assert checksums.unsealed(sealed) == RECORD and sealed.keys() == RECORD.keys() | {"format", "sha256"}
    text, refused = json.dumps(sealed, indent=1).encode(), 0
    for damaged in damages(text):
        try:
            assert checksums.unsealed(json.loads(damaged)) == RECORD
        except ValueError:  # JSON's and UTF-8's errors are of this type
            refused += 1
    assert refused > 400
    for key in ("format", "sha256"):
        with pytest.raises(ValueError, match="SHA-256"):
            checksums.unsealed({name: value for name, value in sealed.items() if name != key})
    assert checksums.unsealed(RECORD) == RECORD, "a record of an earlier release"
    assert checksums.sealed(checksums.unsealed(sealed)) == sealed
    assert checksums.unsealed([1]) == [1]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, text in {
        "config.json": "{}",
        "deep/a.jinja": "b",
        "m.safetensors": "w",
        "README.md": "r",
    }.items():
        (tmp_path / name).write_text(text * 9)
    checksums.write(tmp_path, skip=["README.md"])
    return tmp_path


def test_files_that_differ_are_named(folder):
    assert list(checksums.wrong(folder)) == []
    (folder / "README.md").write_text("a model")
    (folder / "more.txt").write_text("not one of them")
    assert list(checksums.wrong(folder)) == []
    (folder / "config.json").write_text("{]" * 9)
    (folder / "deep/a.jinja").unlink()
    (folder / "m.safetensors").write_text("w")
    assert sorted(checksums.wrong(folder)) == [
        f"{folder / 'config.json'} differs from what was written (SHA-256)",
        f"{folder / 'deep/a.jinja'} is missing",
        f"{folder / 'm.safetensors'} has 1 bytes, 9 were written",
    ]
    assert len(list(checksums.wrong(folder, partial=True))) == 2


def test_damage_is_refused_with_a_remedy_that_works(folder):
    checksums.require(folder, "--init_from=hf:X")
    checksums.require_weights(folder, "X")
    (folder / "m.safetensors").write_text("v" * 9)
    checksums.require(folder, "--init_from=hf:X")
    with pytest.raises(ConfigError, match=r"X: .*m\.safetensors differs"):
        checksums.require_weights(folder, "X")
    checksums.require_weights(folder, "X", slice(1, None, 2))
    (folder / "config.json").write_text("[]" * 9)
    with pytest.raises(ConfigError, match=r"^--init_from=hf:X: .*config\.json differs") as raised:
        checksums.require(folder, "--init_from=hf:X")
    remedy = str(raised.value).rpartition("delete ")[2]
    assert remedy == str(folder / checksums.FILE)
    whole = (folder / checksums.FILE).read_bytes()
    for damaged in (
        whole[:40],
        b"",
        whole.replace(b"deep", b"deap"),
        whole.replace(b"files", b"filez"),
        b"\xff",
    ):
        (folder / checksums.FILE).write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"checksums\.json is damaged|checksums\.json cannot be read"):
            checksums.require(folder, "--init_from=hf:X")
    for another in (b"[]", b'{"config.json": "md5"}'):
        (folder / checksums.FILE).write_bytes(another)
        checksums.require(folder, "--init_from=hf:X")
    (folder / checksums.FILE).unlink()
    checksums.require(folder, "--init_from=hf:X")
    checksums.require_weights(folder, "X")


def test_what_a_killed_process_was_writing_is_not_listed(folder):
    listed = checksums.read(folder)
    for name in ("checksums.json.tmp", "a.json.tmp"):
        (folder / name).write_text("{", encoding="utf-8")
    checksums.write(folder, skip=["README.md"])
    assert listed and checksums.read(folder) == listed
