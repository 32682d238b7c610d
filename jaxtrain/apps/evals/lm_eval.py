"""Benchmarks of EleutherAI's lm-eval on our models."""

import contextlib
import difflib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.apps.evals.config import EXTRA, Benchmarks
from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference.llm import LLM, Request, derive_seed, user_messages

LONGEST = 256  # tokens of a completion, where a task sets no limit


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
    """{label: {"task, measure": value}} of the models that are runs."""
    import lm_eval

    results = {}
    for label, llm in models.items():
        if llm.local is None:
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                scores = lm_eval.simple_evaluate(
                    model=lm_eval_model(llm), tasks=_names(cfg), num_fewshot=cfg.shots if cfg.shots >= 0 else None,
                    limit=cfg.task_limit or None, task_manager=_manager(cfg), log_samples=False, bootstrap_iters=0,
                )  # fmt: skip
        except (OSError, ConnectionError) as error:  # its data sets are downloaded
            raise Failure(f"--tasks={cfg.tasks}: {error}") from error
        results[label] = {
            f"{task}, {name.partition(',')[0]}": float(value)
            for task, values in scores["results"].items()
            for name, value in values.items()
            if isinstance(value, int | float) and "stderr" not in name and name != "sample_len"
        }
    return results


def lm_eval_model(llm: LLM) -> Any:
    """A run as lm-eval's LM: texts follow BOS as they are, without a chat template."""
    from lm_eval.api.model import LM

    class _LocalLM(LM):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            pairs = llm.local.logps([_tokenize_pair(llm, *one.args) for one in requests])
            return [(float(logps.sum()), bool(greedy.all())) for logps, greedy in pairs]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            windows = [_windows(llm, one.args[0]) for one in requests]
            pairs = iter(llm.local.logps([pair for each in windows for pair in each]))
            return [sum(float(next(pairs)[0].sum()) for _ in each) for each in windows]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            own = [_generation_request(i, *one.args) for i, one in enumerate(requests)]
            return [completion.text for (completion,) in llm.generate(own)]

    return _LocalLM()


def _encode(llm: LLM, texts: Sequence[str]) -> list[np.ndarray]:
    return [np.asarray(ids, np.int32) for ids in llm.local.template.tokenizer.encode(list(texts))]


def _tokenize_pair(llm: LLM, context: str, continuation: str) -> tuple[np.ndarray, np.ndarray]:
    """(i32[n] of BOS and the context, i32[m] of the continuation); a context that is too long loses its beginning."""
    bare = context.rstrip()  # a space belongs to the token after it
    before, whole = _encode(llm, [bare, context + continuation])
    same = int(np.cumprod(before[: len(whole)] == whole[: len(before)]).sum())
    ids, answer = whole[:same], whole[same:]
    room = llm.local.context - len(answer) - 1 if llm.local.context else len(ids)
    if room < 0:
        raise Failure(
            f"--tasks: an answer of {len(answer)} tokens does not fit a context of {llm.local.context}"
        )
    return _after_bos(llm, ids[len(ids) - min(room, len(ids)) :]), answer


def _windows(llm: LLM, text: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(context, continuation) ids of the text in windows of the model's context, each token predicted once."""
    (ids,) = _encode(llm, [text])
    step = llm.local.context - 1 if llm.local.context else max(1, len(ids))
    return [(_after_bos(llm, ids[:0]), ids[first : first + step]) for first in range(0, len(ids), step)]


def _after_bos(llm: LLM, ids: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray([llm.local.template.tokenizer.bos], np.int32), ids])


def _generation_request(number: int, context: str, options: Mapping[str, Any]) -> Request:
    until = options.get("until") or ()
    temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
    max_new = int(options.get("max_gen_toks") or options.get("max_tokens") or LONGEST)
    stop = (until,) if isinstance(until, str) else tuple(until)
    return Request(user_messages(context), 1, derive_seed(number), temperature, max_new, stop=stop, raw=True)
