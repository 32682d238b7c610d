"""Compressed streams by their first bytes."""

import bz2
import gzip
import io
import lzma

import pytest
import zstandard

from jaxtrain.config import ConfigError
from jaxtrain.data import compressed, read_limits

TEXT = b"".join(b"line %d\n" % i for i in range(20_000))
PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lzma": lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE),
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
}


def opened(content, limits=read_limits.DEFAULT):
    expansion = read_limits.Expansion(limits, "file", len(content))
    return compressed.decompressed(io.BufferedReader(io.BytesIO(content)), "file", expansion)


@pytest.mark.parametrize("how", PACK)
def test_members_and_layers(how):
    content, name = opened(PACK[how](TEXT))
    assert (content.read(), name) == (TEXT, how)
    if how != ".lzma":  # which has no members
        assert opened(PACK[how](TEXT[:9]) + PACK[how](TEXT[9:]))[0].read() == TEXT
    content, name = opened(gzip.compress(PACK[how](TEXT)))
    assert (content.read(), name) == (TEXT, f"{how}.gz")


def test_what_is_not_compressed_is_read_as_it_is():
    content, name = opened(TEXT)
    assert (content.read(), name) == (TEXT, "")
    assert opened(b"")[0].read() == b""
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    assert opened(skippable + PACK[".zst"](TEXT))[0].read() == TEXT


@pytest.mark.parametrize("how", PACK)
def test_a_cut_off_stream_raises(how):
    for size in (12, 40, -20, -1):
        with pytest.raises((*compressed.BROKEN, ConfigError)):
            opened(PACK[how](TEXT)[:size])[0].read()
    damaged = bytearray(PACK[how](TEXT))
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
    with pytest.raises((*compressed.BROKEN, ConfigError)):
        opened(bytes(damaged))[0].read()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-be", "utf-16-le"])
def test_text_in_another_encoding(encoding):
    text = "é😀\n" * 80_000
    stream = compressed.as_utf8(io.BytesIO(text.encode(encoding)), encoding)
    assert stream.read() == text.encode()
    with pytest.raises(UnicodeDecodeError):
        compressed.as_utf8(io.BytesIO(text.encode(encoding)[:-1]), encoding).read()


def test_the_error_names_file_line_and_compression():
    error = compressed.broken("a.gz", 7, ".gz", EOFError())
    assert str(error) == "a.gz:7: broken .gz data (EOFError); fetch the file again"


def test_one_decompressor_reads_all_frames(monkeypatch):
    made, create = [], zstandard.ZstdDecompressor
    monkeypatch.setattr(zstandard, "ZstdDecompressor", lambda: made.append(1) or create())
    one = zstandard.ZstdCompressor().compress
    content = one(b"first\n") + one(b"") * 20_000 + one(b"last\n")
    stream, _ = opened(content)
    assert stream.read() == b"first\nlast\n" and len(made) == 1
