"""What a model is, and the named ones. Plain data: nothing heavy is imported, so a wrong name fails at once."""

import dataclasses
import difflib
from typing import Any, get_args

from jaxtrain.config import ConfigError
from jaxtrain.models.expert_fields import require_experts
from jaxtrain.models.named_sizes import NAMED_SIZES


@dataclasses.dataclass(frozen=True)
class Arch:
    """A decoder's shape. The defaults are Llama's; the other families are differences from them."""

    layers: int  # L
    width: int  # D
    heads: int  # H
    ff: int  # F
    kv_heads: int = 0  # K; 0 is one for each head
    head_width: int = 0  # C; 0 is width / heads
    vocab: int = 0  # V; 0 is the tokenizer's size rounded up to a multiple of 64
    positions: str = "rope"  # rope, or learned
    max_len: int = 0  # learned positions' table, and the context that a run may not exceed; 0 is no bound
    rope_theta: float = 10_000.0
    rope_theta_local: float = 0.0  # of layers with a window, where it differs
    rope_width: int = 0  # R, leading components of a head that are rotated; 0 is all
    # (factor,) linear; (factor, original length) dynamic; Llama 3's (factor, low, high, original length); YaRN's
    # (factor, beta_fast, beta_slow, original length, attention factor, truncate); LongRoPE's (original, attention)
    rope_scaling: tuple[float, ...] = ()
    rope_factors: tuple[float, ...] = ()  # LongRoPE's divisors of frequencies: R/2 short, R/2 long
    norm: str = "rms"  # rms, or layer
    norm_eps: float = 1e-5
    norm_offset: float = 0.0  # Gemma's norms scale by 1 + weight
    pre_norms: bool = True  # norms before attention and feed-forward; not in OLMo 2
    post_norms: bool = False  # Gemma 2 and 3, OLMo 2: norms after attention and feed-forward
    parallel: bool = False  # GPT-NeoX: the feed-forward reads what attention reads, not what it wrote
    qk_norm: bool = False  # Qwen 3 and Gemma 3: RMSNorm of queries and keys, a head at a time
    qk_norm_joint: bool = False  # OLMo 2: that norm is over all heads together
    qkv_bias: bool = False
    out_bias: bool = False  # on attention's output projection
    mlp_bias: bool = False
    mlp: str = "swiglu"  # swiglu, geglu, gelu (both in GELU's tanh form), gelu_erf, clamped_swiglu (gpt-oss)
    window: int = 0  # keys that a windowed layer sees, itself included; 0 is all
    global_every: int = 0  # every n-th layer ignores the window; 0 is none
    global_layers: tuple[int, ...] = ()  # further layers that ignore the window, numbered from 0
    query_scale: float = 0.0  # queries are divided by its root; 0 is head_width
    attn_softcap: float = 0.0
    attn_sinks: bool = False  # gpt-oss: a logit of each head in the softmax's denominator
    logit_softcap: float = 0.0
    tied: bool = True
    embed_scale: bool = False  # embeddings are multiplied by the root of width
    causal: bool = True  # False: bidirectional attention, for masked-token prediction
    dropout: float = 0.0  # on embeddings and on both residual branches
    init_std: float = 0.02
    experts: int = (
        0  # E, feed-forward layers of which a router chooses (models/moe.py); 0 is one, without a router
    )
    experts_per_token: int = 0  # k
    expert_ff: int = 0  # F of each expert; 0 is ff
    shared_experts: int = 0  # further ones, which every token passes
    norm_topk: bool = True  # the k probabilities are divided by their sum
    router_bias: bool = False
    balance_weight: float = 0.0  # of the loss that balances the experts' load
    router_z_weight: float = 0.0  # of the router's z-loss
    family: str = ""  # model_type in Hugging Face folders, read and written; "" is the nearest

    def __post_init__(self):
        positive = ("layers", "width", "heads", "ff")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"--model: {name}={getattr(self, name)} must be at least 1")
        require_experts(self)
        kinds = {
            "positions": ("rope", "learned"),
            "norm": ("rms", "layer"),
            "mlp": ("swiglu", "geglu", "gelu", "gelu_erf", "clamped_swiglu"),
        }
        for name, legal in kinds.items():
            if getattr(self, name) not in legal:
                raise ConfigError(f"--model: {name}={getattr(self, name)} is none of {', '.join(legal)}")
        if not self.head_width and self.width % self.heads:
            raise ConfigError(f"--model: {self.heads} heads do not divide width {self.width}: set head_width")
        if self.heads % (self.kv_heads or self.heads):
            raise ConfigError(f"--model: kv_heads={self.kv_heads} does not divide heads={self.heads}")
        dynamic = len(self.rope_scaling) == 2 and not self.rope_factors
        if self.positions == "rope" and (self.R % 2 or not 2 * dynamic < self.R <= self.C):
            raise ConfigError(f"--model: rotary positions need an even head or rope_width, not {self.R}")
        if self.positions == "learned" and not self.max_len:
            raise ConfigError("--model: learned positions need max_len")
        if len(self.rope_scaling) not in ((2,) if self.rope_factors else (0, 1, 2, 4, 6)):
            raise ConfigError("--model: rope_scaling takes (factor), 2 numbers, Llama 3's 4 or YaRN's 6")
        if len(self.rope_factors) not in (0, self.R):
            raise ConfigError(f"--model: rope_factors takes {self.R} numbers, not {len(self.rope_factors)}")

    @property
    def C(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def K(self) -> int:
        return self.kv_heads or self.heads

    @property
    def R(self) -> int:
        return self.rope_width or self.C

    @property
    def gated(self) -> bool:
        return self.mlp not in ("gelu", "gelu_erf")

    @property
    def F(self) -> int:
        """The feed-forward width of an expert, or of the one layer."""
        return (self.expert_ff if self.experts else 0) or self.ff

    @property
    def used_ff(self) -> int:
        """The feed-forward width that a token passes: of its experts and the shared ones together."""
        return (self.experts_per_token + self.shared_experts if self.experts else 1) * self.F

    @property
    def all_ff(self) -> int:
        """The feed-forward width that a layer has parameters for."""
        return (self.experts + self.shared_experts if self.experts else 1) * self.F

    @property
    def idle(self) -> int:
        """Parameters of the experts that a token does not pass, in all layers."""
        kernels = 3 if self.gated else 2
        one = kernels * self.width * self.F + self.mlp_bias * ((kernels - 1) * self.F + self.width)
        return self.layers * (self.experts - self.experts_per_token) * one

    def windows(self) -> tuple[int, ...]:
        """The window of each layer, 0 for a layer that sees all."""
        every = self.global_every
        free = {i for i in range(self.layers) if every and (i + 1) % every == 0} | set(self.global_layers)
        return tuple(0 if i in free else self.window for i in range(self.layers))


ZOO: dict[str, Arch] = {name: Arch(**fields) for name, fields in NAMED_SIZES.items()}

# Fields of former releases, as commands and runs hold them.
_FORMER = {"bias": ("out_bias", "mlp_bias")}


def resolve(text: str) -> Arch:
    """`nano,layers=8,window=128` as an Arch: a name of the zoo and changes to its fields."""
    name, *changes = text.split(",")
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(ZOO)}"
        raise ConfigError(f"--model={name}: no model of that name; {hint}")
    fields = {field.name: field.type for field in dataclasses.fields(Arch)}
    values: dict[str, Any] = {}
    for change in changes:
        key, _, value = change.partition("=")
        for field in _FORMER.get(key, (key,)):
            if field not in fields:
                raise ConfigError(f"--model={text}: {key!r} is not a field; one of {', '.join(fields)}")
            values[field] = _parse(text, key, fields[field], value)
    return dataclasses.replace(ZOO[name], **values)


def _parse(text: str, key: str, kind: Any, value: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[value]
        if kind in (int, float, str):
            return kind(value)
        return tuple(get_args(kind)[0](part) for part in value.split("/") if part)
    except (ValueError, KeyError) as error:
        name = "numbers joined by /" if get_args(kind) else kind.__name__
        raise ConfigError(f"--model={text}: {key} takes {name}, not {value!r}") from error


def from_dict(values: dict[str, Any]) -> Arch:
    """The inverse of dataclasses.asdict, as a run's config.json holds it."""
    named = {field: value for key, value in values.items() for field in _FORMER.get(key, (key,))}
    return Arch(**{key: tuple(value) if isinstance(value, list) else value for key, value in named.items()})
