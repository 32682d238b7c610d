"""Zip archives: their files, and one error for all damage."""

import io
import random
import struct
import zipfile

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import file_records, zip_members
from jaxtrain.data.file_records import ReadNotes

CONTENT = b'{"text": "a"}\n' * 40


def archive(names, how=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as opened:
        for name in names:
            opened.writestr(zipfile.ZipInfo(name), CONTENT, how)
    return file.getvalue()


def test_the_files_of_an_archive():
    names = ["a.jsonl", "d/b.jsonl", "__MACOSX/a.jsonl", "d/.DS_Store", "e/"]
    with zip_members.open_archive(io.BytesIO(archive(names))) as opened:
        found = zip_members.files(opened)
        assert [one.filename for one in found] == names[:2]
        assert zip_members.open_member(opened, found[1]).read() == CONTENT


@pytest.mark.parametrize(
    ("at", "form", "value", "message"),
    [
        (28, "<H", 0, ""),  # no name
        (42, "<I", 1 << 31, "broken zip archive"),  # the member is behind the end
        (20, "<I", 3, "a.jsonl:1: broken zip data"),  # it has three bytes
        (10, "<H", 97, "broken zip archive"),  # an unknown compression
        (8, "<H", 1, "a.jsonl: it is encrypted"),
    ],
)
def test_damage_to_the_directory_is_named(tmp_path, at, form, value, message):
    content = bytearray(archive(["a.jsonl"]))
    struct.pack_into(form, content, content.rindex(b"PK\x01\x02") + at, value)
    (tmp_path / "z").write_bytes(content)
    with pytest.raises(ConfigError, match=f"{tmp_path / 'z'}.*{message}"):
        list(file_records.records(tmp_path / "z", ReadNotes()))


@pytest.mark.parametrize(
    "how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_no_damage_gives_a_traceback_or_records_that_were_not_there(tmp_path, how):
    rng, content, path = random.Random(3), archive(["d/a.jsonl", "b.jsonl"], how), tmp_path / "z"
    refused = 0
    for _ in range(250):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(4, len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice((len(damaged), len(damaged), rng.randrange(9, len(damaged))))])
        try:
            found = list(file_records.records(path, ReadNotes()))
        except ConfigError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert {one.text for one in found} == {b'{"text": "a"}'}
    assert refused > 60
