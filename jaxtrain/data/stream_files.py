"""The files of a source that --streaming reads one after another, and what their content is known by.

A data set of the Hub (hf:) is the files that its card or their names give each split; the datasets library lists them
without fetching one. Where it would read them with other than its default settings, it reads them itself, by number.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from jaxtrain.config import ConfigError, Corpus, is_remote
from jaxtrain.data import file_records, filtered, source_spec, sources
from jaxtrain.data.source_spec import DataSource
from jaxtrain.files import cache, paths

_SAMPLE = 1 << 20  # bytes at either end of a file that its fingerprint is of
_HF_KINDS = ("arrow", "csv", "json", "parquet")  # builders of datasets whose files file_kinds.py reads
# Fields of a builder's configuration that do not say how files are read.
_NOT_READING = {"name", "version", "data_dir", "data_files", "description"}


class StreamFiles(NamedTuple):
    """The files of each split of a source."""

    label: str  # the flag and the source, for messages
    splits: Mapping[str, Sequence[Path]]
    mark: str = ""  # the fingerprint of a filtering

    def of(self, split: str) -> list[Path]:
        """The files of a split, or of several, `train+test`."""
        names = split.split("+")
        if unknown := [name for name in names if name not in self.splits]:
            raise ConfigError(f"{self.label}: no split {unknown[0]!r}; it has {', '.join(self.splits)}")
        return [path for name in names for path in self.splits[name]]

    def of_main(self, source: DataSource) -> list[Path]:
        """The files to train on: of the split that the source names, else of train."""
        return self.of(sources.main_split(tuple(self.splits), source))

    def fingerprint(self, chosen: Sequence[Path]) -> str:
        """What their content is known by: sizes and both ends, of a bucket the versions, of a filtering its report."""
        if self.mark:
            return self.mark
        if any(map(is_remote, chosen)):
            return cache.digest("files in order", paths.versions(chosen))
        marks = []
        for path in chosen:
            with file_records.reading(path), path.open("rb") as file:
                size = path.stat().st_size
                first = file.read(_SAMPLE)
                file.seek(max(0, size - _SAMPLE))
                marks.append(cache.digest(size, first, file.read(_SAMPLE)))
        return cache.digest("files in order", marks)


def of_source(source: DataSource, cfg: Corpus, flag: str = "data") -> StreamFiles | None:
    """The files of a source; None where its records are read by number, as those of a slice of a split are."""
    label = f"--{flag}={source.label}"
    if "[" in source.split:
        return None
    if source.kind == "filtered":
        files, mark = filtered.files_of(source.name, flag, sources.cache_dir(cfg) / "digests")
        return StreamFiles(label, {"train": files}, mark)
    if source.kind == "jsonl":
        return StreamFiles(label, {"train": source_spec.files(source, flag)})
    return _of_hf(source, cfg, flag, label) if source.kind == "hf" else None


def _of_hf(source: DataSource, cfg: Corpus, flag: str, label: str) -> StreamFiles | None:
    builder = sources.hf_builder(source, cfg, flag)
    kind = builder.__module__.rpartition(".")[2]
    found = {str(split): list(names) for split, names in (builder.config.data_files or {}).items()}
    names = [name for one in found.values() for name in one]
    wrong = ""
    if not names:
        wrong = "it lists none"
    elif kind not in _HF_KINDS:
        wrong = f"they are {kind} files"
    elif changed := _settings(builder.config):
        wrong = f"they are read with {', '.join(changed)}"
    elif any("://" in name and not is_remote(name) for name in names):
        wrong = "some are not in the repository"
    if wrong:
        logging.warning(
            "%s: its files cannot be read one after another (%s): all are fetched first", label, wrong
        )
        return None
    opened = {split: [paths.parse(name, flag, reads=True) for name in one] for split, one in found.items()}
    return StreamFiles(label, opened)


def _settings(config: Any) -> list[str]:
    """The fields of a builder's configuration that say how its files are read and are not the defaults."""
    return [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in _NOT_READING and getattr(config, field.name) != field.default
    ]
