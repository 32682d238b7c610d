"""What training commands share. `open` is how each of them begins: flags checked, processes joined, workdir owned."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import config


class OpenStage(NamedTuple):
    """A training command whose flags are checked and whose workdir is open, before its model is built."""

    cfg: config.StageConfig
    path: Path  # of the workdir
    plan: Any  # train/parallel.py's Plan; jax is not imported here
    start: Any  # init_from.py's InitFrom: the model that training starts from
    template: Any  # data/chat.py's Template; None where --data is plain text

    def prepare(self, prepare: Callable[..., Any], data: config.Data | None = None, **options: Any) -> Any:
        """The data that a `prepare` of data/ makes of --data, this process's rows of each batch."""
        template = {"template": self.template} if self.template is not None else {}
        return prepare(
            data or self.cfg.data, seed=self.cfg.run.seed, tokenizer=self.start.tokenizer,
            local_rows=self.plan.local_rows, **template, **options,
        )  # fmt: skip

    def session(self, tokenizer: Any, fingerprints: Mapping[str, str], **options: Any) -> Any:
        """The model and optimizer (session.py's start_session)."""
        from jaxtrain.stages.session import start_session

        return start_session(self.cfg, self.path, self.plan, self.start, tokenizer, fingerprints, **options)


@contextlib.contextmanager
def open(
    cfg: config.StageConfig, stage: str, *, start: Any = None, causal: bool = True, needed: bool = False
) -> Iterator[OpenStage]:
    """Checks --model, --init_from, --data and --template, joins the run's processes, and owns its workdir.

    A mistake in these flags raises ConfigError before jax is imported. `start` is what `init_from.resolve` gives,
    where the command has resolved it itself; `causal` and `needed` are its arguments.
    """
    from jaxtrain.data import chat
    from jaxtrain.stages import init_from
    from jaxtrain.train import host

    host.keep_freed_memory()
    start = start or init_from.resolve(cfg, causal=causal, needed=needed)
    dialogs = isinstance(cfg.data, config.Dialogs)
    template = chat.load_template(cfg.data.template, start.tokenizer) if dialogs else None
    from jaxtrain.stages.session import make_plan, open_workdir
    from jaxtrain.train import multihost, processes, run_end

    processes.initialize(cfg.data.cache_dir)
    multihost.require_same_start(cfg, stage)
    plan = make_plan(cfg)
    with open_workdir(cfg, stage, start, plan) as path, run_end.explained(cfg, path, plan.process[0]):
        yield OpenStage(cfg, path, plan, start, template)
