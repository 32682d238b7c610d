"""What the compressed buffers of Arrow files expand to, without expanding them."""

import io
import struct

import pyarrow as pa
import pytest

from jaxtrain.data import arrow_sizes

TABLE = pa.table({
    "text": ["a" * 50_000, "b", "c" * 9],
    "kind": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), pa.array(["x" * 70_000, "y"])),
    "lists": [[{"n": i, "none": None}] * 4_000 for i in range(3)],
})  # fmt: skip


def written(stream, compression="zstd", rows=2, legacy=False):
    file = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(
        compression=compression, use_legacy_format=legacy, emit_dictionary_deltas=True
    )
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, TABLE.schema, options=options) as writer:
        writer.write_table(TABLE, max_chunksize=rows)
    return file


def in_memory(file, stream):
    """The bytes of the buffers that pyarrow allocates for a file; of its dictionaries once."""
    file.seek(0)
    opened = (pa.ipc.open_stream if stream else pa.ipc.open_file)(file)
    batches = list(opened) if stream else [opened.get_batch(i) for i in range(opened.num_record_batches)]
    columns = [one for batch in batches for one in batch.columns]
    dictionaries = {
        one.dictionary.buffers()[2].address: one.dictionary
        for one in columns
        if one.type == TABLE["kind"].type
    }
    plain = [buffer for one in (*columns, *dictionaries.values()) for buffer in one.buffers()]
    own = {buffer.address: buffer.size for buffer in plain if buffer is not None}
    return sum(own.values())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("legacy", [False, True])
def test_as_much_as_pyarrow_allocates(stream, compression, legacy):
    file = written(stream, compression, legacy=legacy)
    expected = in_memory(file, stream)
    assert expected > 120_000 and abs(arrow_sizes.expanded(file, stream) - expected) < 0.02 * expected


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_not_compressed_expands_to_nothing(stream):
    assert arrow_sizes.expanded(written(stream, None), stream) == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_length_that_lies_is_believed(stream):
    content = bytearray(written(stream).getvalue())
    at = content.index(b"\x28\xb5\x2f\xfd")  # the first buffer, whose length stands before it
    struct.pack_into("<q", content, at - 8, 1 << 40)
    assert arrow_sizes.expanded(io.BytesIO(content), stream) > 1 << 40


@pytest.mark.parametrize("stream", [True, False])
def test_broken_metadata_raise_an_error_that_says_so_or_nothing(stream):
    content = written(stream).getvalue()
    cut = [content[:size] for size in range(10, len(content), 97)]
    flipped = [
        content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :] for at in range(0, len(content), 13)
    ]
    errors = []
    for one in (*cut, *flipped):
        try:
            assert arrow_sizes.expanded(io.BytesIO(one), stream) >= 0
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 20 and all(errors)
