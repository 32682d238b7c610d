"""Benchmarks of runs: tasks of EleutherAI's lm-eval, and DCLM's CORE."""

from collections.abc import Mapping

from jaxtrain.apps.evals.config import Benchmarks
from jaxtrain.config import Failure
from jaxtrain.inference.llm import LLM, Request, derive_seed, user_messages
from jaxtrain.tasks import core, harness
from jaxtrain.tasks.task_model import TaskModel, TextPrompt

FLAG = "tasks"


def check(cfg: Benchmarks) -> None:
    """Raises ConfigError where lm-eval is not installed or has no such task, or CORE's folder is not right."""
    names = cfg.names()
    if core.NAME in names:
        core.open_bundle(cfg.tasks_dir, FLAG)
    if others := [name for name in names if name != core.NAME]:
        harness.open_tasks(others, cfg.tasks_dir, FLAG)


def measure(cfg: Benchmarks, models: Mapping[str, LLM]) -> dict[str, dict[str, float]]:
    """{label: {"task, measure": value}} of the models that are runs."""
    names = cfg.names()
    others = [name for name in names if name != core.NAME]
    manager = harness.open_tasks(others, cfg.tasks_dir, FLAG) if others else None
    bundle = core.open_bundle(cfg.tasks_dir, FLAG) if core.NAME in names else ()
    results = {}
    for label, llm in models.items():
        if llm.local is None:
            continue
        model, scores = task_model_of(llm), {}
        try:
            if others:
                found = harness.measure(others, manager, model, shots=cfg.shots, limit=cfg.task_limit)
                scores = {
                    f"{task}, {name}": x for task, values in found.items() for name, x in values.items()
                }
        except (OSError, ConnectionError) as error:  # its data sets are downloaded
            raise Failure(f"--tasks={cfg.tasks}: {error}") from error
        if bundle:
            scores |= core.measure(bundle, model, cfg.task_limit)
        results[label] = scores
    return results


def task_model_of(llm: LLM) -> TaskModel:
    """A run as tasks see it."""
    tokenizer = llm.local.template.tokenizer

    def generate(prompts: list[TextPrompt]) -> list[str]:
        requests = [
            Request(
                user_messages(one.text), 1, derive_seed(one.number), one.temperature, one.max_new,
                stop=one.stops, raw=True,
            )
            for one in prompts
        ]  # fmt: skip
        return [completion.text for (completion,) in llm.generate(requests)]

    return TaskModel(tokenizer.encode, tokenizer.bos, llm.local.context, llm.local.logps, generate)
