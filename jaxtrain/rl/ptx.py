"""The pretraining rows of PPO-ptx, which come with each update's completions."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from jaxtrain.config import RolloutStageConfig
from jaxtrain.data import dialogs
from jaxtrain.data.chat import Template
from jaxtrain.stages.session import Session, gather_rows


def ptx_columns(
    cfg: RolloutStageConfig, session: Session, template: Template, weight: float, data: str
) -> tuple[Callable[[int, float], Mapping[str, np.ndarray]], list[tuple[str, str]]]:
    """(a function (update, tokens in the loss) -> PPO-ptx's columns, lines for the table)."""
    if not weight:
        return lambda step, tokens: {}, []
    pretraining = dialogs.prepare(
        dataclasses.replace(cfg.data, data=data, eval_data="", columns=""), seed=cfg.run.seed,
        tokenizer=template.tokenizer, template=template, local_rows=session.plan.local_rows,
    )  # fmt: skip

    def extra(step: int, tokens: float) -> dict[str, np.ndarray]:
        rows = pretraining.train.batch(step)
        count = float(gather_rows(session.plan, {"mask": rows["mask"]})["mask"].sum())
        names = ("tokens", "targets", "mask", "segments", "positions", "row")
        scale = np.full(len(rows["row"]), tokens / max(count, 1.0), np.float32)
        return {f"ptx/{name}": rows[name] for name in names} | {"ptx_scale": scale}

    return extra, [(f"pretraining {name}", line) for name, line in pretraining.table]
