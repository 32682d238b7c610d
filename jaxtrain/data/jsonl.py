"""JSON lines as a TFDS data set in ArrayRecord files, built in the cache on first use."""

import contextlib
import gzip
import io
import itertools
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
import zstandard
from array_record.python.array_record_module import ArrayRecordWriter

from jaxtrain.config import ConfigError
from jaxtrain.data.bad_records import Skips, is_unicode
from jaxtrain.files import cache
from jaxtrain.files.progress import bar
from jaxtrain.files.tf_example import encoder

_VERSION = "1.0.0"
_SHARD = 8_192  # records in a file: reading one takes time in proportion to its file's records
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError)
_KINDS = {str: "a string", list: "a list", dict: "an object"}


class _Zst(io.RawIOBase):
    """Decompressed frames of a .zst file; unlike the library's reader it notices a truncated one."""

    def __init__(self, raw: io.BufferedReader):
        self._raw, self._rest, self._frame, self._ready = raw, b"", None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._rest or self._raw.read(1 << 18)
            if not block:
                if self._frame is not None:
                    raise EOFError("the last frame is cut off")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready, self._rest = self._frame.decompress(block), b""
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _opened(path: Path, raw: io.BufferedReader) -> Any:
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if path.suffix == ".xz":
        return lzma.LZMAFile(raw)
    return io.BufferedReader(_Zst(raw), 1 << 18) if path.suffix == ".zst" else raw


def lines(path: Path, advance: Callable[[int], None] = lambda done: None) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a file that is plain, .gz, .xz or .zst. `advance` is called with the bytes
    read from disk.

    Raises ConfigError where the compressed data is broken.
    """
    with path.open("rb") as raw:
        position, number = 0, 0
        try:
            for number, line in enumerate(_opened(path, raw), 1):
                if number % 256 == 1:
                    position, before = raw.tell(), position
                    advance(position - before)
                yield number, line
        except _BROKEN as error:
            reason = str(error) or type(error).__name__
            raise ConfigError(
                f"{path}:{number + 1}: broken {path.suffix} data ({reason}); fetch the file again"
            ) from error
        advance(raw.tell() - position)


def _parse(line: bytes, fields: Mapping[str, type]) -> tuple[str, str]:
    """(the line's JSON text, what is wrong with it or an empty string)."""
    try:
        text = line.decode("utf-8")
        record = json.loads(text)
    except UnicodeDecodeError as error:
        return "", f"invalid UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return "", f"not JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError) as error:
        return "", f"not JSON ({type(error).__name__}: {error})"
    if not isinstance(record, dict):
        return "", f"not a JSON object but {type(record).__name__}"
    for field, kind in fields.items():
        if field not in record:
            there = ", ".join(map(str, list(record)[:8])) or "none"
            return "", f"no field {field!r} (fields: {there}); name the right one with --text_field"
        if not isinstance(record[field], kind):
            return "", f"field {field!r} is not {_KINDS[kind]} but {type(record[field]).__name__}"
        if kind is str and not is_unicode(record[field]):
            return "", f"field {field!r} holds half a surrogate pair, which is no text"
    return text, ""


def _records(
    paths: list[Path], fields: Mapping[str, type], skips: Skips, advance: Callable[[int], None]
) -> Iterator[str]:
    for path in paths:
        empty = True
        for number, line in lines(path, advance):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            empty = False
            text, wrong = _parse(line.strip(), fields)
            if wrong:
                skips.bad(f"{path}:{number}", wrong)
            else:
                yield text
        if empty:
            skips.bad(str(path), "the file is empty")


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: TFDS's bucket knows no local files, and asking it leaves an empty folder in the
        system's temporary one each time.
        """


class JsonLines(tfds.core.GeneratorBasedBuilder):
    """Records of JSON-lines files, each one line as it was written."""

    VERSION = tfds.core.Version(_VERSION)

    def __init__(self, *, records: Iterator[str], **kwargs: Any):
        self._lines = records
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"json": tfds.features.Text()})
        return _LocalInfo(builder=self, description=self.__doc__, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        yield from enumerate({"json": line} for line in self._lines)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes the shards directly: the inherited way takes ten times as long."""
        template = self._get_filename_template("train")
        encode, work = encoder({"json": str}), Path(str(self.data_dir))
        lengths, written = [], 0
        while block := list(itertools.islice(self._lines, _SHARD)):
            writer = ArrayRecordWriter(str(work / f"shard-{len(lengths)}"), "group_size:1")
            for line in block:
                record = encode([line])
                written += len(record)
                writer.write(record)
            writer.close()
            lengths.append(len(block))
        for i in range(len(lengths)):
            path = template.sharded_filepath(shard_index=i, num_shards=len(lengths))
            (work / f"shard-{i}").rename(str(path))
        split = tfds.core.SplitInfo(
            name="train", shard_lengths=lengths, num_bytes=written, filename_template=template
        )
        self.info.set_splits(tfds.core.splits.SplitDict([split]))


def prepare(paths: list[Path], fields: Mapping[str, type], policy: str, cache_dir: Path) -> Path:
    """The folder of the TFDS data set that holds these files' records, in order; built if the cache lacks it.

    A record must have `fields`, each of its type. Raises ConfigError, naming file and line, for one that
    does not or that is no JSON object in UTF-8, unless `policy` is skip; and for a file or files without
    any record.
    """
    content = [cache.digest_file(path, cache_dir / "digests") for path in paths]
    names = {field: kind.__name__ for field, kind in fields.items()}
    folder = cache_dir / "jsonl" / cache.digest(_VERSION, content, sorted(names.items()), policy)
    return cache.build(folder, lambda work: _fill(work, paths, fields, Skips(policy))) / _VERSION


def _fill(work: Path, paths: list[Path], fields: Mapping[str, type], skips: Skips) -> None:
    size = sum(path.stat().st_size for path in paths)
    failed: list[BaseException] = []

    def watched(records: Iterator[str]) -> Iterator[str]:
        # TFDS wraps what a generator raises: the original error is kept here.
        try:
            first = next(records, None)
            if first is None:
                raise ConfigError(
                    f"--data: no record left in {', '.join(map(str, paths))} ({len(skips.lines)} skipped)"
                )
            yield first
            yield from records
        except (ConfigError, OSError) as error:
            failed.append(error)
            raise

    with bar(f"reading {', '.join(path.name for path in paths)[:60]}", size, least=1 << 20) as advance:
        records = watched(_records(paths, fields, skips, advance))
        with contextlib.redirect_stdout(io.StringIO()):
            tfds.disable_progress_bar()
            try:
                JsonLines(records=records, data_dir=str(work)).download_and_prepare()
            finally:
                if failed:
                    raise failed[0]
    (work / "json_lines" / _VERSION).rename(work / _VERSION)
    skips.save(work / _VERSION)
    for left in (work / "json_lines", work / "downloads" / "extracted", work / "downloads"):
        if left.is_dir():
            left.rmdir()
