"""Tinytown as a TFDS data set, and `load`, which builds what is missing."""

import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter

from jaxtrain.files import cache
from jaxtrain.files.tf_example import encoder
from jaxtrain.worlds.tinytown.configs import (
    COLUMNS,
    CONFIGS,
    SPLITS,
    VERSION,
    Options,
    check_split,
    full_name,
    resolve,
    split_size,
)
from jaxtrain.worlds.tinytown.records import named_rows, rows

# A read costs time in proportion to the records of its file: 0.5 ms at 100,000, 0.05 ms at 8,192.
_SHARD = 8_192


class TinytownConfig(tfds.core.BuilderConfig):
    """One of `CONFIGS` with its options."""

    def __init__(self, config: str, options: Options):
        super().__init__(name=full_name(config, options), description=CONFIGS[config].__doc__)
        self.config = config
        self.options = options


_TYPES = {
    str: tfds.features.Text,
    float: lambda: tfds.features.Tensor(shape=(), dtype=np.float64, encoding="bytes"),
    int: lambda: tfds.features.Scalar(np.int64),
}


def features_of(columns: Mapping[str, type]) -> tfds.features.FeaturesDict:
    """The TFDS features of columns; a float keeps its 64 bits, which a plain TFDS scalar does not."""
    return tfds.features.FeaturesDict({name: _TYPES[kind]() for name, kind in columns.items()})


class _GeneratedInfo(tfds.core.DatasetInfo):
    """Of data that are generated here: no bucket has them."""

    def initialize_from_bucket(self) -> None:
        """Does nothing. The inherited method leaves an empty temporary folder behind."""


class Tinytown(tfds.core.GeneratorBasedBuilder):
    """A generated world that knows the probability and the truth of its texts."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [TinytownConfig(name, options()) for name, options in CONFIGS.items()]  # noqa: RUF012

    def __init__(self, **kwargs: Any):
        super().__init__(**{"file_format": "array_record"} | kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = features_of(COLUMNS[self.builder_config.config])
        return _GeneratedInfo(
            builder=self, description=self.__doc__, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in SPLITS[self.builder_config.config]}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        chosen = self.builder_config
        yield from enumerate(named_rows(chosen.config, chosen.options, split))

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes the shards directly: the inherited way encodes and writes 3,000 documents a second."""
        if self.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            super()._download_and_prepare(dl_manager, download_config)
            return
        splits = SPLITS[self.builder_config.config]
        self.info.set_splits(tfds.core.splits.SplitDict([self._write(split) for split in splits]))

    def _write(self, split: str) -> tfds.core.SplitInfo:
        chosen = self.builder_config
        encode = encoder(COLUMNS[chosen.config])
        template = self._get_filename_template(split)
        total = split_size(chosen.options, split)
        lengths = [min(_SHARD, total - first) for first in range(0, total, _SHARD)]
        remaining, written = rows(chosen.options, split), 0
        for shard, length in enumerate(lengths):
            path = template.sharded_filepath(shard_index=shard, num_shards=len(lengths))
            writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
            for row in islice(remaining, length):
                record = encode(row)
                written += len(record)
                writer.write(record)
            writer.close()
        return tfds.core.SplitInfo(
            name=split, shard_lengths=lengths, num_bytes=written, filename_template=template
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses what TFDS prints of downloads, custom configurations and folders searched."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)


def _builder(config: str, options: Options, data_dir: str | os.PathLike[str]) -> Tinytown:
    named = Tinytown.builder_configs.get(full_name(config, options))
    return Tinytown(config=named or TinytownConfig(config, options), data_dir=data_dir)


def load(
    config: str, split: str, *, data_dir: str | os.PathLike[str], **options: Any
) -> Sequence[dict[str, Any]]:
    """The data source of a split, built first when `data_dir` lacks it or holds a damaged one.

    `split` may be a TFDS slice such as `train[:50%]`. Text comes back as bytes, rows in the order of their
    index. A build appears whole or not at all, and of several processes one builds while the others wait.
    Raises ValueError for a wrong config, option or split, naming the right ones; ConfigError where the disk is full.
    """
    chosen = resolve(config, options)
    check_split(config, split)

    def fill(work: Path) -> None:
        builder = _builder(config, chosen, work)
        builder.download_and_prepare()
        for file in Path(str(builder.data_path)).iterdir():
            file.rename(work / file.name)
        for left in (Tinytown.name, "downloads"):
            shutil.rmtree(work / left)

    with _quiet():
        cache.build(Path(data_dir) / Tinytown.name / full_name(config, chosen) / VERSION, fill)
        return _builder(config, chosen, data_dir).as_data_source(split=split)
