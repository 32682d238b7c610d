"""The files beside an export's weights: token numbers, the tokenizer as transformers reads it, the model card."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.data import chat
from jaxtrain.data.chat import Template
from jaxtrain.data.tokenizer import ByteTokenizer, Tokenizer
from jaxtrain.files import hf_hub, paths
from jaxtrain.models import hf_generation
from jaxtrain.stages.init_from import InitFrom, end_ids
from jaxtrain.train import workdir


def chat_template(start: InitFrom) -> Template | None:
    """The chat template that the model was trained with; None for a model without one."""
    return chat.load_template("auto", start.tokenizer) if start.tokenizer.chat_template else None


def token_ids(start: InitFrom, template: Template | None) -> dict[str, Any]:
    """bos, eos and pad as config.json and generation_config.json have them; eos are all ids that end a completion."""
    tokenizer = start.tokenizer
    ends = end_ids(start, template.ends if template else (tokenizer.eos,))
    bos = tokenizer.bos if "bos_token" in tokenizer.token_names else None
    return {"bos": bos, "eos": hf_generation.end_value(ends), "pad": tokenizer.pad}


def tokenizer_files(tokenizer: Tokenizer, template: Template | None) -> dict[str, bytes]:
    """The tokenizer's files by name, as transformers and we read them.

    eos_token is the end of the chat template's turns, unless the template itself writes eos_token for another token.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save(folder)
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
    if isinstance(tokenizer, ByteTokenizer):
        files["tokenizer.json"] = json.dumps(_byte_level(tokenizer), ensure_ascii=False).encode()
    texts = {number: text for text, number in tokenizer.specials.items()}
    names: dict[str, str | None] = {"bos_token": None, "pad_token": texts[tokenizer.pad]}
    names |= tokenizer.token_names
    if template and not re.search(r"\beos_token\b", template.source):
        names["eos_token"] = texts.get(template.end, names.get("eos_token"))
    # Of a SentencePiece model transformers knows the class from config.json's model_type.
    fast = {"tokenizer_class": "PreTrainedTokenizerFast"} if "tokenizer.json" in files else {}
    settings = {**fast, "clean_up_tokenization_spaces": False, **names}
    return {**files, "tokenizer_config.json": config.dumps(settings).encode()}


def _byte_level(tokenizer: ByteTokenizer) -> dict[str, Any]:
    """tokenizer.json of a tokenizer of bytes: a byte-level BPE without merges."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(256) if byte not in shown)
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, **plain}
            for text, i in sorted(tokenizer.specials.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {letters[byte]: byte for byte in range(256)},
            "merges": [],
        },
    }


def base_model(start: InitFrom) -> tuple[str, str]:
    """(name, revision) of the Hugging Face model that a model descends from, both empty where it is none."""
    node: Mapping[str, Any] = start.lineage
    while node:
        origin = node.get("origin") or ""
        if origin.startswith(hf_hub.PREFIX):
            name = origin.removeprefix(hf_hub.PREFIX)
            return (name, "") if _is_path(name) else tuple(name.split("@"))
        node = node.get("parent") or {}
    return "", ""


def _is_path(name: str) -> bool:
    return name.startswith("/") or config.is_remote(name)


def model_card(start: InitFrom, title: str, adapter_of: str = "") -> bytes:
    """README.md: what the model was trained from and on, as far as the run says; names of files without their folders.

    `adapter_of` is the base model of an adapter.
    """
    lineage = start.lineage
    base = adapter_of or base_model(start)[0]
    run = paths.parse(lineage["run"], "init_from") if lineage["run"] else None
    data = workdir.read_run(run)["config"].get("data", {}).get("data", "") if run else ""
    step = lineage["step"] or (workdir.newest_step(run) if run else None)
    head = {
        "library_name": "peft" if adapter_of else "transformers",
        "base_model": base if base and not _is_path(base) else None,
        "tags": "[jaxtrain]",
    }
    facts = {
        "Base model": base.rpartition("/")[2] if _is_path(base) else base or "none",
        "Run": f"{run.name}, step {step}" if run else None,
        "Stage": lineage["stage"] if run else None,
        "Merge": lineage["origin"] if lineage["stage"] == "merge" else None,
        "Data": re.sub(r"(?<=:)(?:[/~]|\w+://)[^,]*/", "", data),
        "Licence": "unknown; those of the base model and of the data apply",
    }
    lines = ["---", *(f"{key}: {value}" for key, value in head.items() if value), "---", "", f"# {title}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if value]
    return ("\n".join(lines) + "\n").encode()
