"""Rollouts on disk, so that a run killed at any update goes on with the same batches."""

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

FOLDER = "rollouts"  # of the run, STEP.npz in it: STEP updates were done before


class Rollout(NamedTuple):
    """An iteration's completions, on every host whole."""

    first: int  # updates done before it
    iteration: int
    taken: int  # prompts that were drawn from before it
    kl_coef: float
    columns: dict[str, np.ndarray]  # [R, ...]
    next_taken: int
    next_kl_coef: float


def save_rollout(session: Session, held: Rollout) -> None:
    """Writes a rollout, and deletes those that no checkpoint can need."""
    if not session.primary:
        return
    folder = session.path / FOLDER
    folder.mkdir(exist_ok=True)
    facts = {name: value for name, value in held._asdict().items() if name != "columns"}
    with atomic.replacing(folder / f"{held.first:08d}.npz") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **held.columns)
    there = _there(folder)
    saved = workdir.saved_steps(session.path / workdir.CHECKPOINTS)
    # A checkpoint may still be on its way to the disk: without any, the last few rollouts stay.
    oldest = max((first for first in there if first <= saved[0]), default=0) if saved else there[-4:][0]
    for first in there:
        if first < oldest:
            (folder / f"{first:08d}.npz").unlink()


def _there(folder: Path) -> list[int]:
    return sorted(int(file.stem) for file in folder.glob("*.npz")) if folder.is_dir() else []


def load_rollout(session: Session, step: int, kl_coef: float) -> Rollout:
    """The rollout that update `step` belongs to, or follows; before the first an empty one."""
    folder = session.path / FOLDER
    there = [first for first in _there(folder) if first <= step]
    if not there:
        if step:
            raise config.Failure(
                f"{folder} has no rollout of step {step} or before, which the checkpoint needs: restore the folder, "
                "or start again in another --workdir"
            )
        return Rollout(0, -1, 0, kl_coef, {}, 0, kl_coef)
    file = folder / f"{there[-1]:08d}.npz"
    try:
        with open(file, "rb") as raw, np.load(raw) as held:
            columns = {name: held[name] for name in held.files}
            return Rollout(columns=columns, **json.loads(str(columns.pop("facts"))))
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise config.Failure(
            f"{file} is damaged ({error}): restore it, or start again in another --workdir"
        ) from error
