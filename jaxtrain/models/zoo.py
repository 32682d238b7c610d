"""What a model is, and the named ones. Plain data: nothing heavy is imported, so a wrong name fails at once."""

import dataclasses
import difflib
from typing import Any, get_args

from jaxtrain.config import ConfigError


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
    mlp: str = "swiglu"  # swiglu, geglu, gelu (both in GELU's tanh form), gelu_erf
    window: int = 0  # keys that a windowed layer sees, itself included; 0 is all
    global_every: int = 0  # every n-th layer ignores the window; 0 is none
    global_layers: tuple[int, ...] = ()  # further layers that ignore the window, numbered from 0
    query_scale: float = 0.0  # queries are divided by its root; 0 is head_width
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0
    tied: bool = True
    embed_scale: bool = False  # embeddings are multiplied by the root of width
    causal: bool = True  # False: bidirectional attention, for masked-token prediction
    dropout: float = 0.0  # on embeddings and on both residual branches
    init_std: float = 0.02
    family: str = ""  # model_type in Hugging Face folders, read and written; "" is the nearest

    def __post_init__(self):
        positive = ("layers", "width", "heads", "ff")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"--model: {name}={getattr(self, name)} must be at least 1")
        kinds = {
            "positions": ("rope", "learned"),
            "norm": ("rms", "layer"),
            "mlp": ("swiglu", "geglu", "gelu", "gelu_erf"),
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
        return self.mlp in ("swiglu", "geglu")

    def windows(self) -> tuple[int, ...]:
        """The window of each layer, 0 for a layer that sees all."""
        every = self.global_every
        free = {i for i in range(self.layers) if every and (i + 1) % every == 0} | set(self.global_layers)
        return tuple(0 if i in free else self.window for i in range(self.layers))


_biased = {"norm": "layer", "qkv_bias": True, "out_bias": True, "mlp_bias": True}
_gpt2 = {**_biased, "positions": "learned", "max_len": 1024, "mlp": "gelu", "vocab": 50257}
_llama3_rope = (8.0, 1.0, 4.0, 8192)
_gemma = {"norm_offset": 1.0, "norm_eps": 1e-6, "embed_scale": True, "mlp": "geglu", "post_norms": True}
_pythia = {**_biased, "parallel": True, "max_len": 2048, "mlp": "gelu_erf", "vocab": 50304, "tied": False}
_qwen = {"norm_eps": 1e-6, "rope_theta": 1e6}

ZOO: dict[str, Arch] = {
    # Ours, with the vocabulary of whatever tokenizer they are trained with.
    "tinytown-200k": Arch(2, 80, 4, 208),
    "tinytown-1m": Arch(4, 128, 4, 384),
    "nano": Arch(6, 256, 8, 704),
    "nano-gpt2": Arch(6, 256, 8, 1024, **{**_gpt2, "vocab": 0}),
    # The sizes that experiments/bench.py measures beside other projects.
    "bench-s": Arch(4, 256, 8, 1024, vocab=512),
    "bench-s-gpt2": Arch(4, 256, 8, 1024, **{**_gpt2, "max_len": 256, "vocab": 512}),
    "bench-m": Arch(12, 768, 12, 3072, **{**_gpt2, "max_len": 512}),
    # Shapes of the released checkpoints.
    "gpt2": Arch(12, 768, 12, 3072, **_gpt2),
    "gpt2-medium": Arch(24, 1024, 16, 4096, **_gpt2),
    "gpt2-large": Arch(36, 1280, 20, 5120, **_gpt2),
    "gpt2-xl": Arch(48, 1600, 25, 6400, **_gpt2),
    "llama2-7b": Arch(32, 4096, 32, 11008, vocab=32000, max_len=4096, tied=False),
    "llama2-13b": Arch(40, 5120, 40, 13824, vocab=32000, max_len=4096, tied=False),
    "llama3-8b": Arch(
        32, 4096, 32, 14336, kv_heads=8, vocab=128256, max_len=8192, rope_theta=5e5, tied=False
    ),
    "llama3.1-8b": Arch(
        32, 4096, 32, 14336, kv_heads=8, vocab=128256, max_len=131072, rope_theta=5e5, tied=False,
        rope_scaling=_llama3_rope,
    ),
    "llama3.2-1b": Arch(
        16, 2048, 32, 8192, kv_heads=8, vocab=128256, max_len=131072, rope_theta=5e5,
        rope_scaling=(32.0, 1.0, 4.0, 8192),
    ),
    "mistral-7b": Arch(
        32, 4096, 32, 14336, kv_heads=8, vocab=32000, max_len=32768, window=4096, tied=False
    ),
    "qwen2-0.5b": Arch(
        24, 896, 14, 4864, kv_heads=2, vocab=151936, max_len=32768, qkv_bias=True, **_qwen
    ),
    "qwen2.5-7b": Arch(
        28, 3584, 28, 18944, kv_heads=4, vocab=152064, max_len=32768, qkv_bias=True, tied=False, **_qwen
    ),
    "qwen3-0.6b": Arch(
        28, 1024, 16, 3072, kv_heads=8, head_width=128, vocab=151936, max_len=40960, qk_norm=True, **_qwen
    ),
    "qwen3-8b": Arch(
        36, 4096, 32, 12288, kv_heads=8, head_width=128, vocab=151936, max_len=40960, qk_norm=True, tied=False,
        **_qwen,
    ),
    "gemma2-2b": Arch(
        26, 2304, 8, 9216, kv_heads=4, head_width=256, vocab=256000, max_len=8192, window=4096, global_every=2,
        query_scale=256, attn_softcap=50.0, logit_softcap=30.0, **_gemma,
    ),
    "gemma3-1b": Arch(
        26, 1152, 4, 6912, kv_heads=1, head_width=256, vocab=262144, max_len=32768, window=512, global_every=6,
        query_scale=256, rope_theta=1e6, rope_theta_local=1e4, qk_norm=True, **_gemma,
    ),
    "gemma3-4b": Arch(
        34, 2560, 8, 10240, kv_heads=4, head_width=256, vocab=262208, max_len=131072, window=1024, global_every=6,
        query_scale=256, rope_theta=1e6, rope_theta_local=1e4, rope_scaling=(8.0,), qk_norm=True, **_gemma,
    ),
    "pythia-160m": Arch(12, 768, 12, 3072, rope_width=16, **_pythia),
    "pythia-1.4b": Arch(24, 2048, 16, 8192, rope_width=32, **_pythia),
    "olmo2-7b": Arch(
        32, 4096, 32, 11008, vocab=100352, max_len=4096, rope_theta=5e5, norm_eps=1e-6, pre_norms=False,
        post_norms=True, qk_norm=True, qk_norm_joint=True, tied=False,
    ),
    "phi3-mini-4k": Arch(32, 3072, 32, 8192, vocab=32064, max_len=4096, window=2047, tied=False, family="phi3"),
}  # fmt: skip


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
