"""A teacher's likeliest tokens at every position of packed rows, in ArrayRecord files of the cache.

A teacher that is too big to be loaded beside its student runs over the data once, before the student is loaded.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from jaxtrain.config import ConfigError
from jaxtrain.data.mlm_fim import Row
from jaxtrain.data.packed_rows import PackedRows
from jaxtrain.data.pipeline import Stream
from jaxtrain.distillation.config import DistillConfig
from jaxtrain.distillation.teacher import Teacher
from jaxtrain.files import cache
from jaxtrain.files.progress import bar
from jaxtrain.ops.divergences import top_k
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import digest, multihost, parallel
from jaxtrain.types import Params

COLUMNS = ("tokens", "targets", "mask", "segments", "positions")
SHARD = 8_192  # rows of a file: reading one costs time in proportion to them


def write(folder: Path, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes (ids i32[n, T, k], log-probabilities f32[n, T, k]) of rows, one part after the other."""
    writer, count = None, 0
    for ids, logps in parts:
        for row_ids, row_logps in zip(ids, logps, strict=True):
            if count % SHARD == 0:
                if writer is not None:
                    writer.close()
                writer = ArrayRecordWriter(str(folder / f"{count // SHARD:05d}.array_record"), "group_size:1")
            writer.write(np.stack([row_ids.astype("<i4"), row_logps.astype("<f4").view("<i4")]).tobytes())
            count += 1
    if writer is not None:
        writer.close()


class TopK(Sequence[Row]):
    """teacher_ids i32[T, k] and teacher_logps f32[T, k] of each row, by number."""

    def __init__(self, folder: Path, T: int):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._records, self._T = ArrayRecordDataSource(sorted(map(str, folder.glob("*.array_record")))), T

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, r: int) -> Row:
        ids, logps = np.frombuffer(self._records[int(r)], "<i4").reshape(2, self._T, -1)
        return {"teacher_ids": ids.astype(np.int32), "teacher_logps": logps.view("<f4").astype(np.float32)}


def cache_folder(cfg: DistillConfig) -> Path:
    """The folder of --cache_dir with the teachers' tables."""
    return Path(cfg.data.cache_dir).expanduser() / "teachers"


def cached_topk(cfg: DistillConfig, teacher: Teacher, plan: parallel.Plan, rows: PackedRows) -> Sequence[Row]:
    """The teacher's likeliest tokens at every position of packed rows, from the cache where they are there."""
    k, tau, B, T = cfg.loss.teacher_topk, cfg.loss.soft_temperature, cfg.data.batch_size, cfg.data.seq_len
    if k > teacher.start.arch.vocab:
        raise ConfigError(
            f"--teacher_topk={k}: the teacher's vocabulary has {teacher.start.arch.vocab} tokens"
        )
    parts_of_key = (
        digest.tree_digest(teacher.params),
        rows.documents.fingerprint,
        T,
        k,
        tau,
        dataclasses.asdict(cfg.model),
    )
    folder = cache_folder(cfg) / cache.digest(1, *parts_of_key)

    def likeliest(params: Params, frozen: Params, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        ids, logps = top_k(logits(teacher.model.hidden(params, batch), teacher.model.head(params)), k, tau)
        return {"ids": ids, "logps": logps}

    compiled = plan.rows(likeliest)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        count = len(rows)
        stream = Stream(lambda i: _model_columns(rows[min(i, count - 1)]), B, plan.local_rows, -(-count // B))
        with bar("the teacher's log-probabilities", len(stream), least=20) as advance:
            for i in range(len(stream)):
                table = plan.get(compiled(teacher.params, (), plan.put(stream.batch(i))))
                left = count - i * B
                yield table["ids"][:left], table["logps"][:left]
                advance(1)

    if not all(multihost.gather(cache.intact(folder))):
        _build(folder, parts(), alone=plan.process[1] == 1)
    return TopK(folder, T)


def _build(folder: Path, parts: Iterable[tuple[np.ndarray, np.ndarray]], alone: bool) -> None:
    if alone:
        cache.build(folder, lambda work: write(work, parts))
        return
    # The hosts compute the parts together, so none may wait meanwhile for another that holds the cache's lock.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with cache.full_disk(folder), tempfile.TemporaryDirectory(dir=folder.parent) as own:
        write(Path(own), parts)
        cache.build(folder, lambda work: shutil.copytree(own, work, dirs_exist_ok=True))


def _model_columns(row: Row) -> Row:
    return {name: row[name] for name in COLUMNS}
