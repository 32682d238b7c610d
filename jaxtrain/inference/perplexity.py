"""Bits per byte of texts under a run: the score of the perplexity step of ./launch/run filter_data."""

import math
from collections.abc import Callable

import jax
import numpy as np

from jaxtrain import config
from jaxtrain.data import packing
from jaxtrain.objectives.tokens import masked_stats
from jaxtrain.stages import init_from
from jaxtrain.stages.load_model import LoadedModel, load_model
from jaxtrain.train import parallel
from jaxtrain.types import Batch, Params

_SHORTEST, _LONGEST = (
    32,
    512,
)  # tokens of a row; between them powers of two, so that few programs are compiled


def bits_per_byte(run: str) -> Callable[[str], float]:
    """A function from a text to the bits that the run's model needs for a byte of it, its end included.

    Raises ConfigError for a run that does not predict the next token.
    """
    start = init_from.load_run(run, "scored_by", causal=True)
    return text_bits(load_model(start, parallel.make(config.Run())))


def text_bits(loaded: LoadedModel) -> Callable[[str], float]:
    """bits_per_byte of a loaded model. A text of more than 512 tokens, or than its context, is read in parts."""
    model, params, plan, start = loaded
    longest = min(_LONGEST, start.arch.max_len or _LONGEST)
    tokenizer = start.tokenizer

    def nats(params: Params, frozen: Params, batch: Batch) -> jax.Array:
        stats, mask = masked_stats(params, batch, None, model=model, want=("logps",))
        return -(stats["logps"] * mask).sum(-1)

    measured = plan.rows(nats)

    def bits(text: str) -> float:
        ids = np.array([tokenizer.bos, *tokenizer.encode([text])[0], tokenizer.eos], np.int32)
        size = min(longest, max(_SHORTEST, 1 << (len(ids) - 2).bit_length()))
        parts = [ids[at : at + size + 1] for at in range(0, len(ids) - 1, size)]
        rows = [_row(part, size, tokenizer.pad) for part in parts]
        rows += [_row(ids[:1], size, tokenizer.pad)] * (-len(rows) % plan.shards)
        total = 0.0
        for at in range(0, len(rows), plan.shards):
            here = rows[at : at + plan.shards]
            batch = {name: np.stack([row[name] for row in here]) for name in here[0]}
            total += float(plan.get(measured(params, (), plan.put(batch))).sum())
        return total / math.log(2) / max(1, len(text.encode("utf-8", "surrogatepass")))

    return bits


def _row(ids: np.ndarray, size: int, pad: int) -> dict[str, np.ndarray]:
    return packing.assemble([(ids, np.ones(len(ids) - 1, np.float32))], size, pad)
