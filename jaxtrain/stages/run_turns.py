"""Whether a model was trained on conversations of one turn: what it makes of a second turn is then a guess."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.stages.session import Session
from jaxtrain.train import workdir

_NAME = "single_turn"  # in config.json


def record(session: Session, single_turn: bool) -> None:
    """Writes into the run's config.json whether every conversation of its training data has one answer."""
    if session.primary and (session.path / workdir.CONFIG).exists():  # the folder of a dry run has none
        workdir.record(session.path, **{_NAME: single_turn})


def single_turn(lineage: Mapping[str, Any]) -> bool | None:
    """Whether the nearest run of a lineage that knows was trained on single turns; None where none knows."""
    while lineage.get("run"):
        try:
            run = workdir.read_run(Path(lineage["run"]))
        except ConfigError:  # a run of before may be removed by now
            return None
        if _NAME in run:
            return run[_NAME]
        lineage = run["parent"]
    return None
