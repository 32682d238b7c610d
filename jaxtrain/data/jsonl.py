"""The records of files as a TFDS data set in ArrayRecord files, built in the cache on first use."""

import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from jaxtrain.config import ConfigError
from jaxtrain.data import file_kinds, file_records, read_limits
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.file_records import ReadNotes
from jaxtrain.data.read_limits import ReadLimits
from jaxtrain.files import atomic, cache
from jaxtrain.files.progress import bar
from jaxtrain.files.tf_example import encoder

_VERSION = "1.0.0"
_SHARD = 8_192  # records in a file: reading one takes time in proportion to its file's records
_NOTES = "notes.json"
COLUMNS = {"json": str, "place": str}  # place: the number of the file, and what follows its path in messages


def records_of(
    paths: Sequence[Path],
    fields: Mapping[str, type],
    skips: Skips,
    notes: ReadNotes,
    limits: ReadLimits,
    advance: Callable[[int], None],
    names: Sequence[Path] = (),
) -> Iterator[tuple[str, str]]:
    """(JSON text, place) of the records that are not bad; `names` are what messages call the files."""
    for i, (path, name) in enumerate(zip(paths, names or paths, strict=True)):
        empty = True
        for record in file_records.records(path, notes, advance, limits):
            empty = False
            text, wrong = (
                ("", record.wrong) if record.wrong else file_records.parse(record.text, fields, notes)
            )
            if wrong:
                skips.bad(f"{name}{record.place}", wrong, record.text)
            else:
                yield text, f"{i} {record.place}"
        if empty:
            skips.bad_file(name, "the file is empty")


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: TFDS's bucket knows no local files, and asking it leaves an empty folder in the
        system's temporary one each time.
        """


class JsonLines(tfds.core.GeneratorBasedBuilder):
    """Records of files, each the text of a JSON object."""

    VERSION = tfds.core.Version(_VERSION)

    def __init__(self, *, records: Iterator[tuple[str, str]], **kwargs: Any):
        self._records = records
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in COLUMNS})
        return _LocalInfo(builder=self, description=self.__doc__, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        yield from enumerate(dict(zip(COLUMNS, record, strict=True)) for record in self._records)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes the shards directly: the inherited way takes ten times as long."""
        template = self._get_filename_template("train")
        encode, work = encoder(COLUMNS), Path(str(self.data_dir))
        lengths, written = [], 0
        while block := list(itertools.islice(self._records, _SHARD)):
            writer = ArrayRecordWriter(str(work / f"shard-{len(lengths)}"), "group_size:1")
            for record in block:
                example = encode(record)
                written += len(example)
                writer.write(example)
            writer.close()
            lengths.append(len(block))
        for i in range(len(lengths)):
            path = template.sharded_filepath(shard_index=i, num_shards=len(lengths))
            (work / f"shard-{i}").rename(str(path))
        split = tfds.core.SplitInfo(
            name="train", shard_lengths=lengths, num_bytes=written, filename_template=template
        )
        self.info.set_splits(tfds.core.splits.SplitDict([split]))


def prepare(
    paths: list[Path],
    fields: Mapping[str, type],
    policy: str,
    cache_dir: Path,
    limits: ReadLimits = read_limits.DEFAULT,
) -> Path:
    """The folder of the TFDS data set that holds these files' records, in order; built if the cache lacks it.

    A record must have `fields`, each of its type. Raises ConfigError, naming file and line, for one that
    does not or that is no JSON object in UTF-8, unless `policy` is skip; and for a file of another kind, a broken one,
    one that changes while it is read, or files without any record.
    """
    before, content, kinds = [file_records.state(path) for path in paths], [], []
    for path in paths:
        with file_records.reading(path):
            content.append(cache.digest_file(path, cache_dir / "digests"))
        kinds.append(file_records.kind_of(path))
    names = {field: kind.__name__ for field, kind in fields.items()}
    # A name decides where the content does not; lines of JSON have the mark that they always had.
    read_as = [] if all(kind.name == file_kinds.LINES for kind in kinds) else [kinds]
    longest = [] if limits.record == read_limits.DEFAULT.record else [limits.record]
    mark = cache.digest(_VERSION, content, sorted(names.items()), policy, *read_as, *longest)

    def fill(work: Path) -> None:
        _fill(work, paths, fields, Skips(policy), limits, cache_dir)
        for path, was in zip(paths, before, strict=True):
            if file_records.state(path) != was:
                raise ConfigError(f"{path}: it changed while it was read; start again once it is written")

    return cache.build(cache_dir / "records" / mark, fill) / _VERSION


def notes_of(folder: Path) -> tuple[str, ...]:
    """Lines on what was left out of the files of a prepared folder."""
    return tuple(json.loads((folder / _NOTES).read_text(encoding="utf-8")))


def _fill(
    work: Path,
    paths: list[Path],
    fields: Mapping[str, type],
    skips: Skips,
    limits: ReadLimits,
    cache_dir: Path,
) -> None:
    size = sum(path.stat().st_size for path in paths)
    notes, failed = ReadNotes(), []

    def watched(records: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        # TFDS wraps what a generator raises: the original error is kept here.
        try:
            first = next(records, None)
            if first is None:
                raise ConfigError(_none_left(paths, skips, cache_dir))
            yield first
            yield from records
        except (ConfigError, OSError) as error:
            failed.append(error)
            raise

    with bar(f"reading {', '.join(path.name for path in paths)[:60]}", size, least=1 << 20) as advance:
        records = watched(records_of(paths, fields, skips, notes, limits, advance))
        with contextlib.redirect_stdout(io.StringIO()):
            tfds.disable_progress_bar()
            try:
                JsonLines(records=records, data_dir=str(work)).download_and_prepare()
            finally:
                if failed:
                    raise failed[0]
    (work / "json_lines" / _VERSION).rename(work / _VERSION)
    skips.save(work / _VERSION)
    atomic.write_text(work / _VERSION / _NOTES, json.dumps(notes.lines()) + "\n")
    for left in (work / "json_lines", work / "downloads" / "extracted", work / "downloads"):
        if left.is_dir():
            left.rmdir()


def _none_left(paths: Sequence[Path], skips: Skips, cache_dir: Path) -> str:
    """The message where no record is left; the bad ones are listed in a file."""
    names = ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    if not skips:
        return f"--data: no record in {names}"
    return f"--data: no record left in {names}: {skips.in_words(cache_dir)}"
