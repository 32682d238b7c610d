"""A token cache that is written while a run trains on it: the parts of a source in the order of its records.

A part's first record follows from its number alone, so that nothing needs to know how many there are. A process of its
own writes the parts (`write`). Files are read as they are, without the copy of their records that random access needs.
"""

import bisect
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import ConfigError, Corpus
from jaxtrain.data import jsonl, sources, token_parts, token_workers
from jaxtrain.data.bad_records import LISTED, Skips
from jaxtrain.data.file_records import ReadNotes
from jaxtrain.data.read_limits import ReadLimits
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.data.token_cache import Fim, texts
from jaxtrain.data.token_parts import PartText
from jaxtrain.data.token_workers import TokenWorkers
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import atomic, cache, checksums, fetch_in_order
from jaxtrain.files import paths as bucket_paths
from jaxtrain.files.workers import Worker

HEAD = 8_192  # first records of a source, of which some are held out and on which a BPE is trained
_HEAD_BYTES = 1 << 26  # at most so many of files
_FIRST, _FULL = 512, 8_192  # records of the first part, and of the later ones
_END, _STARTS = "end.json", "files.json"
_NICENESS = 5  # of what is done beside training
_PAUSE = 2.0  # seconds between looks for parts that another process was at


class TokenStream(NamedTuple):
    """What the parts of a source are made of."""

    source: DataSource
    cfg: Corpus
    paths: Sequence[Path] | None  # the files that are read in order; None: records are read by number
    held: np.ndarray  # i64, ascending: numbers of the records that are held out
    tokenizer: Tokenizer
    fim: Fim | None
    folder: Path

    def part(self, k: int) -> Path:
        """The folder of part k."""
        return self.folder / f"{k:05d}"

    def end(self) -> dict[str, Any] | None:
        """The number of parts and what was left out, once all records were read."""
        path = self.folder / _END
        try:
            return atomic.read_sealed(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            print(f"{path}: {error}: made anew", file=sys.stderr, flush=True)
            path.unlink()
            return None


def start(k: int) -> int:
    """The number of the first record of part k: parts of 512, 512, 1024, 2048 and 4096 records, then of 8192."""
    grown = (_FULL // _FIRST).bit_length()  # the first part that has the full size
    return _FULL * (k - grown + 1) if k >= grown else _FIRST << (k - 1) if k else 0


def head(source: DataSource, cfg: Corpus, paths: Sequence[Path] | None = None, mark: str = "") -> Records:
    """The first records of a source; of its files, whose fingerprint is `mark`, where they are read in order."""
    if paths is None:
        whole = sources.whole(source, cfg)
        return dataclasses.replace(whole, size=min(HEAD, len(whole)))
    skips, found, places, size = Skips(cfg.on_bad_record), [], [], 0
    for record, place in _in_files(paths, source, cfg, skips):
        found.append(record)
        places.append(place)
        size += len(record[sources.text_field(source, cfg)])
        if len(found) == HEAD or size > _HEAD_BYTES:
            break
    if not found:
        raise ConfigError(
            f"--data={source.label}: no record ({len(skips)} bad records skipped); check --text_field"
        )
    return Records(
        source.path_label,
        mark,
        lambda numbers: [found[i] for i in numbers],
        len(found),
        place=places.__getitem__,
    )


def _copies(paths: Sequence[Path], source: DataSource, cfg: Corpus, ahead: bool = True) -> Iterator[Path]:
    """The files on this machine, those of a bucket one after another."""
    return fetch_in_order.in_order(paths, f"--data={source.label}", sources.cache_dir(cfg), ahead=ahead)


def _in_files(
    paths: Sequence[Path], source: DataSource, cfg: Corpus, skips: Skips
) -> Iterator[tuple[dict[str, Any], str]]:
    """(record, place) of the first records of files, without the bad ones."""
    with contextlib.closing(_copies(paths, source, cfg, ahead=False)) as copies:
        for path, copy in zip(paths, copies, strict=True):
            yield from _in_file(path, copy, source, cfg, skips, ReadNotes())


def _in_file(
    path: Path, copy: Path, source: DataSource, cfg: Corpus, skips: Any, notes: ReadNotes
) -> Iterator[tuple[dict[str, Any], str]]:
    """(record, place) of the records of a file that are not bad; `copy` is where it is read."""
    fields = {sources.text_field(source, cfg): str}
    with bucket_paths.named([copy], [path]):
        for text, place in jsonl.records_of(
            [copy], fields, skips, notes, ReadLimits.of(cfg), lambda done: None, names=[path]
        ):
            yield json.loads(text), f"{path}{place.partition(' ')[2]}"


class _Switched:
    """Bad records, those of the part that is read."""

    def __init__(self, policy: str):
        self._policy = policy
        self.of_part = Skips(policy)

    def bad(self, *args: Any) -> None:
        self.of_part.bad(*args)

    def bad_file(self, *args: Any) -> None:
        self.of_part.bad_file(*args)

    def take(self) -> Skips:
        """Those so far, of which the next part has none."""
        taken, self.of_part = self.of_part, Skips(self._policy)
        return taken


class _Reader:
    """The texts of parts, in order, from part `first` on."""

    def __init__(self, stream: TokenStream, first: int):
        self._stream, self._first = stream, first
        self._field = sources.text_field(stream.source, stream.cfg)
        self.records = self.parts = 0  # once all were read
        self.notes = ReadNotes()

    def __iter__(self) -> Iterator[tuple[int, PartText]]:
        return self._numbers() if self._stream.paths is None else self._files(self._stream.paths)

    def _numbers(self) -> Iterator[tuple[int, PartText]]:
        """Of a source that is read by number."""
        stream = self._stream
        records = sources.whole(stream.source, stream.cfg)
        for k in itertools.count(self._first):
            if start(k) >= len(records):
                self.records, self.parts = len(records), k
                return
            numbers = np.arange(start(k), min(start(k + 1), len(records)))
            skips, found = Skips(stream.cfg.on_bad_record), []
            left = dataclasses.replace(records, index=np.setdiff1d(numbers, stream.held))
            for block in texts(left, self._field, skips):
                found += block
            yield k, self._part(k, found, skips)

    def _files(self, paths: Sequence[Path]) -> Iterator[tuple[int, PartText]]:
        """Of files, from that on in which the first part begins, as far as it is known."""
        stream, cfg = self._stream, self._stream.cfg
        starts = _starts(stream.folder)
        skips, k, found = _Switched(cfg.on_bad_record), self._first, []
        at = max(bisect.bisect_right(starts, start(k)) - 1, 0) if starts else 0
        number = starts[at] if starts else 0
        held = set(stream.held.tolist())
        for i, copy in enumerate(_copies(paths[at:], stream.source, cfg), at):
            starts[i:] = [number]
            for record, _ in _in_file(paths[i], copy, stream.source, cfg, skips, self.notes):
                if number == start(k + 1):
                    yield k, self._part(k, found, skips.take())
                    _save_starts(stream.folder, starts)
                    k, found = k + 1, []
                if number == start(self._first) > 0:
                    skips.take()  # they are listed in the parts before
                if number >= start(k) and number not in held:
                    found.append((record[self._field], _logp(record)))
                number += 1
        self.records, self.parts = number, k + (number > start(k))
        if number > start(k):
            yield k, self._part(k, found, skips.take())
        _save_starts(stream.folder, starts)

    def _part(self, k: int, found: Sequence[tuple[str, float]], skips: Skips) -> PartText:
        full = [(text, logp) for text, logp in found if text.strip()]
        fim = self._stream.fim
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((fim.seed, k)))) if fim else None
        return PartText(
            texts=[text for text, _ in full],
            logps=[logp for _, logp in full],
            draws=rng.random((len(full), 3)) if rng else None,
            fim_rate=fim.rate if fim else 0.0,
            empty=len(found) - len(full),
            skipped=len(skips),
            listed=skips.content(),
        )


def _logp(record: dict[str, Any]) -> float:
    logp = record.get("logp")
    return float(logp) if isinstance(logp, float) and np.isfinite(logp) else np.nan


def _starts(folder: Path) -> list[int]:
    """The number of the first record of each file, of those that were read."""
    try:
        return list(atomic.read_sealed(folder / _STARTS)["starts"])
    except FileNotFoundError:
        return []
    except (ValueError, LookupError, TypeError) as error:
        print(f"{folder / _STARTS}: {error}: made anew", file=sys.stderr, flush=True)
        return []


def _save_starts(folder: Path, starts: Sequence[int]) -> None:
    if len(_starts(folder)) < len(starts):
        _write_sealed(folder / _STARTS, {"starts": list(starts)})


def _write_sealed(path: Path, record: dict[str, Any]) -> None:
    """As atomic.write_sealed, also where several processes write at once."""
    cache.write_whole(path, json.dumps(checksums.sealed(record), indent=1) + "\n")


def write(stream: TokenStream, only: Sequence[int] | None = None) -> None:
    """Writes the parts that are missing, or of `only` these, and how many there are.

    Of several processes that share the folder each leaves out what another one is at; what is missing at the end, since
    that one was stopped, is written then.
    """
    stream = stream._replace(tokenizer=token_workers.received(stream.tokenizer))
    with cache.full_disk(stream.folder):
        stream.folder.mkdir(parents=True, exist_ok=True)
        while (first := _first_missing(stream, only)) is not None:
            reader = _Reader(stream, first)
            with TokenWorkers(
                stream.tokenizer, stream.cfg.data_workers, lambda done: None, wait=False
            ) as pool:
                for k, text in reader:
                    if not stream.part(k).is_dir() and (only is None or k in only):
                        pool.submit(stream.part(k), text, 1)
                    if only is not None and k >= max(only):
                        break
            if only is None and not _finished(stream, reader):
                time.sleep(_PAUSE)


def _first_missing(stream: TokenStream, only: Sequence[int] | None) -> int | None:
    """The first part that is to be written; None where all are there."""
    if only is not None:
        return next((k for k in sorted(only) if not stream.part(k).is_dir()), None)
    end = stream.end()
    for k in itertools.count():
        if end is not None and k >= end["parts"]:
            return None
        if not token_parts.there(stream.part(k)):
            return k
    raise AssertionError("unreachable")


def _finished(stream: TokenStream, reader: _Reader) -> bool:
    """Whether no part is missing, as one that another process is at. Then writes how many there are, and what was left
    out.
    """
    if not all(stream.part(k).is_dir() for k in range(reader.parts)):
        return False
    counts = Counter(records=reader.records, parts=reader.parts, documents=0, empty=0, skipped=0, bytes=0)
    listed = b""
    for k in range(reader.parts):
        part = token_parts.open_part(stream.part(k))
        counts.update(documents=len(part.slack), empty=part.empty, skipped=part.skipped, bytes=part.size)
        listed += (part.path / LISTED).read_bytes()
    cache.write_whole(stream.folder / LISTED, listed)
    _write_sealed(stream.folder / _END, {**counts, "notes": reader.notes.lines()})
    for line in about(stream):
        print(f"train {stream.source.path_label}: {line}", file=sys.stderr, flush=True)
    return True


def about(stream: TokenStream) -> Iterator[str]:
    """Lines on what was read and left out, once all was read."""
    end = stream.end()
    if end is None:
        return
    yield f"all is tokenised: {end['documents']:,} documents, {end['bytes']:,} bytes"
    if end["empty"]:
        yield f"{end['empty']:,} empty documents dropped"
    if end["skipped"]:
        yield f"{end['skipped']:,} bad records skipped, listed in {stream.folder / LISTED}"
    yield from end["notes"]


class StreamWriter:
    """Writes the missing parts of a stream by a process beside this one."""

    def __init__(self, stream: TokenStream):
        self._stream = stream
        self._pulse = concurrent.futures.ThreadPoolExecutor(1, "pulse")
        self._error: BaseException | None = None
        # A daemon: the end of this process waits for no end of the work, and ends the worker.
        self._thread = threading.Thread(target=self._run, name="writing tokens", daemon=True)
        if _first_missing(stream, None) is not None:
            self._thread.start()

    def _run(self) -> None:
        try:
            _in_worker(self._stream, None)
        except Exception as error:  # it is raised where a part is waited for
            self._error = error

    def at_work(self) -> bool:
        """Whether parts are being written. Raises what has gone wrong, and RuntimeError where this process ends."""
        self._pulse.submit(int)  # which an interpreter that shuts down refuses
        at_work = self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return at_work

    def rebuild(self, k: int) -> None:
        """Writes a part anew that was damaged and is away, and waits for it."""
        _in_worker(self._stream, [k])


def _in_worker(stream: TokenStream, only: Sequence[int] | None) -> None:
    worker = Worker(niceness=_NICENESS)
    try:
        worker.call(write, stream, only)
    finally:
        worker.close()
