"""What the GPU check measures, as plain data: the sizes of an H100, and tiny ones that a CPU runs in seconds."""

import dataclasses
from typing import Any, NamedTuple

from jaxtrain.models.zoo import Arch


class TrainingSize(NamedTuple):
    """A training step to measure."""

    model: str  # of models/zoo.py
    rows: int
    length: int
    settings: tuple[
        dict[str, Any], ...
    ]  # flags of config.Model, and rows; the first that fits in memory is measured
    sweep: tuple[dict[str, Any], ...] = ()  # the others, in order of promise


class DecodingSize(NamedTuple):
    """Decoding to measure: the batches, tokens of a prompt and of its completion."""

    model: str
    batches: tuple[int, ...]
    prompt: int
    new: int
    sweep: tuple[dict[str, Any], ...] = ()


class PpoSize(NamedTuple):
    """A PPO iteration to measure."""

    model: str
    completions: int
    prompt: int
    new: int
    rows: int  # of an update
    epochs: int


class AttentionCase(NamedTuple):
    """Attention of a shape: `documents` in each of two rows, of lengths that differ."""

    heads: int
    kv_heads: int
    width: int  # of a head, C
    length: int
    window: int = 0
    softcap: float = 0.0
    documents: int = 1
    causal: bool = True
    others: bool = False  # kernels that `auto` does not take are measured, too

    def arch(self) -> Arch:
        """A model with this attention."""
        return Arch(
            1,
            self.heads * self.width,
            self.heads,
            self.width,
            kv_heads=self.kv_heads,
            head_width=self.width,
            attn_softcap=self.softcap,
            causal=self.causal,
            vocab=64,
        )


@dataclasses.dataclass(frozen=True)
class CheckSizes:
    tiny: bool
    matmul: int  # rows and columns
    copy: int  # bytes
    attention: dict[str, AttentionCase]
    parity: str  # the model whose packed rows, samples and log-probabilities are compared
    parity_rows: int
    parity_length: int
    parity_prompt: int
    pretrain: dict[str, TrainingSize]
    dpo: TrainingSize
    decode: DecodingSize
    ppo: PpoSize
    calls: int  # steps in a row that are timed together
    repeats: int
    torch_pretrain: tuple[
        tuple[str, str, str], ...
    ]  # (size, what torch.compile takes: "", block, model; its backend)


# The shapes of GPT-3's table 2.1 (arXiv:2005.14165), with 16 heads of 128 at 1.3B, where the table's 24 do not divide,
# GPT-2's vocabulary rounded up to a multiple of 64, and the embedding tied.
_GPT3 = "vocab=50304,max_len=2048"
_XL = f"gpt2,layers=24,width=2048,heads=16,ff=8192,{_GPT3}"

FULL = CheckSizes(
    tiny=False,
    matmul=8192,
    copy=2**30,
    attention={
        "packed, window": AttentionCase(16, 8, 128, 2048, window=512, documents=5),
        "packed, odd length": AttentionCase(16, 4, 64, 1999, documents=5),
        "many documents": AttentionCase(12, 12, 64, 2048, documents=200),
        "many documents, long": AttentionCase(4, 2, 64, 8192, documents=200),
        "soft cap": AttentionCase(8, 4, 256, 2048, softcap=50.0, documents=5),
        "one key head, wide": AttentionCase(4, 1, 256, 2048, documents=5),
        "bidirectional": AttentionCase(12, 12, 64, 2048, documents=5, causal=False),
        "causal": AttentionCase(12, 12, 64, 2048, others=True),
        "packed, grouped": AttentionCase(32, 8, 128, 2048, documents=5, others=True),
    },
    parity="llama3.2-1b,layers=8,width=1024,heads=16,kv_heads=4,ff=2816,vocab=32000,init_std=0.04",
    parity_rows=32,
    parity_length=256,
    parity_prompt=64,
    pretrain={
        "125M": TrainingSize(
            f"gpt2,{_GPT3}", 16, 2048, ({}, {"remat": "full"}),
            (
                {"remat": "none"}, {"remat": "none", "logits_limit_mb": 8192},
                {"remat": "none", "logits_limit_mb": 8192, "scan_layers": "false"}, {"documents": 5}, {"rows": 32},
            ),
        ),
        "1.3B": TrainingSize(
            _XL, 8, 2048, ({}, {"remat": "full"}),
            ({"scan_layers": "false"}, {"logits_limit_mb": 4096}, {"remat": "full"}),
        ),
        "350M": TrainingSize(
            f"gpt2-medium,{_GPT3}", 16, 2048, ({}, {"remat": "full"}), ({"remat": "none"},),
        ),
    },
    dpo=TrainingSize(_XL, 8, 1024, ({}, {"remat": "full"})),
    decode=DecodingSize(_XL, (1, 32, 256), 128, 128, ({"scan_layers": "true"},)),
    ppo=PpoSize(f"gpt2-medium,{_GPT3}", 128, 128, 256, 64, 2),
    calls=4,
    repeats=5,
    torch_pretrain=(("125M", "", ""), ("125M", "model", "inductor"), ("1.3B", "block", "inductor")),
)  # fmt: skip

_TINY = "tinytown-200k,layers=2,width=32,heads=2,ff=64,vocab=64,max_len=32"
_TINY_GPT2 = f"gpt2,{_TINY.partition(',')[2]}"

TINY = CheckSizes(
    tiny=True,
    matmul=64,
    copy=2**20,
    attention={
        "causal": AttentionCase(4, 4, 16, 64, others=True),
        "packed": AttentionCase(4, 2, 16, 96, documents=3),
        "odd length": AttentionCase(4, 2, 16, 77, documents=3),
        "window": AttentionCase(4, 1, 16, 64, window=16, documents=3),
        "soft cap": AttentionCase(4, 2, 16, 64, softcap=2.0),
    },
    parity=f"{_TINY},kv_heads=1,init_std=0.3",
    parity_rows=16,
    parity_length=32,
    parity_prompt=8,
    pretrain={
        "125M": TrainingSize(_TINY_GPT2, 2, 32, ({}, {"remat": "full"}), ({"documents": 3}, {"rows": 4})),
        "1.3B": TrainingSize(_TINY_GPT2, 2, 32, ({"remat": "dots"}, {"remat": "full"}), ({"logits_limit_mb": 1},)),
        "350M": TrainingSize(_TINY_GPT2, 2, 32, ({},)),
    },
    dpo=TrainingSize(_TINY, 2, 32, ({},)),
    decode=DecodingSize(_TINY_GPT2, (1, 2), 8, 8, ({"scan_layers": "true"},)),
    ppo=PpoSize(_TINY, 4, 8, 8, 2, 2),
    calls=1,
    repeats=2,
    torch_pretrain=(("125M", "", ""), ("125M", "model", "aot_eager"), ("1.3B", "block", "aot_eager")),
)  # fmt: skip
