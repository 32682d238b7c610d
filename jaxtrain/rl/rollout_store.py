"""Rollouts on disk, so that a run that is killed at any update resumes with the same batches.

A checkpoint holds the facts and the digest of the rollout of its last update. Where that rollout is missing or damaged,
the run goes on from a checkpoint that does not need it: the same updates follow from there, to the bit.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxtrain.files import atomic, progress
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.rl.reward_history import RewardHistory
from jaxtrain.stages.session import Session, print_lines
from jaxtrain.train import multihost, workdir

FOLDER = "rollouts"  # of the run, with a STEP.npz for each rollout: STEP updates were done before it
META = "rollout"  # key of a checkpoint's meta
_NAMES = {"old_logps": "old", "ref_logps": "reference"}  # columns with another name on disk
_COLUMNS = {name: column for column, name in _NAMES.items()}
_DIGEST = "digest"  # key of a rollout's facts; those of earlier releases have none


class Rollout(NamedTuple):
    """The completions of an iteration, all of them on every host. Its fields are keys on disk."""

    first: int  # updates done before it
    iteration: int
    taken: int  # prompts that were sampled from before it
    kl_coef: float
    columns: dict[str, np.ndarray]  # [R, ...]
    next_taken: int
    next_kl_coef: float
    entropy_coef: float | None = None  # with --entropy_target; those of earlier releases have none
    next_entropy_coef: float | None = None

    def following(self) -> "Rollout":
        """The next iteration's, which is to be sampled."""
        return self._replace(
            columns={}, taken=self.next_taken, kl_coef=self.next_kl_coef, entropy_coef=self.next_entropy_coef
        )


class Ahead(Protocol):
    """What is sampled ahead of the current rollout (rl/rollouts_ahead.py)."""

    def meta(self) -> dict[str, Any]: ...

    def unusable(self, step: int, meta: Mapping[str, Any], rollout: Rollout) -> str: ...


class RolloutStore:
    """The rollouts of one run. All hosts of a run call its methods alike."""

    def __init__(self, cfg: WatchedStageConfig, session: Session, kl_coef: float, ahead: Ahead | None = None):
        self._ahead = ahead
        self._session, self._steps, self._stop_kl = session, cfg.run.steps, cfg.samples.stop_kl
        self._updates = cfg.samples.epochs * cfg.samples.minibatches
        self._current = Rollout(0, -1, 0, kl_coef, {}, 0, kl_coef)
        self._record: dict[str, Any] = {}
        self.rewards = RewardHistory(cfg.watch.stop_on_overoptimisation)

    def current(self) -> Rollout:
        """The rollout that training goes on with; without columns it is to be sampled."""
        return self._current

    def meta(self) -> dict[str, Any]:
        """What a checkpoint's meta has of the rollouts: JSON values."""
        return {**self._record, **self.rewards.meta(), **(self._ahead.meta() if self._ahead else {})}

    def save(self, rollout: Rollout) -> None:
        """Writes a rollout, and deletes those that no checkpoint needs."""
        self._record = {META: {**_facts(rollout), _DIGEST: _digest(rollout)}}
        self._current = rollout
        self.rewards.add(rollout.first, rollout.columns)
        if self._session.primary:
            save_rollout(self._session.path, rollout)
        progress.stop_point(
            f"rollout of step {rollout.first}"
        )  # before it is trained on, where the rewards end it

    def unusable(self, step: int, meta: Mapping[str, Any]) -> str:
        """Why training cannot go on from a checkpoint, empty if it can; then `current` is the rollout for it."""
        why = self._unusable(step, meta)
        return why or (self._ahead.unusable(step, meta, self._current) if self._ahead else "")

    def _unusable(self, step: int, meta: Mapping[str, Any]) -> str:
        facts, finished = meta.get(META), step >= self._steps
        loaded, again, why = self._of_record(step, facts) if facts else self._of_files(step)
        every = multihost.gather((loaded is not None, why))
        self.rewards.restore(step, meta)
        self._record = {META: dict(facts)} if facts else {}
        if all(there for there, _ in every):
            self._current = loaded
            if loaded.columns:
                self.rewards.add(loaded.first, loaded.columns)
                self._record = {META: {**_facts(loaded), _DIGEST: _digest(loaded)}}
        elif again is not None:
            self._current = again
            if not finished:
                line = f"{next(why for _, why in every if why)}: sampled from the policy of step {step}"
                print_lines([line], self._session.primary)
        elif not finished:
            self._record = {}
            return next(why for _, why in every if why)
        return ""

    def _of_record(self, step: int, facts: Mapping[str, Any]) -> tuple[Rollout | None, Rollout | None, str]:
        """(the rollout, its place where the policy of `step` can sample it, what is wrong with the file)."""
        want = Rollout(columns={}, **{name: value for name, value in facts.items() if name != _DIGEST})
        if want.first == step:
            again = want._replace(iteration=want.iteration - 1)
        elif step - want.first >= self._updates:
            again = want.following()
        else:
            again = None
        file = _file(self._session.path, step if again else want.first)
        try:
            loaded = _read(file)
        except _Damaged as error:
            return None, again, str(error)
        if again and loaded[:4] == (step, again.iteration + 1, again.taken, again.kl_coef):
            return loaded, again, ""
        if again is None and _digest(loaded) == facts[_DIGEST]:
            return loaded, None, ""
        return None, again, f"{file} is of another attempt"

    def _of_files(self, step: int) -> tuple[Rollout | None, Rollout | None, str]:
        """The same for a checkpoint of an earlier release, which has no facts."""
        path, updates = self._session.path, self._updates
        stored = [first for first in _steps(path / FOLDER) if step - updates <= first <= step]
        if not stored:
            return (self._current, None, "") if step == 0 else (None, None, f"{_file(path, step)} is missing")
        try:
            return _read(_file(path, stored[-1])), None, ""
        except _Damaged as error:
            why = str(error)
        if stored[-1] == step and step - updates in stored and not self._stop_kl:
            try:
                before = _read(_file(path, step - updates))
            except _Damaged:
                return None, None, why
            return None, before.following(), why
        return None, None, why


class _Damaged(Exception):
    """A rollout is missing or cannot be trusted; the message names the file."""


def save_rollout(path: Path, rollout: Rollout) -> None:
    """Writes a rollout to a run's folder, and deletes those that no checkpoint needs."""
    folder = path / FOLDER
    folder.mkdir(exist_ok=True)
    facts = json.dumps({**_facts(rollout), _DIGEST: _digest(rollout)})
    columns = {_NAMES.get(name, name): x for name, x in rollout.columns.items()}
    with atomic.replacing(_file(path, rollout.first)) as file:
        np.savez(file, facts=np.array(facts), **columns)
    stored = _steps(folder)
    saved = workdir.saved_steps(path / workdir.CHECKPOINTS)
    # A checkpoint may be on its way to the disk: the rollouts after the newest one stay, without any the last few.
    needed = {max((first for first in stored if first <= step), default=0) for step in saved}
    newest = saved[-1] if saved else stored[-4:][0] - 1
    for first in stored:
        if first <= newest and first not in needed:
            _file(path, first).unlink()


def _file(path: Path, first: int) -> Path:
    return path / FOLDER / f"{first:08d}.npz"


def _steps(folder: Path) -> list[int]:
    return sorted(int(file.stem) for file in folder.glob("*.npz")) if folder.is_dir() else []


def _facts(rollout: Rollout) -> dict[str, Any]:
    facts = {name: value for name, value in rollout._asdict().items() if name != "columns"}
    return {name: value for name, value in facts.items() if value is not None}


def _digest(rollout: Rollout) -> str:
    """A digest of a rollout's facts and columns, 32 hexadecimal digits."""
    state = hashlib.blake2b(json.dumps(_facts(rollout), sort_keys=True).encode(), digest_size=16)
    for name, x in sorted(rollout.columns.items()):
        state.update(f"{name} {x.dtype.str} {x.shape} ".encode())
        state.update(np.ascontiguousarray(x).tobytes())
    return state.hexdigest()


def _read(file: Path) -> Rollout:
    """The rollout in a file. Raises _Damaged."""
    try:
        with file.open("rb") as raw:
            if not zipfile.is_zipfile(raw):
                raise ValueError("no .npz file")
            raw.seek(0)
            with np.load(raw) as arrays:
                columns = {_COLUMNS.get(name, name): arrays[name] for name in arrays.files}
        facts = json.loads(str(columns.pop("facts")))
        digest = facts.pop(_DIGEST, None)
        rollout = Rollout(columns=columns, **facts)
    except FileNotFoundError as error:
        raise _Damaged(f"{file} is missing") from error
    except (
        OSError, EOFError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError,
        NotImplementedError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise _Damaged(f"{file} is damaged ({str(error) or type(error).__name__})") from error
    if digest not in (None, _digest(rollout)):
        raise _Damaged(f"{file} is damaged (it differs from what was written)")
    return rollout
