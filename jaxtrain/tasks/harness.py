"""Tasks of EleutherAI's lm-eval, from its package or from task files in a folder."""

import contextlib
import difflib
import io
import logging
import os
import random
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import ConfigError, Failure
from jaxtrain.tasks import task_model
from jaxtrain.tasks.task_model import TaskModel

EXTRA = "install the extra: pip install 'jaxtrain[lm-eval]', or JAXTRAIN_EXTRAS=lm-eval ./launch/run ..."


def open_tasks(names: Sequence[str], folder: str, flag: str) -> Any:
    """lm-eval's task manager with the task files of `folder`, if one is named; messages name --`flag`.

    Raises ConfigError where lm-eval is not installed, a task file cannot be read, or it has no such task.
    """
    text = f"--{flag}={','.join(names)}"
    if folder and not Path(folder).expanduser().is_dir():
        raise ConfigError(f"--{flag}_dir={folder}: no such folder")
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(f"{text}: needs the package {error.name}; {EXTRA}") from error
    try:
        manager = TaskManager(include_path=str(Path(folder).expanduser()) if folder else None)
    except Exception as error:  # whatever lm-eval raises of a file of the user's
        raise ConfigError(f"--{flag}_dir={folder}: a task file cannot be read: {error}") from error
    known = manager.all_tasks
    for task in names:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"name its folder with --{flag}_dir"
            raise ConfigError(f"{text}: lm-eval has no task {task}; {hint}")
    return manager


def measure(
    names: Sequence[str], manager: Any, model: TaskModel, *, shots: int = -1, limit: int = 0
) -> dict[str, dict[str, float]]:
    """{task or group: {measure: value}}; `shots` examples before a question (-1: as the task has it), of at most
    `limit` questions (0: all).
    """
    from lm_eval import evaluator

    with _quiet(), _same_random_state():
        scores = evaluator.simple_evaluate(
            model=harness_model(model), tasks=list(names), num_fewshot=shots if shots >= 0 else None,
            limit=limit or None, task_manager=manager, log_samples=False, bootstrap_iters=0,
        )  # fmt: skip
    return {
        task: {
            name.partition(",")[0]: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and "stderr" not in name and name not in ("sample_len", "sample_count")
        }
        for task, values in {**scores["results"], **scores.get("groups", {})}.items()
    }  # fmt: skip


def try_tasks(names: Sequence[str], manager: Any, model: TaskModel, flag: str) -> dict[str, list[str]]:
    """{task or group: its measures} from a question or two of each, which are rendered and not answered.

    So a wrong task file, or data that cannot be loaded, are found before a run trains. Raises ConfigError for a wrong
    one, Failure for data that could not be downloaded.
    """
    measures: dict[str, list[str]] = {}
    for name in names:
        said: list[str] = []
        try:
            with _log_errors(said):
                found = measure([name], manager, task_model.dry_model(model), limit=2)
        except (ConfigError, Failure):
            raise
        except Exception as error:  # code and templates of task files, and the libraries that load their data
            if isinstance(error, ConnectionError) or "offline" in str(error).lower():
                raise Failure(
                    f"--{flag}: the data of {name} cannot be loaded: {error}. Where there is no network, name a folder "
                    f"with task files and data by --{flag}_dir"
                ) from error
            raise ConfigError(
                f"--{flag}: the task {name} is wrong: {'; '.join([_cause(error), *said])}"
            ) from error
        if not any(found.values()):
            raise ConfigError(f"--{flag}: the task {name} has no measure that is a number")
        measures |= {task: list(values) for task, values in found.items() if values}
    return measures


def harness_model(model: TaskModel) -> Any:
    """A TaskModel as lm-eval's LM: texts follow BOS as they are, without a chat template."""
    from lm_eval.api.model import LM

    class _TaskLM(LM):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            scores = model.logps([task_model.tokenize_pair(model, *one.args) for one in requests])
            return [(float(logps.sum(dtype=np.float64)), bool(best.all())) for logps, best in scores]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            windows = [task_model.windows(model, one.args[0]) for one in requests]
            scores = iter(model.logps([pair for each in windows for pair in each]))
            return [sum(float(next(scores)[0].sum(dtype=np.float64)) for _ in each) for each in windows]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return model.generate([task_model.text_prompt(i, *one.args) for i, one in enumerate(requests)])

    return _TaskLM()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's lines and bars, which each evaluation would repeat, and without what it writes down about the
    machine: for that it starts git and pip, takes seconds, and returns nothing in a process that is not the first.
    """
    from lm_eval import evaluator
    from lm_eval.api import task

    patches: list[tuple[Any, str, Any]] = [
        (vars(evaluator), "get_git_commit_hash", lambda: ""),
        (vars(evaluator), "add_env_info", lambda results: None),
        (vars(task), "tqdm", lambda items=None, *_, **__: items),
        (os.environ, "LOCAL_RANK", "0"),
    ]
    log = logging.getLogger("lm_eval")
    level, before = log.level, [(where, name, where[name]) for where, name, _ in patches if name in where]
    log.setLevel(logging.ERROR)
    try:
        for where, name, value in patches:
            if where is os.environ or name in where:
                where[name] = value
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
        os.environ.pop("LOCAL_RANK")
        for where, name, value in before:
            where[name] = value


@contextlib.contextmanager
def _log_errors(lines: list[str]) -> Iterator[None]:
    """Adds what lm-eval logs as an error to `lines`: some of its exceptions alone say nothing."""
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("lm_eval")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    """lm-eval seeds the global generators, which a reward function of the user's may draw from."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _cause(error: Exception) -> str:
    """The error's type, text and the place of a file of the user's or of lm-eval that it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
