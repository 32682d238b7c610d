"""What a teacher said of packed rows, its likeliest tokens at every position, kept in ArrayRecord files.

Teachers that are too big to stand beside their student say it once, before the student is loaded.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from jaxtrain.data.mlm_fim import Row

SHARD = 8_192  # rows of a file: reading one costs time in proportion to them


def write(folder: Path, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Keeps (ids i32[n, T, k], log-probabilities f32[n, T, k]) of rows, one part after the other."""
    writer, count = None, 0
    for ids, logps in parts:
        for one, its in zip(ids, logps, strict=True):
            if count % SHARD == 0:
                if writer is not None:
                    writer.close()
                writer = ArrayRecordWriter(str(folder / f"{count // SHARD:05d}.array_record"), "group_size:1")
            writer.write(np.stack([one.astype("<i4"), its.astype("<f4").view("<i4")]).tobytes())
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
