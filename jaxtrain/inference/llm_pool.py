"""The models of one command, each opened once and all closed at the end."""

import contextlib

from jaxtrain.inference import local
from jaxtrain.inference.config import EndpointFlags, MachineFlags
from jaxtrain.inference.llm import LLM


class LLMPool:
    """Opens models by name, each once. Used as `with contextlib.closing(LLMPool(...)) as pool`."""

    def __init__(self, endpoint: EndpointFlags, machine: MachineFlags):
        self._endpoint, self._machine = endpoint, machine
        self._by_name: dict[str, LLM] = {}

    @property
    def models(self) -> list[LLM]:
        """The open models, in the order of their first use."""
        return list(self._by_name.values())

    def add(self, name: str, model: LLM) -> None:
        """Takes a model that is open already, under a name."""
        self._by_name[name] = model

    def open(self, name: str, flag: str, max_new: int) -> LLM:
        """The model that --`flag` names; `max_new` is the most tokens of a completion. Raises ConfigError."""
        if name not in self._by_name:
            self._by_name[name] = local.open_llm(name, flag, self._endpoint, self._machine, max_new)
        return self._by_name[name]

    def close(self) -> None:
        """Closes all models, the last one first."""
        with contextlib.ExitStack() as stack:
            for model in self._by_name.values():
                stack.callback(model.close)
