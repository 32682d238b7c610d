"""The batches of steps that were not applied, for people: the arrays, and their rows as text."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.files import atomic
from jaxtrain.train import preflight
from jaxtrain.types import Metrics

FOLDER = "bad_batches"  # of a run, with step-N.npz and step-N.json for each
MOST = 8  # of a run


def write_batch(
    workdir: Path,
    step: int,
    batch: Mapping[str, np.ndarray],
    decode: Callable[[Sequence[int]], str],
    why: str,
    metrics: Metrics,
) -> Path | None:
    """The .npz file of a step's global batch, written; None where the run has MOST others.

    The .json file beside it has the reason, the step's metrics and the targets of each row, with what is not in the
    loss between ⟨ and ⟩. Raises OSError where they cannot be written.
    """
    file = workdir / FOLDER / f"step-{step}.npz"
    if not file.exists() and file.parent.is_dir() and len(list(file.parent.glob("*.npz"))) >= MOST:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"row": row, "positions": positions, "in_the_loss": count, "targets": text}
        for row, count, positions, text in preflight.decoded_rows(batch, decode)
    ]
    body = {"step": step, "batch": step - 1, "why": why, "metrics": _means(metrics), "rows": rows}
    atomic.write_text(file.with_suffix(".json"), json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    with atomic.replacing(file) as out:
        np.savez_compressed(out, **batch)
    return file


def _means(metrics: Metrics) -> dict[str, Any]:
    """The step's metrics; what is not finite by its name, which JSON has no number for."""
    means = {
        name: float(total) / float(count) if count else math.nan for name, (total, count) in metrics.items()
    }
    return {name: value if math.isfinite(value) else str(value) for name, value in means.items()}
