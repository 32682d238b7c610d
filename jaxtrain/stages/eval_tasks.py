"""--eval_tasks: benchmarks while a run trains, scored by the parameters that are trained, where they lie."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxtrain import config
from jaxtrain.config import ConfigError, StageConfig
from jaxtrain.stages import task_models
from jaxtrain.stages.session import Session, print_lines
from jaxtrain.tasks import core, harness
from jaxtrain.tasks.task_model import TaskModel
from jaxtrain.train import loop, optim
from jaxtrain.types import ActorCritic, TrainState

FLAG = "eval_tasks"

Measure = Callable[[TaskModel], dict[str, float]]


class TaskEvaluation:
    """An evaluation that has tasks' measures, too, at the steps where they are due."""

    def __init__(
        self,
        cfg: StageConfig,
        session: Session,
        score: loop.Evaluate | None,
        measure: Measure,
        names: Sequence[str],
    ):
        self._run, self._session, self._score = cfg.run, session, score
        self._measure, self._names = measure, names
        self._models = functools.cache(lambda: task_models.open_models(cfg, session))

    def __call__(self, state: TrainState) -> dict[str, float]:
        numbers = dict(self._score(state)) if self._score else {}
        step, every = int(self._session.plan.get(state.step)), self._run.eval_tasks_every
        if not every or step % every == 0 or step == self._run.steps:
            models = self._models()
            model = models.of_params(optim.eval_params(state.params, state.opt_state))
            numbers |= self._measure(model)
            if count := models.take_cut():
                line = f"step {step}: {count:,} questions of --{FLAG} were longer than the context of {model.context}"
                print_lines([f"{line}; they lost their beginning"], self._session.primary)
        return numbers

    def names(self, state: TrainState) -> list[str]:
        """The names of all its numbers; tasks are not answered for them."""
        return [*(self._score(state) if self._score else ()), *self._names]


def metric_names(score: loop.Evaluate, state: TrainState) -> Sequence[str]:
    """The names of an evaluation's numbers."""
    return score.names(state) if isinstance(score, TaskEvaluation) else list(score(state))


def with_tasks(cfg: StageConfig, session: Session, stage: Any) -> Any:
    """`stage`, whose evaluations have the measures of --eval_tasks, too.

    Every task is tried before the run trains. Raises ConfigError for tasks that do not exist or are wrong, and for a
    stage whose model writes no text.
    """
    run = cfg.run
    if not run.task_names():
        return stage
    if not session.arch.causal or not (session.heads is None or isinstance(session.heads, ActorCritic)):
        raise ConfigError(
            f"--{FLAG}={run.eval_tasks}: this stage trains no model that predicts the next token"
        )
    measure, names = open_measures(run, session)
    every = run.eval_tasks_every or run.eval_every
    when = f"every {every} steps and after the last" if every else "after the last step"
    return stage._replace(
        score=TaskEvaluation(cfg, session, stage.score, measure, names),
        table=[*stage.table, ("tasks", f"{', '.join(run.task_names())}, {when}")],
    )


def open_measures(run: config.Run, session: Session) -> tuple[Measure, list[str]]:
    """(a function from a model to the measures of --eval_tasks, their names), every task tried."""
    others = [name for name in run.task_names() if name != core.NAME]
    bundle, names, manager = [], [], None
    if core.NAME in run.task_names():
        bundle = core.open_bundle(run.eval_tasks_dir, FLAG)
        names += core.names(bundle)
        if missing := sorted(set(core.TASKS) - {one.label for one in bundle}):
            line = f"--{FLAG}: core is the mean of {len(bundle)} tasks, and not DCLM's number: without {missing[0]}"
            print_lines([line + f" and {len(missing) - 1} more" * (len(missing) > 1)], session.primary)
    if others:
        manager = harness.open_tasks(others, run.eval_tasks_dir, FLAG)
        tried = harness.try_tasks(others, manager, _dry(session), FLAG)
        names += [f"{task}/{name}" for task, measures in tried.items() for name in measures]

    def measure(model: TaskModel) -> dict[str, float]:
        numbers = core.measure(bundle, model, run.eval_tasks_limit) if bundle else {}
        if others:
            found = harness.measure(others, manager, model, limit=run.eval_tasks_limit)
            numbers |= {f"{task}/{name}": x for task, values in found.items() for name, x in values.items()}
        return numbers

    return measure, names


def _dry(session: Session) -> TaskModel:
    tokenizer = session.start.tokenizer
    return TaskModel(tokenizer.encode, tokenizer.bos, session.arch.max_len, lambda _: [], lambda _: [])
