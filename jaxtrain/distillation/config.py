"""The flags that distillation reads: experiments/distill.py has the groups."""

from typing import Protocol

from jaxtrain import config
from jaxtrain.inference.config import EndpointFlags


class DistillFlags(Protocol):
    """The loss group of ./launch/run distill."""

    teacher: str
    completions: str
    draws: int
    draw_temperature: float
    on_policy: float
    soft_temperature: float
    teacher_topk: int

    def remote(self) -> bool: ...
    def stored_logprobs(self) -> bool: ...
    def require_drawing(self, draws: bool, any_at_all: bool) -> None: ...


class DistillConfig(config.DialogStageConfig, Protocol):
    """The config of ./launch/run distill."""

    loss: DistillFlags
    endpoint: EndpointFlags
