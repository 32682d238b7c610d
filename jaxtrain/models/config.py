"""The flag group of --depth."""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.models import depth_rule


@dataclasses.dataclass(frozen=True)
class Depth(config.Group):
    # fmt: off
    depth: int = config.arg(0,
        "Layers; sets --model, --optimizer, --lr, --weight_decay, --batch_size and --steps by a rule of scaling, but "
        "those that are typed (docs/models.md). 0: each flag is for itself", low=0, high=1000)
    # fmt: on

    def rates(self) -> dict[str, float]:
        """What the learning rate of each branch of the parameters is multiplied by."""
        return depth_rule.rates(depth_rule.HEAD * self.depth) if self.depth else {}

    def session(self, stage: Any, data: Any) -> Any:
        """A stage's session on prepared data, with the rule's rates and initial values."""
        session = stage.session(data.tokenizer, data.fingerprints, rates=self.rates())
        if not self.depth:
            return session
        return session._replace(model=depth_rule.with_embeddings(session.model, session.arch.width))

    @staticmethod
    def derived(given: Mapping[str, Any], is_typed: Callable[[str], bool]) -> dict[str, Any]:
        """The values of the flags that --depth sets. Raises ConfigError where a typed one contradicts it."""
        depth = given["depth"]
        if depth < 1 or given["seq_len"] < 2:  # the check of a flag's range refuses these
            return {}
        if given["init_from"]:
            raise ConfigError(
                f"--depth={depth}: --init_from={given['init_from']} has a shape; leave out one of them"
            )
        if is_typed("model"):
            raise ConfigError(f"--model={given['model']}: --depth={depth} sets it; leave out one of them")
        if is_typed("optimizer") and given["optimizer"] != "muon":
            raise ConfigError(
                f"--optimizer={given['optimizer']}: the rule of --depth={depth} is one for muon"
            )
        own = {name: given[name] for name in ("batch_size", "steps", "lr") if is_typed(name)}
        scaled = depth_rule.scaled(depth, given["seq_len"], **own)._asdict()
        found = {name: value for name, value in scaled.items() if not is_typed(name)}
        if os.environ.get("JAXTRAIN_PROCESS_ID", "0") == "0":  # one of several processes prints it
            text = " ".join(f"--{name}={value}" for name, value in found.items())
            print(f"--depth={depth} is {text}", file=sys.stderr)
        return found
