"""What a command leaves, so that two runs of it can be compared: arrays, metrics, order of data, result files."""

import fnmatch
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.files import atomic
from jaxtrain.train import metric_names, workdir

# Files that two runs of one command need not have in common: of times, of process ids, and what a kill left of a file.
OTHER = (
    "lock", "*.lock", "tensorboard/*", "checkpoints/*", "rollouts/*", "logs/*", "*.html",
    "metrics.jsonl.unreadable", "*.tmp", "times.json", "*.part", "*.aside*",
)  # fmt: skip
# Fields of config.json that are of a start, not of the run.
STARTS = {"command", "versions", "git", "resumed"}
VOLATILE = {
    *metric_names.TIMES,
    "seconds",
    "began",
    "created",
    "started",
    "wall",
    "cpu_seconds",
    "documents_per_second",
}
TOLERANCE = 1e-5  # on another number of devices


def arrays(step: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint as its bytes on the disk say, by name; no code of ours or Orbax's reads them."""
    import tensorstore

    base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{step}/state/"}}
    store = tensorstore.KvStore.open(base).result()
    names = [
        key.decode().removesuffix("/.zarray") for key in store.list().result() if key.endswith(b"/.zarray")
    ]
    specs = [{"driver": "zarr", "kvstore": {**base, "path": f"{name}/"}} for name in names]
    opened = [tensorstore.open(spec, open=True).result() for spec in specs]
    read = [one.read() for one in opened]
    return {name: np.asarray(one.result()) for name, one in sorted(zip(names, read, strict=True))}


def values(folder: Path) -> Iterator[tuple[str, Any]]:
    """(name, value) of all that counts under a folder: arrays of each newest checkpoint, and JSON values of files."""
    for saved in sorted(folder.rglob(workdir.CHECKPOINTS)):
        steps, where = workdir.saved_steps(saved), saved.relative_to(folder)
        yield f"{where}/newest", max(steps, default=None)
        for name, array in arrays(saved / str(steps[-1])).items() if steps else ():
            yield f"{where}/{steps[-1]}/{name}", array
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(fnmatch.fnmatch(f"/{name}", f"*/{one}") for one in OTHER):
            yield from _file(name, path)


def _file(name: str, path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        yield from ((f"{name}:{i}", steady(json.loads(line))) for i, line in enumerate(lines, 1))
    elif path.suffix == ".json":
        record = steady(atomic.read_sealed(path))  # its sum is of times too
        if path.name == workdir.CONFIG:
            record = {key: value for key, value in record.items() if key not in STARTS}
        yield name, record
    else:
        yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def steady(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if key not in VOLATILE}
    return [steady(one) for one in value] if isinstance(value, list) else value


def write(folder: Path, out: Path) -> None:
    """Writes what `values` finds: OUT.json, and OUT.npz with the arrays."""
    found = dict(values(folder))
    held = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    np.savez(out.with_suffix(".npz"), **held)
    plain = {name: value for name, value in found.items() if name not in held}
    atomic.write_text(out.with_suffix(".json"), json.dumps(plain))


def read(out: Path) -> dict[str, Any]:
    """What `write` has written."""
    with np.load(out.with_suffix(".npz")) as held:
        found = dict(held)
    return found | json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))


def difference(wanted: Mapping[str, Any], got: Mapping[str, Any], tolerance: float = 0.0) -> str:
    """The first difference, in words; empty: none. `tolerance` is relative for numbers above 1, absolute below."""
    if missing := [name for name in wanted if name not in got]:
        return f"{missing[0]} is missing ({len(missing)} in all)"
    if more := [name for name in got if name not in wanted]:
        return f"{more[0]} is there, and without the fault it is not ({len(more)} in all)"
    for name, value in wanted.items():
        if not _same(value, got[name], tolerance):
            return f"{name} differs: {_short(value)}, {_short(got[name])}"
    return ""


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not tolerance or not np.issubdtype(one.dtype, np.floating):
            return one.tobytes() == other.tobytes()
        return bool(np.all(np.abs(one - other) <= tolerance * np.maximum(1, np.abs(one))))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if tolerance and isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return type(one) is type(other) and one == other


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)} {hashlib.sha256(value.tobytes()).hexdigest()[:8]}"
    text = json.dumps(value)
    return text if len(text) < 90 else f"{text[:87]}..."


def record_batches(out: Path) -> Callable[[], None]:
    """A function that makes its process append {"step", "batch"}, a digest of each batch that is trained on."""

    def prepare() -> None:
        from jaxtrain.train import loop

        fit = loop.fit

        def recording(state, frozen, plan, step, next_batch, **options):
            def recorded(state):
                batch = next_batch(state)
                row = {"step": int(plan.get(state.step)), "batch": _digest(batch)}
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                return batch

            return fit(state, frozen, plan, step, recorded, **options)

        loop.fit = recording

    return prepare


def _digest(batch: Mapping[str, Any]) -> str:
    """Of the columns of whole numbers: tokens, masks and rows, which no rounding changes."""
    state = hashlib.sha256()
    for name, column in sorted(batch.items()):
        array = np.asarray(column)
        if not np.issubdtype(array.dtype, np.floating):
            state.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return state.hexdigest()[:16]


def order(path: Path) -> dict[int, set[str]]:
    """step -> digests of the batches that were trained on there, over all attempts."""
    found: dict[int, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        found.setdefault(row["step"], set()).add(row["batch"])
    return found
