"""Rotary positions in a Hugging Face config.json: rope_theta and rope_scaling of transformers 4, rope_parameters of 5.

What is read is what transformers 5 makes of the file. A type or a setting that an Arch cannot say raises ConfigError
with its key and value.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.models.hf_families import FAMILIES, Config
from jaxtrain.models.zoo import Arch

# The settings of each type. Those of _ANY act in all types, or in none.
_ANY = (
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "finetuned",
)
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor")
_YARN = ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")
_LONGROPE = ("factor", "attention_factor", "short_factor", "long_factor")
_PHI3_TYPES = ("default", "longrope")
_SETTINGS = {"default": (), "linear": ("factor",), "dynamic": ("factor",), "llama3": _LLAMA3, "yarn": _YARN,
    "longrope": _LONGROPE}  # fmt: skip
_NESTED = ("full_attention", "sliding_attention")
MOST = 1e15  # of a number: a file with a larger one is damaged


class _Rotary(NamedTuple):
    """The fields of an Arch that one block of settings gives."""

    rope_theta: float
    rope_scaling: tuple[float, ...] = ()
    rope_factors: tuple[float, ...] = ()
    rope_width: int = 0
    max_len: int = 0


def read(path: Path, values: Config, kind: str, head_width: int, windowed: bool) -> dict[str, Any]:
    """The rotary fields of an Arch, and max_len, of the settings of config.json with their defaults.

    `windowed`: some layers have a window.
    """
    block, new, nests = _Block(path, values, kind, head_width), values.get("rope_parameters"), nested(kind)
    if not isinstance(new, dict | None):
        raise block.refusal("rope_parameters", new, "must be an object")
    new = new or {}
    blocks = {key: new[key] for key in _NESTED if key in new}
    if new and bool(blocks) != nests:
        per = "one for each type of layer" if nests else "one for all layers"
        raise ConfigError(f"{path}: rope_parameters={json.dumps(new)}: a {kind} model has {per}")
    old = block.read(values.get("rope_scaling"), values["rope_theta"])
    everywhere = block.read(blocks.get("full_attention") if blocks else new, values["rope_theta"])
    if values.get("rope_scaling") and new and everywhere != old:
        raise ConfigError(f"{path}: rope_scaling and rope_parameters disagree; keep the one that is true")
    everywhere = everywhere if new else old
    fields = everywhere._asdict()
    if not nests or not windowed:
        return fields
    local = block.read(blocks.get("sliding_attention"), values["rope_local_base_freq"])
    if local.rope_scaling and local != everywhere:
        raise ConfigError(
            f"{path}: rope_parameters of sliding_attention are scaled ({local.rope_scaling}): only those of "
            "full_attention may be"
        )
    return {**fields, "rope_theta_local": 0.0 if local.rope_scaling else local.rope_theta}


def nested(kind: str) -> bool:
    """Whether a family has settings for each type of layer."""
    return "rope_local_base_freq" in FAMILIES[kind].defaults


class _Block(NamedTuple):
    """Where a block of rotary settings stands, and what it takes from around it."""

    path: Path
    values: Config
    kind: str
    head_width: int

    def read(self, given: Any, theta: Any) -> _Rotary:
        """The fields of a block, with the theta beside it. Raises ConfigError for what an Arch cannot say."""
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise self.refusal("rope_scaling", given, "must be an object")
        rope_type = given.get("rope_type") or given.get("type") or "default"
        # Phi 3 has one type beside the default, which releases before transformers 4.43 called su and yarn.
        if self.kind == "phi3" and rope_type in ("su", "yarn"):
            rope_type = "longrope"
        if nested(self.kind) and "type" in given and "rope_type" not in given:
            raise self.refusal(
                "type", rope_type, "is read differently by transformers 4 and 5; write rope_type"
            )
        types = _PHI3_TYPES if self.kind == "phi3" else tuple(_SETTINGS)
        if rope_type not in types:
            raise self.refusal("rope_type", rope_type, f"is not supported, only {', '.join(types)}")
        for key, value in given.items():
            if key not in (*_ANY, *_SETTINGS[rope_type]) and value is not None:
                raise self.refusal(
                    f"rope_type={rope_type!r} with {key}", value, "is not supported; correct it"
                )
        theta = self._number({"rope_theta": theta, **_set(given)}, "rope_theta")
        length, rotated = self._number(self.values, "max_position_embeddings"), self._width(given)
        plain = _Rotary(theta, rope_width=0 if rotated == self.head_width else rotated, max_len=int(length))
        if rope_type == "default":
            return plain
        if rope_type == "longrope":
            return self._longrope(given, plain)
        factor = self._factor(given) if rope_type == "yarn" else self._number(given, "factor")
        if rope_type == "linear":
            return plain._replace(rope_scaling=(factor,))
        original = self._original(given)
        if rope_type == "dynamic":
            if original != length:  # transformers reads over it
                key = "original_max_position_embeddings"
                raise self.refusal(
                    key, original, f"must be max_position_embeddings={length} under dynamic scaling"
                )
            return plain._replace(
                rope_scaling=(factor, original), max_len=max(plain.max_len, round(original * factor))
            )
        if rope_type == "llama3":
            if given.get("low_freq_factor") == given.get("high_freq_factor"):
                raise self.refusal(
                    "high_freq_factor", given.get("high_freq_factor"), "must be above low_freq_factor"
                )
            return plain._replace(
                rope_scaling=(factor, *(self._number(given, key) for key in _LLAMA3[1:]), original)
            )
        beyond = max(plain.max_len, round(original * factor))  # the length that YaRN stretches to
        return plain._replace(rope_scaling=self._yarn(given, factor, original), max_len=beyond)

    def _yarn(self, given: Config, factor: float, original: float) -> tuple[float, ...]:
        """(factor, beta_fast, beta_slow, original length, attention factor, truncate) (arXiv:2309.00071, eq. 22)."""
        fast, slow = (
            self._number(given, key) if given.get(key) else default
            for key, default in (("beta_fast", 32), ("beta_slow", 1))
        )
        truncate = given.get("truncate", True)
        if nested(self.kind) and not truncate:  # transformers looks for it in another place there
            raise self.refusal("truncate", truncate, "is not supported in settings for each type of layer")
        attention = given.get("attention_factor")
        if attention is None:
            scales = [self._number(given, key) for key in ("mscale", "mscale_all_dim") if given.get(key)]
            above, below = (
                _attention(factor, scale) for scale in (scales if len(scales) == 2 else (1.0, 0.0))
            )
            attention = above / below
        else:
            attention = self._number(given, "attention_factor")
        return (factor, fast, slow, original, attention, float(bool(truncate)))

    def _longrope(self, given: Config, plain: _Rotary) -> _Rotary:
        """LongRoPE's tables (arXiv:2402.13753), and the attention factor of Phi 3."""
        original, factor = self._original(given), self._factor(given)
        width = plain.rope_width or self.head_width
        for key in ("short_factor", "long_factor"):
            numbers = given.get(key)
            if (
                not isinstance(numbers, list)
                or len(numbers) != width // 2
                or not all(map(_is_number, numbers))
            ):
                raise self.refusal(key, numbers, f"must be a list of {width // 2} numbers above 0")
        attention = given.get("attention_factor")
        attention = _su(factor, original) if attention is None else self._number(given, "attention_factor")
        factors = (*map(float, given["short_factor"]), *map(float, given["long_factor"]))
        return plain._replace(rope_scaling=(original, attention), rope_factors=factors)

    def _original(self, given: Config) -> float:
        """The length before it was stretched: that beside a single block, which transformers prefers, or in it."""
        key = "original_max_position_embeddings"
        for place in (given,) if nested(self.kind) else (self.values, given):
            if place.get(key) is not None:
                return self._number(place, key)
        return self._number(self.values, "max_position_embeddings")

    def _factor(self, given: Config) -> float:
        if given.get("factor") is not None:
            return self._number(given, "factor")
        return self._number(self.values, "max_position_embeddings") / self._original(given)

    def _width(self, given: Config) -> int:
        """The rotated components of a head."""
        key = "partial_rotary_factor"
        share = {key: self.values.get(key), **_set(given)}
        if share[key] is None:
            return self.head_width
        width = int(self.head_width * self._number(share, key))
        whole = key in FAMILIES[self.kind].legal
        if not 0 < width <= self.head_width or (whole and width != self.head_width):
            raise self.refusal(key, share[key], f"is not supported in a {self.kind} model, only 1")
        return width

    def _number(self, given: Config, key: str) -> float:
        if key not in given:
            raise ConfigError(
                f"{self.path}: the settings of rotary positions have no {key!r}: {json.dumps(given)}"
            )
        if not _is_number(given[key]):
            raise self.refusal(key, given[key], "must be a number above 0")
        return given[key]

    def refusal(self, key: str, value: Any, why: str) -> ConfigError:
        spelled = FAMILIES[self.kind].spelled.get(key, key)
        return ConfigError(f"{self.path}: {spelled}={json.dumps(value)} {why}")


def _set(given: Config) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MOST


def _attention(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _su(factor: float, original: float) -> float:
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def write(arch: Arch, kind: str) -> dict[str, Any]:
    """The keys of both versions of transformers. Raises ConfigError for what the family does not have."""
    scaling, theta = _settings(arch), float(arch.rope_theta)
    keys: dict[str, Any] = {"rope_theta": theta, "rope_scaling": scaling if arch.rope_scaling else None}
    if "partial_rotary_factor" not in FAMILIES[kind].legal:
        keys["partial_rotary_factor"] = arch.R / arch.C
    if scaling["rope_type"] == "dynamic":  # transformers has no other place for the original length
        keys["max_position_embeddings"] = int(arch.rope_scaling[1])
    if arch.rope_factors:
        original, attention = arch.rope_scaling
        keys["original_max_position_embeddings"] = int(original)
        if attention == _su(
            arch.max_len / original, original
        ):  # transformers 4 takes three settings and no other
            three = ("rope_type", "short_factor", "long_factor")
            keys["rope_scaling"] = {key.removeprefix("rope_"): scaling[key] for key in three}
    if not nested(kind):
        share = {key: keys[key] for key in ("partial_rotary_factor",) if key in keys}
        return {**keys, "rope_parameters": {**scaling, "rope_theta": theta, **share}}
    if arch.rope_scaling and arch.window and not arch.rope_theta_local:
        raise ConfigError(
            f"--to=hf: {FAMILIES[kind].architecture} does not scale layers with a window: set rope_theta_local"
        )
    local = float(arch.rope_theta_local or arch.rope_theta)
    new = {
        "full_attention": {**scaling, "rope_theta": theta},
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    if "rope_local_base_freq" not in FAMILIES[kind].legal:
        keys["rope_local_base_freq"] = local
    return {**keys, "rope_parameters": new}


def _settings(arch: Arch) -> dict[str, Any]:
    """rope_parameters of an Arch, without theta."""
    numbers: Mapping[str, Any]
    if arch.rope_factors:
        rope_type, half = "longrope", arch.R // 2
        original, attention = arch.rope_scaling
        numbers = {"short_factor": list(arch.rope_factors[:half]), "long_factor": list(arch.rope_factors[half:]),
            "attention_factor": attention, "original_max_position_embeddings": int(original)}  # fmt: skip
    elif len(arch.rope_scaling) == 6:
        rope_type, (factor, fast, slow, original, attention, truncate) = "yarn", arch.rope_scaling
        numbers = {"factor": float(factor), "original_max_position_embeddings": int(original),
            "attention_factor": float(attention), "beta_fast": float(fast), "beta_slow": float(slow),
            "truncate": bool(truncate)}  # fmt: skip
    elif len(arch.rope_scaling) == 4:
        rope_type, numbers = "llama3", dict(zip(_LLAMA3, map(float, arch.rope_scaling), strict=False))
        numbers["original_max_position_embeddings"] = int(arch.rope_scaling[3])
    elif len(arch.rope_scaling) == 2:
        rope_type, numbers = "dynamic", {"factor": float(arch.rope_scaling[0])}
    elif arch.rope_scaling:
        rope_type, numbers = "linear", {"factor": float(arch.rope_scaling[0])}
    else:
        rope_type, numbers = "default", {}
    return {"rope_type": rope_type, **numbers}
