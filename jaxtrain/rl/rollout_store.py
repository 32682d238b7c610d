"""Rollouts on disk, so that a run that is killed at any update resumes with the same batches."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtrain import config
from jaxtrain.files import atomic
from jaxtrain.stages.session import Session
from jaxtrain.train import workdir

FOLDER = "rollouts"  # of the run, with a STEP.npz for each rollout: STEP updates were done before it
_NAMES = {"old_logps": "old", "ref_logps": "reference"}  # columns with another name on disk
_COLUMNS = {name: column for column, name in _NAMES.items()}


class Rollout(NamedTuple):
    """The completions of an iteration, all of them on every host. Its fields are keys on disk."""

    first: int  # updates done before it
    iteration: int
    taken: int  # prompts that were sampled from before it
    kl_coef: float
    columns: dict[str, np.ndarray]  # [R, ...]
    next_taken: int
    next_kl_coef: float


def save_rollout(session: Session, rollout: Rollout) -> None:
    """Writes a rollout, and deletes those that no checkpoint can need."""
    if not session.primary:
        return
    folder = session.path / FOLDER
    folder.mkdir(exist_ok=True)
    facts = {name: value for name, value in rollout._asdict().items() if name != "columns"}
    columns = {_NAMES.get(name, name): x for name, x in rollout.columns.items()}
    with atomic.replacing(folder / f"{rollout.first:08d}.npz") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **columns)
    stored = _steps(folder)
    saved = workdir.saved_steps(session.path / workdir.CHECKPOINTS)
    # A checkpoint may still be on its way to the disk: without any, the last few rollouts stay.
    oldest = max((first for first in stored if first <= saved[0]), default=0) if saved else stored[-4:][0]
    for first in stored:
        if first < oldest:
            (folder / f"{first:08d}.npz").unlink()


def _steps(folder: Path) -> list[int]:
    return sorted(int(file.stem) for file in folder.glob("*.npz")) if folder.is_dir() else []


def load_rollout(session: Session, step: int, kl_coef: float) -> Rollout:
    """The rollout of update `step`, or the one before it; before the first an empty one."""
    folder = session.path / FOLDER
    stored = [first for first in _steps(folder) if first <= step]
    if not stored:
        if step:
            raise config.Failure(
                f"{folder} has no rollout of step {step} or before, which the checkpoint needs: restore the folder, "
                "or start again in another --workdir"
            )
        return Rollout(0, -1, 0, kl_coef, {}, 0, kl_coef)
    file = folder / f"{stored[-1]:08d}.npz"
    try:
        with file.open("rb") as raw, np.load(raw) as arrays:
            columns = {_COLUMNS.get(name, name): arrays[name] for name in arrays.files}
            return Rollout(columns=columns, **json.loads(str(columns.pop("facts"))))
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise config.Failure(
            f"{file} is damaged ({error}): restore it, or start again in another --workdir"
        ) from error
