"""--depth: one number that sets a model's shape and the hyper-parameters that change with it.

With d layers:

- shape: width D = 64 d, d heads of 64, SwiGLU of 8/3 D, queries and keys normalised, tables that are not tied.
- data: 20 tokens for each parameter of the kernels (Chinchilla, arXiv:2203.15556), T in all, in batches of
  B = 62.7 T^.383 tokens (the power law of Power Lines, arXiv:2505.13738), rounded to rows.
- rates: the kernels are Muon's, whose update has the spectral norm η √(outputs / inputs) at any width
  (arXiv:2310.17813), so that η stays as D grows. The tables are Adam's, with a rate ζ that does not follow η: else the
  best η of a narrow model is the one that its tables need. The unembedding sums over D, and has the rate ζ 128 / D;
  embeddings are read as they are, and have the rate ζ (μP, arXiv:2203.03466). Another batch than B changes η and ζ by
  the root of the share.
- initial values: standard deviation ¼ D^-½, so that the products of matrices and normalised vectors have one size; of
  embeddings .02.
- weight decay: λ = 1 / (τ η S) over S = T / B steps, so that weights average over the same share τ of the updates
  (arXiv:2405.13698, and Power Lines).
"""

import math
from typing import Any, NamedTuple

HEAD = 64  # width of a head, and of a layer's share of the width
BASE_WIDTH = 2 * HEAD  # at which the unembedding has the rate of the kernels
RATE, TABLES_RATE = 0.03, 0.03  # Muon's and Adam's, at the batch of the rule
PER_PARAMETER = 20  # tokens of training
TIMESCALE = 1.0  # τ, as a share of the training
INITIAL, EMBEDDING = 0.25, 0.02  # standard deviations: of the products of a matrix, of an embedding's entries


class ScaledRun(NamedTuple):
    """What --depth sets: the values of the flags of these names."""

    model: str
    optimizer: str
    lr: float
    adam_lr: float
    weight_decay: float
    batch_size: int
    steps: int


def shape(depth: int, width: int = 0) -> str:
    """The model of a depth as --model names it; of another `width` in its place for comparisons."""
    width = width or HEAD * depth
    sizes = f"layers={depth},width={width},heads={width // HEAD},ff={_ff(width)}"
    return f"nano,{sizes},qk_norm=true,tied=false,init_std={INITIAL * width**-0.5:.4g}"


def parameters(depth: int) -> int:
    """Those of the kernels: 4 D² of attention and 3 D F of the feed-forward in each layer."""
    width = HEAD * depth
    return depth * width * (4 * width + 3 * _ff(width))


def _ff(width: int) -> int:
    return -(-8 * width // 3 // HEAD) * HEAD


def rates(width: int) -> dict[str, float]:
    """What the learning rate of each branch of the parameters is multiplied by."""
    return {"unembed": BASE_WIDTH / width}


def with_embeddings(model: Any, width: int) -> Any:
    """The model (types.py's LM), with fresh embeddings of a size that does not depend on the width."""
    scale = EMBEDDING * math.sqrt(width) / INITIAL

    def init(key: Any) -> Any:
        params = model.init(key)
        return {**params, "embed": scale * params["embed"]}

    return model._replace(init=init)


def scaled(depth: int, seq_len: int, batch_size: int = 0, steps: int = 0, lr: float = 0.0) -> ScaledRun:
    """The flags of a depth; those that are given are taken, and the others follow from them."""
    tokens = PER_PARAMETER * parameters(depth)
    rule = 62.7 * tokens**0.383
    batch_size = batch_size or 8 * max(1, round(rule / seq_len / 8))
    steps = steps or max(1, round(tokens / (batch_size * seq_len)))
    share = math.sqrt(batch_size * seq_len / rule)
    lr = lr or _rounded(RATE * share)
    decay = _rounded(1 / (TIMESCALE * lr * steps))
    return ScaledRun(shape(depth), "muon", lr, _rounded(TABLES_RATE * share), decay, batch_size, steps)


def _rounded(x: float) -> float:
    return float(f"{x:.3g}")
