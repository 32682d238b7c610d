"""Perplexity by a run's language model: text that a model of good text finds unlikely (CCNet, 1911.00359)."""

import dataclasses
from collections.abc import Callable, Sequence

from jaxtrain import config
from jaxtrain.apps.filters.types import Check, Finding
from jaxtrain.config import arg

BitsPerByte = Callable[[str], float]  # of a text


@dataclasses.dataclass(frozen=True)
class PerplexityFilter(config.Group):
    # fmt: off
    scored_by: str = arg("", "Score documents by the language model of this run (a workdir); empty: no such step")
    max_bits: float = arg(4.0, "Most bits a byte that the model needs for a document; 0: no rule", low=0)
    min_bits: float = arg(0.0,
        "Fewest bits a byte: what a model finds too likely is often a template or a list; 0: no rule", low=0)
    # fmt: on

    def check(self):
        if self.max_bits and self.min_bits >= self.max_bits:
            raise config.ConfigError(f"--min_bits={self.min_bits}: must be below --max_bits={self.max_bits}")


def check(settings: PerplexityFilter, score: BitsPerByte) -> Check:
    """A check of a text's bits a byte by `score`, such as jaxtrain/inference/perplexity.py opens."""

    def findings(text: str) -> Sequence[Finding]:
        if not text:
            return ()
        bits = score(text)
        if settings.max_bits and not bits <= settings.max_bits:  # NaN too
            return (Finding("perplexity_high", bits),)
        return (Finding("perplexity_low", bits),) if bits < settings.min_bits else ()

    return findings
