"""Documents and tokens a second from text to token ids, by cores: this project's caches, and how others do it.

Each measurement has a process of its own, bound with all the processes that it starts to as many cores as its row says.
"""

import contextlib
import dataclasses
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import Corpus
from jaxtrain.data import source_spec, sources, stream_files, token_cache, token_stream, tokenizer_training
from jaxtrain.data.token_stream import TokenStream
from jaxtrain.data.token_workers import received
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files.workers import Worker

_TICK = 0.05  # seconds between looks at the memory
_GROUP = 1_000  # documents of a row group of Parquet, and of a batch of the others


class TokenSpeed(NamedTuple):
    """What one way took."""

    seconds: float
    first: float  # seconds to the first token ids
    documents: int
    tokens: int
    cpu: float = 0.0  # seconds of all its processes
    memory: int = 0  # most bytes of all its processes at once

    def numbers(self, size: int) -> dict[str, float]:
        """By name; `size` are the bytes of the text."""
        return {
            "documents_per_s": self.documents / self.seconds,
            "tokens_per_s": self.tokens / self.seconds,
            "megabytes_per_s": size / 1e6 / self.seconds,
            "first_s": self.first,
            "tokens_per_cpu_s": self.tokens / self.cpu,
            "memory": self.memory,
        }


class _Work(NamedTuple):
    """What a measurement is given."""

    cfg: Corpus
    tokenizer: Tokenizer
    parquet: Path
    folder: Path


def _streaming(work: _Work) -> TokenSpeed:
    """The cache of --streaming: reading, tokenising and writing at once."""
    (source,) = source_spec.parse(work.cfg.data)
    begun, wall = time.perf_counter(), time.time()
    files = stream_files.of_source(source, work.cfg)
    paths = None if files is None else files.of_main(source)
    stream = TokenStream(
        source, work.cfg, paths, np.zeros(0, np.int64), work.tokenizer, None, work.folder / "stream"
    )
    token_stream.write(stream)
    seconds = time.perf_counter() - begun
    sizes = (path.stat().st_size for path in stream.folder.glob("*/ids.bin"))
    width = 2 if work.tokenizer.vocab_size <= 1 << 16 else 4
    first = stream.part(0).stat().st_ctime - wall
    return TokenSpeed(seconds, first, stream.end()["documents"], sum(sizes) // width)


def _cache(work: _Work) -> TokenSpeed:
    """The cache of a run without --streaming: the records of files are copied first, to be read by number."""
    (source,) = source_spec.parse(work.cfg.data)
    begun = time.perf_counter()
    cfg = work.cfg
    records = sources.whole(source, cfg)
    field, folder = sources.text_field(source, cfg), sources.cache_dir(cfg)
    found = token_cache.tokenise(
        records, work.tokenizer, field, cfg.on_bad_record, folder, None, workers=cfg.data_workers
    )
    seconds = time.perf_counter() - begun
    return TokenSpeed(seconds, seconds, len(found), len(found.ids))


def _datasets_map(work: _Work) -> TokenSpeed:
    """datasets.map(num_proc), to Arrow files."""
    import datasets

    datasets.disable_progress_bars()
    kind, cores = work.tokenizer, len(os.sched_getaffinity(0))
    if cores > 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    begun = time.perf_counter()
    rows = datasets.load_dataset(
        "parquet", data_files=str(work.parquet), split="train", cache_dir=str(work.folder / "datasets")
    )
    made = rows.map(
        lambda batch: {"ids": [[kind.bos, *ids, kind.eos] for ids in kind.encode(batch["text"])]},
        batched=True,
        batch_size=_GROUP,
        num_proc=cores if cores > 1 else None,
        remove_columns=["text"],
    )
    seconds = time.perf_counter() - begun
    import pyarrow.compute

    tokens = pyarrow.compute.sum(pyarrow.compute.list_value_length(made.data["ids"])).as_py()
    return TokenSpeed(seconds, seconds, len(made), tokens)


def _loop(work: _Work) -> TokenSpeed:
    """A loop over row groups of Parquet that encodes each in threads and keeps nothing, as nanochat's loader does."""
    import pyarrow.parquet

    begun, first, documents, tokens = time.perf_counter(), 0.0, 0, 0
    file = pyarrow.parquet.ParquetFile(work.parquet)
    for group in range(file.num_row_groups):
        texts = file.read_row_group(group).column("text").to_pylist()
        for ids in work.tokenizer.encode(texts):
            row = np.asarray([work.tokenizer.bos, *ids, work.tokenizer.eos], np.int64)
            documents, tokens = documents + 1, tokens + len(row)
        first = first or time.perf_counter() - begun
    return TokenSpeed(time.perf_counter() - begun, first, documents, tokens)


WAYS: dict[str, Callable[[_Work], TokenSpeed]] = {
    "--streaming": _streaming,
    "without it": _cache,
    "datasets.map": _datasets_map,
    "loop": _loop,
}
_NEEDS_DATASETS = {"datasets.map": "datasets", "loop": "pyarrow"}


def _bound(way: str, work: _Work, cores: int) -> TokenSpeed:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    ended, most = threading.Event(), [0]

    def watch() -> None:
        over = False
        while not over:  # once more at the end: a way may be over before the first look
            over = ended.wait(_TICK)
            most[0] = max(most[0], sum(map(_resident, _family(os.getpid()))))

    before, thread = _cpu_seconds(), threading.Thread(target=watch)
    thread.start()
    try:
        found = WAYS[way](work._replace(tokenizer=received(work.tokenizer)))
    finally:
        ended.set()
        thread.join()
    return found._replace(cpu=_cpu_seconds() - before, memory=most[0])


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _family(pid: int) -> list[int]:
    """A process and those below it."""
    found = [pid]
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _resident(pid: int) -> int:
    """Bytes of a process in memory; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _write_parquet(cfg: Corpus, path: Path) -> int:
    """Writes the text of --data as Parquet; returns its bytes."""
    import pyarrow as pa
    import pyarrow.parquet

    (source,) = source_spec.parse(cfg.data)
    records, size = sources.whole(source, cfg), 0
    field = sources.text_field(source, cfg)
    with pyarrow.parquet.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for start in range(0, len(records), _GROUP):
            rows = records.many(range(start, min(start + _GROUP, len(records))))
            texts = [row[field] for row in rows]
            size += sum(len(text.encode()) for text in texts)
            writer.write_table(pa.table({"text": texts}), row_group_size=_GROUP)
    return size


def measure(cfg: Corpus, rounds: int = 1) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(way, cores, numbers) of every way on one core and on all; of `rounds` measurements in turn the fastest.

    `numbers` is empty for one whose package is missing.
    """
    (source,) = source_spec.parse(cfg.data)
    tokenizer, _ = tokenizer_training.make(cfg, [(source, sources.whole(source, cfg))])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = _write_parquet(cfg, folder / "text.parquet")
        everything = cfg.data_workers or len(os.sched_getaffinity(0))
        for cores in sorted({1, everything}):
            best: dict[str, TokenSpeed | None] = {}
            for turn in range(rounds):
                for way in WAYS:
                    at = folder / f"{way.strip('-')}-{cores}-{turn}"
                    own = _changed(cfg, at, cores)
                    found = _in_worker(way, _Work(own, tokenizer, folder / "text.parquet", at), cores)
                    best[way] = min(filter(None, [best.get(way), found]), default=None)
            for way in WAYS:
                yield way, cores, best[way].numbers(size) if best.get(way) else {}


def _changed(cfg: Corpus, folder: Path, cores: int) -> Corpus:
    folder.mkdir()
    return dataclasses.replace(cfg, cache_dir=str(folder / "cache"), data_workers=cores)


def _in_worker(way: str, work: _Work, cores: int) -> TokenSpeed | None:
    """What `way` took in a process of its own; None where its package is missing."""
    worker = Worker()
    try:
        return worker.call(_bound, way, work, cores)
    except ModuleNotFoundError as error:
        if error.name != _NEEDS_DATASETS.get(way):
            raise
        return None
    finally:
        worker.close()
