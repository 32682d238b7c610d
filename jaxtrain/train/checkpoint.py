"""Checkpoints: one state pytree and JSON, saved in the background and verified when read, on any topology.

A checkpoint is WORKDIR/checkpoints/STEP, renamed into place when complete. Beside the arrays it holds a table
of every leaf's shape, dtype and digest. Orbax does not checksum array data: a flipped bit in its data file
restores silently as a wrong weight, so `restore` computes the digests again and falls back to the step before
where one differs. The small files beside the data have checksums (checkpoint_files.py), verified before Orbax reads.

Orbax is imported at the first save or restore, never on the way to a first step. Nothing here may be called
inside `jax.set_mesh`, and every process of a run calls everything.
"""

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from jaxtrain import full_disk
from jaxtrain.config import ConfigError, Failure, is_bucket_error, is_remote
from jaxtrain.files import checksums, paths, progress
from jaxtrain.train import checkpoint_files, digest, orbax_errors
from jaxtrain.train.best_checkpoint import Retain
from jaxtrain.train.checkpoint_files import META, STATE
from jaxtrain.train.checkpoint_upload import Upload, needs_upload
from jaxtrain.train.workdir import CHECKPOINTS, COMMITTED, saved_steps

HEADROOM = 1.1  # free space asked for before a save, as a multiple of the state's bytes
# Seconds that Orbax waits for a save. It measures them by the clock, which may jump; the watchdog measures none by it.
PATIENCE = 10**9
FAILURES = (OSError, ValueError, RuntimeError)  # what a failed write raises: the system, tensorstore, jax


class CheckpointError(Failure):
    """A checkpoint could not be written or none could be read. The message says where and what to do."""


class _Preserved(NamedTuple):
    """Orbax's interface of a policy, which it asks when a save begins, and follows when it is complete."""

    retain: Retain

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        stay = self.retain([each.step for each in checkpoints])
        return [each.step in stay for each in checkpoints]


Unusable = Callable[[int, dict], str]  # (step, meta) -> why training cannot go on from there, empty if it can


class _Damaged(Exception):
    """One step cannot be trusted; the message names the leaf or the file."""


class _Unusable(Exception):
    """Training cannot go on from a step that is intact; the message says why."""


class Checkpoints:
    """The checkpoints of one run. Use as a context manager: leaving it waits for the save under way."""

    def __init__(self, workdir: Path, keep: int):
        self._workdir = workdir
        self.folder = paths.absolute(workdir) / CHECKPOINTS
        self.keep = keep
        self._retain: Retain | None = None  # of the save under way
        self._manager = None  # made at the first save
        self._current: int | None = None  # the step that this run saved or restored last
        self._upload = Upload(self.folder) if needs_upload(self.folder) else None
        self._written = self._upload.folder if self._upload else self.folder  # by Orbax

    def steps(self) -> list[int]:
        """The complete steps on disk, ascending."""
        return saved_steps(self.folder)

    def save(self, step: int, state: Any, meta: dict, retain: Retain | None = None) -> None:
        """Starts a save of `state` (arrays and typed keys) and `meta` (JSON values), and returns once the
        state is copied. When it is complete, the steps that are not in `retain(all steps)` are deleted, by default all
        but the newest `keep`.

        The step that was saved or restored last is not saved again, but its `meta` is replaced. Raises CheckpointError
        when the save before this one failed or the disk has no room for this one; older checkpoints are untouched.
        """
        self.wait()
        if step == self._current:
            if jax.process_index() == 0:
                checkpoint_files.replace_meta(self.folder / str(step), meta)
            return
        import orbax.checkpoint as ocp

        orbax_errors.collect()
        progress.report(f"saving step {step}", slow=True)
        manager = self._manager or self._open(step)
        size = sum(digest.plain(leaf).nbytes for leaf in jax.tree.leaves(state))
        _require_space(self._written, size, step)
        body = json.loads(
            json.dumps({"meta": meta, "leaves": digest.table(state), "digests": digest.VERSION})
        )
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(jax.tree.map(digest.plain, state)),
            meta=ocp.args.JsonSave(checkpoint_files.sealed_meta(body)),
        )
        self._current, self._retain = step, retain or (lambda steps: steps[-self.keep :])
        try:
            manager.save(step, args=args, force=True)
            if self._upload:
                self._upload.start(step, manager.wait_until_finished, self._retain)
        except Exception as error:
            self._fail(error)
        progress.report(f"the save of step {step} that goes on beside training")

    def _open(self, step: int):
        """Starts the manager; clears what killed saves left, and sets steps aside that come again."""
        import orbax.checkpoint as ocp

        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in _leftovers(self.folder):
                paths.remove_tree(leftover)
            for later in [s for s in self.steps() if s >= step]:
                aside = _free_name(self.folder / f"{later}.aside")
                _set_aside(self.folder / str(later), aside)
                warnings.warn(
                    f"{self.folder / str(later)} is of an attempt that this run does not go on from: kept as "
                    f"{aside.name}, delete it when it is not wanted",
                    stacklevel=3,
                )
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("jaxtrain.checkpoint.open")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preserved(lambda steps: self._retain(steps)),
            # Folders that a thread makes are waited for 300 s by the clock, whatever the timeout.
            async_options=ocp.AsyncOptions(timeout_secs=PATIENCE, create_directories_asynchronously=False),
        )
        handlers = {STATE: _state_handler(), META: ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._written, options=options, item_handlers=handlers)
        return self._manager

    def _fail(self, error: Exception):
        """Drops the manager, so that a next save starts afresh, and raises what its failure means."""
        reason = _reason(error)
        if not _is_failure(error):
            raise error
        manager, self._manager, failed, self._current = self._manager, None, self._current, None
        try:
            manager.close()
        except Exception as again:  # the same failure, kept by its threads
            if not _is_failure(again):
                raise
            error.add_note(f"and on closing: {again}")
        good = self.steps()
        where, traces = orbax_errors.write(self._workdir)
        failure = CheckpointError(
            f"saving step {failed} in {self.folder} failed: {reason}. "
            + (f"Step {good[-1]} is the last good one. " if good else "There is no checkpoint yet. ")
            + (
                f"Check the bucket's permissions and quota, {full_disk.AGAIN}"
                if is_remote(self.folder)
                else full_disk.remedy(self.folder, reason)
            )
            + f".{where}" * bool(where)
        )
        if traces:
            failure.add_note(traces)
        raise failure from error

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict]:
        """(state, meta) of a step, by default the newest that is intact.

        abstract: the state's tree of jax.ShapeDtypeStruct with the shardings wanted now; any topology
        restores any. A damaged step is skipped with a warning and left as it is. Raises CheckpointError when
        no step is left, or when the `step` asked for is damaged; ConfigError when it does not exist or holds
        another tree.
        """
        state, meta, self._current = _restore(self.folder, abstract, "", step, f"--workdir={self._workdir}")
        return state, meta

    def restore_usable(self, abstract: Any, unusable: Unusable | None = None) -> tuple[Any, dict] | None:
        """`restore` of the newest step that is intact and from which training can go on; None where there is none.

        A step that is not usable is skipped with a warning, as a damaged one is. Raises CheckpointError where the
        oldest step is damaged.
        """
        if not self.steps():
            return None
        source = f"--workdir={self._workdir}"
        try:
            state, meta, self._current = _restore(self.folder, abstract, "", None, source, unusable)
        except _Unusable as error:
            warnings.warn(
                f"{error}. No older step is left: the run starts again from its first step, and its checkpoints "
                "are set aside with the first save",
                stacklevel=2,
            )
            return None
        return state, meta

    def wait(self) -> None:
        """Blocks until the save under way is complete. Raises CheckpointError if it failed."""
        if self._manager is None:
            return
        progress.report(f"saving step {self._current}", slow=True)
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if self._upload:
                self._upload.wait()
        except Exception as error:
            self._fail(error)
        progress.report(f"the save of step {self._current}")

    def close(self) -> None:
        """Waits, then ends the background threads. Raises CheckpointError if the last save failed."""
        self.wait()
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        if self._upload:
            self._upload.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except CheckpointError as failure:  # must not hide the error that ended the run
            error.add_note(str(failure))


def restore_params(
    workdir: Path,
    abstract_params: Any,
    step: int | None = None,
    flag: str = "--init_from",
    part: str = "params",
) -> tuple[Any, dict]:
    """(params, meta) of another run: only its parameters are read, and verified.

    abstract_params: tree of jax.ShapeDtypeStruct with shardings. part: where in the state they stand, such as
    opt_state/average for the averaged ones. Raises ConfigError, naming `flag`, when
    `workdir` has no checkpoint or holds other parameters; CheckpointError when none is intact.
    """
    params, meta, _ = _restore(
        paths.absolute(workdir) / CHECKPOINTS, abstract_params, f"{part}/", step, f"{flag}={workdir}"
    )
    return params, meta


def _restore(
    folder: Path,
    abstract: Any,
    prefix: str,
    step: int | None,
    source: str,
    unusable: Unusable | None = None,
) -> tuple[Any, dict, int]:
    progress.report(f"reading a checkpoint of {folder}", slow=True)
    steps = saved_steps(folder)
    if not steps:
        missing = "has no checkpoint" if folder.parent.is_dir() else "does not exist"
        raise ConfigError(
            f"{source} {missing}: name the workdir of a run that saved one (looked in {folder})"
        )
    if step is not None and step not in steps:
        raise ConfigError(f"{source} has no step {step}: choose one of {', '.join(map(str, steps))}")
    for candidate in reversed(steps) if step is None else [step]:
        try:
            with _readable(folder / str(candidate)) as copy:
                return *_read(copy, abstract, prefix, source, unusable), candidate
        except _Unusable as error:
            if candidate == steps[0]:
                raise
            warnings.warn(f"{error}. Falling back to the step before it; nothing was deleted", stacklevel=3)
        except _Damaged as error:
            reason = f"{folder / str(candidate)} is damaged: {error}"
            if candidate == steps[0] or step is not None:
                left = "No older step is left" if step is None else "Other steps were not tried"
                raise CheckpointError(
                    f"{reason}. {left}; nothing was deleted. Restore the folder from a copy, name another "
                    "step, or start again in a new --workdir"
                ) from error
            warnings.warn(f"{reason}. Falling back to the step before it; nothing was deleted", stacklevel=3)
    raise AssertionError("unreachable: the oldest step returns or raises")


@contextlib.contextmanager
def _readable(step: Path) -> Iterator[Path]:
    """The folder of a step where Orbax can read it: of a bucket that it cannot, a copy until the context ends."""
    if not needs_upload(step):
        yield step
        return
    with tempfile.TemporaryDirectory() as folder:
        yield paths.local_copy(step, str(step), Path(folder))


def _read(step: Path, abstract: Any, prefix: str, source: str, unusable: Unusable | None) -> tuple[Any, dict]:
    try:
        body = checkpoint_files.read_meta(step)
    except checkpoint_files.DamagedMeta as error:
        raise _Damaged(str(error)) from error
    version = body.get("digests", 1)
    if version not in digest.VERSIONS:
        raise ConfigError(
            f"{source} (step {step.name}) is of a newer release, with digests of version {version}: use that release"
        )
    if unusable and (why := unusable(int(step.name), body["meta"])):
        raise _Unusable(f"training cannot go on from {step}: {why}")
    stored = {path: row for path, row in body["leaves"].items() if path.startswith(prefix)}
    _require_same_tree(stored, abstract, prefix, f"{source} (step {step.name})")

    _require_undamaged(step / STATE)
    state = _arrays(step / STATE, abstract, prefix)
    for path, (_, _, computed) in digest.table(state, prefix, version).items():
        if computed != stored[path][2]:
            raise _Damaged(f"{path} differs from what was written (digest {computed}, was {stored[path][2]})")
    return state, body["meta"]


def _require_undamaged(state: Path) -> None:
    """Raises _Damaged where a file differs from its checksum. Without checksums the digests of the arrays are left."""
    differs, unverified = checkpoint_files.damage(state)
    if differs:
        raise _Damaged(
            f"{differs}; to read it all the same, which verifies the arrays alone, delete {state / checksums.FILE}"
        )
    if unverified:
        warnings.warn(f"{unverified}: the arrays alone are verified", stacklevel=5)


def _arrays(folder: Path, abstract: Any, prefix: str) -> Any:
    """The tree that Orbax reads from the folder of a state. Raises _Damaged."""
    import orbax.checkpoint as ocp

    orbax_errors.collect()
    tree, parts = jax.tree.map(_abstract_data, abstract), prefix.split("/")[:-1]
    for name in reversed(parts):
        tree = {name: tree}
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            args = ocp.checkpoint_utils.construct_restore_args(tree)
            tree = reader.restore(
                folder, args=ocp.args.PyTreeRestore(tree, restore_args=args, partial_restore=bool(prefix))
            )
        for name in parts:
            tree = tree[name]
        return jax.tree.map(_undata, abstract, tree)
    except RuntimeError:  # a device out of memory, a lost peer: it says nothing about the files
        raise
    except Exception as error:  # Orbax raises nearly every type on damaged files, this base type too
        raise _Damaged(f"{folder}: {_reason(error)}") from error


def _state_handler() -> Any:
    """Orbax's handler of a state, which writes the checksums of its files once they are complete."""
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler()
    finalize = handler.finalize

    def finalize_and_sum(directory: Path) -> None:
        finalize(directory)
        checkpoint_files.write_checksums(directory if is_remote(directory) else Path(directory))

    handler.finalize = (
        finalize_and_sum  # of this one: arguments are registered for the very class of a handler
    )
    return handler


def _require_same_tree(stored: dict, abstract: Any, prefix: str, source: str) -> None:
    """Raises ConfigError that names the first leaf in which a checkpoint and the tree wanted differ."""
    wanted = {path: list(digest.shape_and_type(leaf)) for path, leaf in digest.named_leaves(abstract, prefix)}
    for path, (shape, dtype) in wanted.items():
        if path not in stored:
            raise ConfigError(f"{source} lacks {path} {dtype}{shape}: it is of another model or optimizer")
        if stored[path][:2] != [shape, dtype]:
            raise ConfigError(
                f"{source} holds {path} as {stored[path][1]}{stored[path][0]}, wanted is {dtype}{shape}: "
                "it is of another model or optimizer"
            )
    for path in stored:
        if path not in wanted:
            raise ConfigError(
                f"{source} holds {path}, which is not wanted here: it is of another model or optimizer"
            )


def _abstract_data(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    data = jax.eval_shape(jax.random.key_data, leaf) if digest.is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)


def _undata(abstract: jax.ShapeDtypeStruct, data: jax.Array) -> jax.Array:
    if not digest.is_key(abstract):
        return data
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(jnp.empty(0, abstract.dtype)))


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}{n or ''}") for n in range(10**6))
    return next(name for name in names if not name.exists())


def _is_failure(error: Exception) -> bool:
    return isinstance(error, FAILURES) or is_bucket_error(error)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _leftovers(folder: Path) -> list[Path]:
    """What killed saves left: in a bucket the steps that Orbax has not marked as complete."""
    if not is_remote(folder):
        return list(folder.glob("*.orbax-checkpoint-tmp*"))
    complete = set(map(str, saved_steps(folder)))
    there = folder.iterdir() if folder.is_dir() else ()
    return [entry for entry in there if entry.name.isdecimal() and entry.name not in complete]


def _set_aside(step: Path, aside: Path) -> None:
    if is_remote(step):  # its objects are renamed one by one: it is incomplete from the first on
        (step / COMMITTED).unlink()
    step.rename(aside)


def _require_space(folder: Path, size: int, step: int) -> None:
    if is_remote(folder):
        return
    need, free = int(size * HEADROOM), _free(folder)
    if free < need:
        raise CheckpointError(
            f"saving step {step} in {folder} needs {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free; older "
            "checkpoints are untouched. Make room or lower --keep, then run the same command again"
        )


def _reason(error: BaseException) -> str:
    """One line of the innermost error, tensorstore's, which names the array and file, without its spec."""
    error = orbax_errors.innermost(error)
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(" [tensorstore_spec")[0].split(" [source locations")[0]
