"""Tiny Hugging Face folders: a Llama with random weights, and a tokenizer of bytes with special tokens after them."""

import json
from pathlib import Path

import jax
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from jaxtrain.models import hf
from tests import tiny

IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # 256, 257, 258
CHAT = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
BASE = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ARCH = tiny.shrink("llama2-7b", layers=2, vocab=264, init_std=0.05, tied=True)


def tokenizer_json(specials=IM):
    """tokenizer.json of a byte-level BPE without merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return inner.to_str()


def params(arch=ARCH, favour=None, seed=0):
    """The weights of a model; with `favour` that token is the likeliest everywhere."""
    made = jax.tree.map(np.array, tiny.model(arch).init(jax.random.key(seed)))
    if favour is not None:
        made["embed"][:, 0] = 1.0
        made["embed"][favour, 0] = 12.0
    return made


def write(
    folder, *, arch=ARCH, specials=IM, roles=CHAT, template=CHATML, generation=None, config=None, favour=None
):
    """Writes the folder and returns its path."""
    extra = {
        "tokenizer.json": tokenizer_json(specials).encode(),
        "tokenizer_config.json": json.dumps(roles).encode(),
        **({"chat_template.jinja": template.encode()} if template else {}),
    }
    hf.write(Path(folder), params(arch, favour), arch, extra=extra)
    edit(Path(folder) / "config.json", **(config or {}))
    (Path(folder) / "generation_config.json").unlink()
    if generation is not None:
        (Path(folder) / "generation_config.json").write_text(json.dumps(generation))
    return Path(folder)


def edit(file, **changes):
    """Changes keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
