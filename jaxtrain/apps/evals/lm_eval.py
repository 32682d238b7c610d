"""Our sampler and log-probabilities as a model of EleutherAI's lm-eval, and its tasks measured with them."""

import contextlib
import difflib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.apps.evals.config import EXTRA, Benchmarks
from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference.llm import LLM, Request, seed_of, user

LONGEST = 256  # tokens of an answer, where a task names no number


def check(cfg: Benchmarks) -> None:
    """Raises ConfigError where lm-eval is not installed, or has no such task."""
    folder = Path(cfg.tasks_dir).expanduser()
    if cfg.tasks_dir and not folder.is_dir():
        raise ConfigError(f"--tasks_dir={cfg.tasks_dir}: no such folder")
    known = _manager(cfg).all_tasks
    for task in _names(cfg):
        if task not in known:
            near = difflib.get_close_matches(task, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "name its folder with --tasks_dir"
            raise ConfigError(f"--tasks={cfg.tasks}: lm-eval has no task {task}; {hint}")


def _names(cfg: Benchmarks) -> list[str]:
    return [one.strip() for one in cfg.tasks.split(",") if one.strip()]


def _manager(cfg: Benchmarks) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(f"--tasks={cfg.tasks}: needs the package {error.name}; {EXTRA}") from error
    return TaskManager(include_path=cfg.tasks_dir or None)


def measure(cfg: Benchmarks, models: Mapping[str, LLM]) -> dict[str, dict[str, float]]:
    """Label -> "task, measure" -> value, of the models that are runs."""
    import lm_eval

    found = {}
    for label, made in models.items():
        if made.inside is None:
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                told = lm_eval.simple_evaluate(
                    model=lm_eval_model(made), tasks=_names(cfg), num_fewshot=cfg.shots if cfg.shots >= 0 else None,
                    limit=cfg.task_limit or None, task_manager=_manager(cfg), log_samples=False, bootstrap_iters=0,
                )  # fmt: skip
        except (OSError, ConnectionError) as error:  # its data sets are downloaded
            raise Failure(f"--tasks={cfg.tasks}: {error}") from error
        found[label] = {
            f"{task}, {name.partition(',')[0]}": float(value)
            for task, values in told["results"].items()
            for name, value in values.items()
            if isinstance(value, int | float) and "stderr" not in name and name != "sample_len"
        }
    return found


def lm_eval_model(made: LLM) -> Any:
    """A run as lm-eval's LM. Texts are given to it as they are, after BOS, without a chat template."""
    from lm_eval.api.model import LM

    class Run(LM):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            told = made.inside.logps([_cut(made, *one.args) for one in requests])
            return [(float(logps.sum()), bool(best.all())) for logps, best in told]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            windows = [_windows(made, one.args[0]) for one in requests]
            told = iter(made.inside.logps([pair for each in windows for pair in each]))
            return [sum(float(next(told)[0].sum()) for _ in each) for each in windows]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            asks = [_ask(i, *one.args) for i, one in enumerate(requests)]
            return [reply.text for (reply,) in made.generate(asks)]

    return Run()


def _encoded(made: LLM, texts: Sequence[str]) -> list[np.ndarray]:
    return [np.asarray(ids, np.int32) for ids in made.inside.template.tokenizer.encode(list(texts))]


def _cut(made: LLM, context: str, continuation: str) -> tuple[np.ndarray, np.ndarray]:
    """(BOS and what stands before, the continuation as it is cut after it); of too long a context the end counts."""
    bare = context.rstrip()  # a space belongs to the token after it
    before, whole = _encoded(made, [bare, context + continuation])
    same = int(np.cumprod(before[: len(whole)] == whole[: len(before)]).sum())
    ids, answer = whole[:same], whole[same:]
    room = made.inside.context - len(answer) - 1 if made.inside.context else len(ids)
    if room < 0:
        raise Failure(
            f"--tasks: an answer of {len(answer)} tokens does not fit a context of {made.inside.context}"
        )
    return _after_bos(made, ids[len(ids) - min(room, len(ids)) :]), answer


def _windows(made: LLM, text: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The text in stretches of the context, each token predicted once."""
    (ids,) = _encoded(made, [text])
    step = made.inside.context - 1 if made.inside.context else max(1, len(ids))
    return [(_after_bos(made, ids[:0]), ids[first : first + step]) for first in range(0, len(ids), step)]


def _after_bos(made: LLM, ids: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray([made.inside.template.tokenizer.bos], np.int32), ids])


def _ask(number: int, context: str, how: Mapping[str, Any]) -> Request:
    until = how.get("until") or ()
    warm = float(how.get("temperature") or 0.0) if how.get("do_sample") else 0.0
    most = int(how.get("max_gen_toks") or how.get("max_tokens") or LONGEST)
    stop = (until,) if isinstance(until, str) else tuple(until)
    return Request(user(context), 1, seed_of(number), warm, most, stop=stop, raw=True)
