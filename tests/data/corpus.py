"""Small corpora that the data tests share."""

import json
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from jaxtrain.config import Corpus
from jaxtrain.data import source_spec, sources
from jaxtrain.data.sources import Records

WORDS = "the of and a to in he was his it with as whale ship sea captain white old sailor boat night water".split()


def text(i: int) -> str:
    """Text i: 5 to 64 words, two of them its own."""
    length = 5 + (i * 7919) % 60
    return (
        f"{i}: "
        + " ".join(WORDS[(i * i + 3 * j + j * j) % len(WORDS)] for j in range(length))
        + f" — {i * 17}é."
    )


def write(path, records) -> str:
    """Writes records as JSON lines, strings as they are; returns the jsonl: source."""
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return f"jsonl:{path}"


def prose(path, count=200, start=0) -> str:
    """Writes `count` texts; returns the jsonl: source."""
    return write(path, [{"text": text(i), "n": i} for i in range(start, start + count)])


def records_of(rows: Sequence[dict[str, Any]], label="rows") -> Records:
    """Rows in memory as the records of a source."""
    return Records(label, f"fingerprint of {label}", lambda numbers: [rows[i] for i in numbers], len(rows))


def opened(data: Corpus):
    """The records to train on, and those held out."""
    return sources.train_and_held_out(source_spec.parse(data.data)[0], data)


def numbers(records):
    """The field n of all records."""
    return [record["n"] for _, block in records.blocks() for record in block]


class Stories(tfds.core.GeneratorBasedBuilder):
    """A prepared TFDS data set."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, splits=("train", "test"), broken=False, **kwargs):
        self._wanted, self._broken = splits, broken
        super().__init__(**kwargs)

    def _info(self):
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(i * 100) for i, name in enumerate(self._wanted)}

    def _generate_examples(self, start):
        for i in range(start, start + 20):
            yield i, {"text": b"\xff" if self._broken and i == 7 else f"story {i}".encode(), "label": i % 2}
