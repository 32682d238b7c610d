"""--async_steps=1: the next iteration's completions are sampled while the updates on this one's go on.

They are of the policy before these updates, one step off, as at the first update on them their log-probabilities are
computed anew and weighted (rl/sampling_correction.py). What is sampled depends on the policy and the prompts alone, so
that a run has the same results whatever its speed. A checkpoint waits for them, and they are stored beside it.
"""

import hashlib
import io
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.files import atomic, progress
from jaxtrain.rl.completion_table import plain
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.rl.rollout_store import FOLDER, Rollout
from jaxtrain.rl.scoring import ScoredBatch, object_column
from jaxtrain.stages import trainer
from jaxtrain.stages.session import Session
from jaxtrain.train import workdir
from jaxtrain.types import TrainState

Draw = Callable[[TrainState, int], tuple[ScoredBatch, int]]  # of flat_groups.filler
META = "rollout_ahead"  # key of a checkpoint's meta
SUFFIX = ".next"  # of a file in FOLDER: what was sampled during the iteration that began at this step


class Sampled(NamedTuple):
    """An iteration's completions before they are trained on."""

    taken: int  # prompts that were sampled from before it
    after: int  # and after it
    batch: ScoredBatch


class RolloutsAhead:
    """The completions of the next iteration, sampled in a thread. With --async_steps=0 there are none.

    Raises ConfigError with several processes, whose threads would wait for one another.
    """

    def __init__(self, cfg: WatchedStageConfig, session: Session):
        self._cfg, self._session = cfg, session
        if cfg.sampler.async_steps and jax.process_count() > 1:
            raise ConfigError("--async_steps=1: it takes one process, as a thread samples; leave it out")
        self._active = bool(cfg.sampler.async_steps) and not cfg.run.dry_run
        self._draw: Draw | None = None
        self._thread: threading.Thread | None = None
        self._result: Sampled | BaseException | None = None
        self._first = 0  # of the iteration in which they are sampled
        self._facts: dict[str, Any] = {}  # of their file, once there is one

    def of(self, draw: Draw) -> Draw:
        """A draw that returns what was sampled ahead for these prompts, where there is any."""
        self._draw = draw

        def run(state: TrainState, taken: int) -> tuple[ScoredBatch, int]:
            ahead = self.wait()
            self._result, self._facts = None, {}
            return (ahead.batch, ahead.after) if ahead and ahead.taken == taken else draw(state, taken)

        return run

    def start(self, state: TrainState, rollout: Rollout) -> None:
        """Starts to sample the iteration after `rollout`, which begins now, from the policy in the state."""
        s = self._cfg.samples
        last = rollout.first + s.epochs * s.minibatches >= self._cfg.run.steps
        if not self._active or last or self._thread or self._result:
            return
        # The step donates the state to its update.
        copied = jax.tree.map(jnp.copy, state._replace(opt_state=(), extra=(), rng=None))
        self._first, self._facts = rollout.first, {}
        self._thread = threading.Thread(target=self._run, args=(copied, rollout.next_taken), name="rollouts")
        self._thread.start()

    def _run(self, state: TrainState, taken: int) -> None:
        try:
            with progress.in_background():
                batch, after = self._draw(state, taken)
            self._result = Sampled(taken, after, batch)
        except BaseException as error:  # raised where they are waited for
            self._result = error

    def wait(self) -> Sampled | None:
        """What is sampled ahead, once it is complete; None where nothing is. Raises what the sampling raised."""
        self._join()
        if isinstance(self._result, BaseException):
            error, self._result = self._result, None
            raise error
        return self._result

    def _join(self) -> None:
        while self._thread is not None:
            self._thread.join(1.0)
            if not self._thread.is_alive():
                self._thread = None

    def waited_for(self, stage: trainer.Stage) -> trainer.Stage:
        """The stage, whose evaluation and samples wait for what is sampled ahead."""
        return stage._replace(score=self.waiting(stage.score), sample=self.waiting(stage.sample))

    def waiting(self, function: Callable[..., Any] | None) -> Callable[..., Any] | None:
        """A function that waits first: samplers and rewards are not called by two threads at once."""
        if not self._active or function is None:
            return function

        def run(*args: Any) -> Any:
            self.wait()
            return function(*args)

        return run

    def meta(self) -> dict[str, Any]:
        """What a checkpoint's meta has of it: it waits, and writes the file that the checkpoint needs.

        Where the sampling failed there is nothing: the error is raised once its completions are wanted.
        """
        self._join()
        ahead = self._result
        if not isinstance(ahead, Sampled):
            return {}
        if not self._facts:
            data = _packed(ahead)
            self._facts = {"first": self._first, "digest": _digest(data)}
            if self._session.primary:
                save(self._session.path, self._first, data)
        return {META: self._facts}

    def unusable(self, step: int, meta: Mapping[str, Any], rollout: Rollout) -> str:
        """Why training cannot go on from a checkpoint with this rollout, empty if it can; then it is held."""
        self._result, self._facts = None, {}
        if not self._active or step >= self._cfg.run.steps:
            return ""
        if rollout.first == step:
            lost = not rollout.columns and rollout.iteration >= 0
            return f"the rollout of step {step} was sampled by an earlier policy, and is lost" if lost else ""
        facts = meta.get(META)
        if not facts:  # nothing was sampled ahead, so that the policy of this step samples
            return ""
        file = _file(self._session.path, facts["first"])
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return f"{file} is missing"
        if _digest(data) != facts["digest"]:
            return f"{file} is damaged (it differs from what was written)"
        ahead = _unpacked(data)
        if ahead.taken != (rollout.next_taken if rollout.columns else rollout.taken):
            return f"{file} is of another attempt"
        self._result, self._first, self._facts = ahead, facts["first"], dict(facts)
        return ""


def save(path: Path, first: int, data: bytes) -> None:
    """Writes a file, and deletes those that no checkpoint needs: it needs the newest one before its step."""
    with atomic.replacing(_file(path, first)) as file:
        file.write(data)
    names = [file.name.removesuffix(SUFFIX) for file in (path / FOLDER).glob(f"*{SUFFIX}")]
    stored, saved = (
        [int(name) for name in names if name.isdecimal()],
        workdir.saved_steps(path / workdir.CHECKPOINTS),
    )
    needed = {max((one for one in stored if one < step), default=0) for step in saved}
    for one in stored:
        if saved and one < saved[-1] and one not in needed:
            _file(path, one).unlink()


def _file(path: Path, first: int) -> Path:
    return path / FOLDER / f"{first:08d}{SUFFIX}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _packed(ahead: Sampled) -> bytes:
    """The bytes of a file: arrays as NumPy has them, the texts and what functions log as JSON."""
    batch = ahead.batch
    arrays = {f"rows/{name}": x for name, x in batch.rows.items()}
    arrays |= {f"stats/{name}": x for name, x in batch.stats.items()}
    texts = {
        "taken": ahead.taken,
        "after": ahead.after,
        "texts": batch.texts.tolist(),
        "extra": {name: [plain(x) for x in column] for name, column in batch.extra.items()},
        "turns": None if batch.turns is None else batch.turns.tolist(),
    }
    buffer = io.BytesIO()
    np.savez(buffer, scores=batch.scores, ended=batch.ended, texts=np.array(json.dumps(texts)), **arrays)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Sampled:
    with np.load(io.BytesIO(data)) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    texts = json.loads(str(columns.pop("texts")))

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): x for name, x in columns.items() if name.startswith(prefix)}

    batch = ScoredBatch(
        rows=part("rows/"),
        scores=columns["scores"],
        ended=columns["ended"],
        stats=part("stats/"),
        texts=np.array(texts["texts"], object).reshape(-1, 2),
        extra={name: object_column(column) for name, column in texts["extra"].items()},
        turns=None if texts["turns"] is None else object_column(texts["turns"]),
    )
    return Sampled(texts["taken"], texts["after"], batch)
