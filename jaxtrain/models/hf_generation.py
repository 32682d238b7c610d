"""generation_config.json: the tokens that end a completion, and the sampling parameters that a model comes with.

The tokens end ours too; the sampling parameters are no defaults of ours, and travel to an export as they are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.models import hf_config

FILE, ENDS = "generation_config.json", "eos_token_id"
# What a writer says of itself, and ids that the tokenizer has.
_OWN = ("transformers_version", "_from_model_config", "bos_token_id", "pad_token_id")


def read(folder: Path) -> dict[str, Any]:
    """The generation_config.json of a folder, whose eos_token_id is a list; {} where there is nothing to read.

    The ids of a list in config.json are among them. Raises ConfigError, with the file, for ids that are no numbers.
    """
    path = folder / FILE
    given = hf_config.load(path) if path.is_file() else {}
    config = hf_config.load(folder / "config.json")
    config = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    several = config.get(ENDS) if isinstance(config.get(ENDS), list) else None
    ends = [*_ids(path, given.get(ENDS)), *_ids(folder / "config.json", several)]
    kept = {name: value for name, value in given.items() if name not in (*_OWN, ENDS) and value is not None}
    return kept | ({ENDS: list(dict.fromkeys(ends))} if ends else {})


def write(generation: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json with the token numbers bos, eos and pad, and the rest of `generation` as it was read."""
    return {**generation, **{f"{name}_token_id": ids[name] for name in ids if ids[name] is not None}}


def end_value(ends: Sequence[int]) -> int | list[int] | None:
    """eos_token_id as files have it: one id, or a list of several."""
    return list(ends) if len(ends) > 1 else next(iter(ends), None)


def _ids(path: Path, value: Any) -> list[int]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in values):
        raise ConfigError(f"{path}: {ENDS}={value!r} must be a token's number or a list of them; correct it")
    return values
