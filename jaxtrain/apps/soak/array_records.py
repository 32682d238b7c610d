"""Strategies of hypothesis for TFDS data sets: damaged array_record files, and records that are no tf.Example."""

import gzip
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from jaxtrain.apps.soak.malformed import RecordBatch, RecordFile
from jaxtrain.files.tf_example import encoder

SHARD = "set-train.array_record-00000-of-00001"

# Accepted records of each format, with texts, whole numbers and float64.
ROWS: Mapping[str, dict[str, Any]] = {
    "text": {"text": "two and three are {}", "logp": -3.5},
    "completion": {"prompt": "2+{}?", "completion": "{} and two"},
    "chosen": {"prompt": "2+{}?", "chosen": "{}", "rejected": "no {}", "margin": 0.5},
    "judged": {"prompt": "2+{}?", "completion": "{}", "label": 1},
}

# Changes of the bytes of a record, given a place in them.
_EXAMPLES: tuple[Callable[[bytes, int], bytes], ...] = (
    lambda example, at: example[:at],
    lambda example, at: example[at + 1 :],
    lambda example, at: b"",
    lambda example, at: example[:at] + bytes([example[at] ^ 1 << at % 8]) + example[at + 1 :],
    lambda example, at: example[:at] + b"\xff" * 9 + example[at:],
    lambda example, at: example + example[at:],
    lambda example, at: b'{"text": "no Example"}',
    lambda example, at: bytes(range(256)),
    lambda example, at: encoder({"text": str, "prompt": int})(("x", at)),
    lambda example, at: encoder({"text": int, "prompt": float, "completion": str})((at, 0.5, "x")),
    lambda example, at: encoder({})(()),
)

# Changes of a file's bytes, at a place of what is no padding.
_FILES: tuple[Callable[[bytes, int], bytes], ...] = (
    lambda content, at: content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :],
    lambda content, at: content[:at] + b"\xff\0\xff\0" + content[at + 4 :],
    lambda content, at: content[:at],
    lambda content, at: content[:-1],
    lambda content, at: content[: len(content) // 2],
    lambda content, at: content[at + 1 :],
    lambda content, at: b"",
    lambda content, at: bytes(len(content)),
    lambda content, at: b"notmagic" + content[8:],
    lambda content, at: content + content,
    lambda content, at: content + b"\n",
    lambda content, at: content[:at] + bytes(len(content) - at),
    lambda content, at: gzip.compress(content, mtime=0),
    lambda content, at: b'{"text": "a line"}\n' * 5_000,
)

# Changes of the text of dataset_info.json, of which `count` is the number of records, or of features.json.
_INFOS: tuple[Callable[[str, int], str], ...] = (
    lambda text, count: text[: len(text) // 2],
    lambda text, count: "",
    lambda text, count: "[]",
    lambda text, count: text.replace(f'"{count}"', f'"{count + 1}"'),
    lambda text, count: text.replace(f'"{count}"', f'"{count - 1}"'),
    lambda text, count: text.replace(f'"{count}"', '"-1"'),
    lambda text, count: text.replace(f'"{count}"', '"many"'),
    lambda text, count: text.replace('"train"', '"tra"'),
    lambda text, count: text.replace("array_record", "tfrecord"),
    lambda text, count: text.replace("text_feature", "text").replace("Text", "Texts"),
    lambda text, count: text.replace('"text"', '"other"').replace('"prompt"', '"other"'),
    lambda text, count: text.replace("{", "[", 1),
)


_FEATURES = "tensorflow_datasets.core.features"  # as features.json names its classes
_KINDS: Mapping[type, dict[str, Any]] = {
    str: {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}},
    int: {"pythonClassName": f"{_FEATURES}.scalar.Scalar",
          "tensor": {"dtype": "int64", "encoding": "none", "shape": {}}},
    float: {"pythonClassName": f"{_FEATURES}.tensor_feature.Tensor",
            "tensor": {"dtype": "float64", "encoding": "bytes", "shape": {}}},
}  # fmt: skip


def data_set(row: Mapping[str, Any], examples: Sequence[bytes]) -> dict[str, bytes]:
    """The files of a data set of records such as `row` in one shard, by name."""
    from array_record.python.array_record_module import ArrayRecordWriter

    features = {
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": {name: _KINDS[type(one)] for name, one in row.items()}},
    }
    split = {
        "name": "train",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(len(examples))],
    }
    info = {"name": "set", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    files = {"dataset_info.json": info, "features.json": features}
    with tempfile.TemporaryDirectory() as folder:
        writer = ArrayRecordWriter(f"{folder}/{SHARD}", "group_size:1")
        for one in examples:
            writer.write(one)
        writer.close()
        shard = Path(folder, SHARD).read_bytes()
    return {name: json.dumps(one, indent=1).encode() for name, one in files.items()} | {SHARD: shard}


@st.composite
def data_sets(draw: st.DrawFn, formats: Sequence[str], named: bool, most: int) -> RecordBatch:
    """A prepared TFDS data set of records of one of the formats, with damage to records, the shard or the metadata."""
    name = draw(st.sampled_from(sorted(formats)))
    count = draw(st.integers(2, most))
    rows = [
        {key: one.format(i) if isinstance(one, str) else one for key, one in ROWS[name].items()}
        for i in range(count)
    ]
    encode = encoder({key: type(one) for key, one in rows[0].items()})
    examples, expected = (
        [encode(row.values()) for row in rows],
        [json.dumps(row, sort_keys=True) for row in rows],
    )
    where = draw(st.sampled_from(("records", "shard", "shard", "info", "nowhere")))
    for i in draw(st.lists(st.integers(0, count - 1), max_size=3)) if where == "records" else ():
        at = draw(st.integers(0, len(examples[i]) - 1))
        examples[i], expected[i] = draw(st.sampled_from(_EXAMPLES))(examples[i], at) or b"\0", ""
    files = data_set(rows[0], examples)
    if where == "shard":
        content = files[SHARD]
        used = [i for i, byte in enumerate(content) if byte]
        files[SHARD] = draw(st.sampled_from(_FILES))(content, draw(st.sampled_from(used)))
    if where == "info":
        damaged = draw(st.sampled_from(("dataset_info.json", "dataset_info.json", "features.json")))
        files[damaged] = draw(st.sampled_from(_INFOS))(files[damaged].decode(), count).encode()
    # The records count once.
    written = (
        RecordFile(f"set/{file}", content, count if file == SHARD else 0, False)
        for file, content in files.items()
    )
    return RecordBatch(name, tuple(written), "", tuple(expected))
