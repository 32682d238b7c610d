"""A Hugging Face config.json as an Arch, and an Arch as config.json.

Both spellings of the file are read: transformers 4 (torch_dtype, rope_theta, rope_scaling) and 5 (dtype,
rope_parameters); what is written holds both. A setting that would change what the model computes, and that an Arch
cannot say, raises ConfigError with its key and value. Settings of training alone, such as dropout, are not read.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.models import hf_rope
from jaxtrain.models.hf_families import FAMILIES, LEGAL, Config, Family, nearest
from jaxtrain.models.zoo import Arch

OTHERWISE = "the model would compute something else"
MOST = {
    "num_hidden_layers": 1 << 12,
    "hidden_size": 1 << 18,
}  # far above any model: a file of more is damaged
MOST_NUMBER = (1 << 31) - 1
_SLIDING, _FULL = "sliding_attention", "full_attention"


def read(folder: Path) -> Arch:
    """The Arch of a folder's config.json. Raises ConfigError where there is none, or it asks for something else."""
    path = folder / "config.json"
    config = load(path)
    kind = config.get("model_type")
    if kind == "gemma3" and isinstance(config.get("text_config"), dict):
        outer, config, kind = config, config["text_config"], "gemma3_text"
        config.setdefault("tie_word_embeddings", outer.get("tie_word_embeddings", True))
        _require_legal(path, outer, LEGAL)
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(
            f"{path}: model_type={kind!r}, architectures={config.get('architectures')} is not an architecture that can "
            f"be read; known are {', '.join(f'{name} ({family.architecture})' for name, family in FAMILIES.items())}"
        )
    return _arch(path, config, kind)


def load(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ConfigError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file; name a folder that transformers' save_pretrained wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error}); download or export it again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds {type(value).__name__}, not an object; download or export it again")
    return value


def _arch(path: Path, config: Config, kind: str) -> Arch:
    family = FAMILIES[kind]
    stem = family.architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel").lower()
    names = config.get("architectures") or [family.architecture]
    known = {stem + end for end in ("forcausallm", "lmheadmodel", "model", "textmodel")}
    if not isinstance(names, list) or not any(str(name).lower() in known for name in names):
        raise ConfigError(
            f"{path}: architectures={names} is not a language model of model_type={kind!r}; want {family.architecture}"
        )
    _require_legal(path, config, family.legal)
    config = _with_experts(path, config, family)
    plain = {key: value for key, value in config.items() if key not in family.spelled}
    own = {key: config[name] for key, name in family.spelled.items() if config.get(name) is not None}
    rotary = plain.get("rope_parameters")
    if not rotary and not plain.get("rope_scaling"):
        rotary = family.defaults.get("rope_parameters")
    file = _File(path, kind, {**family.defaults, **plain, **own, "rope_parameters": rotary})
    for key, name in family.spelled.items():
        if key != "hidden_act" and key in config and config[key] != file.values.get(key):
            raise file.refusal(key, f"and {key}={_shown(config[key])} disagree; {kind} has {name}")
    try:
        return Arch(**family.arch, **file.fields(), family=kind)
    except KeyError as error:
        key = family.spelled.get(error.args[0], error.args[0])
        raise ConfigError(f"{path}: has no {key!r}, which a {kind} model needs") from error
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _with_experts(path: Path, config: Config, family: Family) -> Config:
    """The number of experts under the family's own key: transformers 5 writes num_local_experts for some of them."""
    if "num_experts" not in family.defaults:
        return config
    given = {key: config[key] for key in ("num_experts", "num_local_experts") if config.get(key) is not None}
    if len(set(map(str, given.values()))) > 1:
        raise ConfigError(
            f"{path}: {' and '.join(f'{key}={_shown(n)}' for key, n in given.items())} disagree"
        )
    return {**config, **{family.spelled.get("num_experts", "num_experts"): n for n in given.values()}}


def _require_legal(path: Path, config: Config, legal: Mapping[str, tuple]) -> None:
    for key, values in legal.items():
        if config.get(key, values[0]) not in values:
            allowed = " or ".join(json.dumps(value) for value in values if value is not None) or "none"
            raise ConfigError(
                f"{path}: {key}={_shown(config[key])} is not supported, only {allowed}: {OTHERWISE}"
            )


def _shown(value: Any) -> str:
    """A value as the file has it, at most a line of it."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}… ({len(text):,} characters)"


class _File(NamedTuple):
    """config.json with the defaults of its family, its keys spelled as Llama's."""

    path: Path
    kind: str
    values: Config

    def number(self, key: str, kinds: Any = int, least: float = 1) -> Any:
        value, most = self.values[key], MOST.get(key, MOST_NUMBER)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            name = "int" if kinds is int else "float"
            raise self.refusal(key, f"must be a number ({name}) from {least} to {most:,}")
        return value

    def flag(self, key: str) -> bool:
        if not isinstance(self.values[key], bool):
            raise self.refusal(key, "must be true or false")
        return self.values[key]

    def refusal(self, key: str, why: str) -> ConfigError:
        spelled = FAMILIES[self.kind].spelled.get(key, key)
        return ConfigError(f"{self.path}: {spelled}={_shown(self.values[key])} {why}")

    def fields(self) -> dict[str, Any]:
        """The fields of an Arch that differ within the family."""
        family, values, count = FAMILIES[self.kind], self.values, self.number
        width, heads = count("hidden_size"), count("num_attention_heads")
        kv_heads = heads if values["num_key_value_heads"] is None else count("num_key_value_heads")
        head_width = 0 if values["head_dim"] is None else count("head_dim")
        fields = {
            "layers": count("num_hidden_layers"),
            "width": width,
            "heads": heads,
            "ff": 4 * width
            if values["intermediate_size"] is None and self.kind == "gpt2"
            else count("intermediate_size"),
            "kv_heads": 0 if kv_heads == heads else kv_heads,
            "head_width": 0 if head_width * heads == width else head_width,
            "vocab": count("vocab_size"),
            "max_len": count("max_position_embeddings"),
            "norm_eps": self.number("rms_norm_eps", int | float, 0),
            "tied": self.flag("tie_word_embeddings"),
            "init_std": self.number("initializer_range", int | float, 0),
            "mlp": self._mlp(),
            **self._windows(),
        }
        for key, field in family.fields.items():
            fields[field] = self._value(key, Arch.__dataclass_fields__[field].type)
        if "attention_bias" in family.defaults:
            fields["qkv_bias"] = fields["out_bias"] = self.flag("attention_bias")
        if "mlp_bias" in family.defaults:
            fields["mlp_bias"] = self.flag("mlp_bias")
        if family.arch["positions"] == "rope":
            each = head_width or width // max(heads, 1)
            fields |= hf_rope.read(self.path, values, self.kind, each, bool(fields.get("window")))
        return {name: value for name, value in fields.items() if name not in family.arch}

    def _value(self, key: str, kind: Any) -> Any:
        value = self.values[key]
        if kind is bool:
            return self.flag(key)
        if kind is int:
            return self.number(key)
        return 0.0 if value is None else self.number(key, int | float, 0)

    def _mlp(self) -> str:
        family = FAMILIES[self.kind]
        act = self.values["hidden_act"]
        if not isinstance(act, str) or act not in family.acts:
            raise self.refusal(
                "hidden_act", f"is not supported, only {' or '.join(family.acts)}: {OTHERWISE}"
            )
        return family.acts[act]

    def _windows(self) -> dict[str, Any]:
        """`window` and the layers without one, of the layers' types, given or implied."""
        path, values, kind, window = self.path, self.values, self.kind, self.values["sliding_window"]
        layers, family = self.number("num_hidden_layers"), FAMILIES[kind]
        if "use_sliding_window" in family.defaults:
            self.flag("use_sliding_window")
            self.number("max_window_layers", least=0)
        if "sliding_window_pattern" in family.defaults:
            self.number("sliding_window_pattern")
        types = [_SLIDING if family.slides(values, i) else _FULL for i in range(layers)]
        given = values.get("layer_types") or types
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise self.refusal("layer_types", f"must be a list of {_SLIDING} and {_FULL}")
        fixed = "window" in family.arch or "global_layers" in family.arch
        if len(given) != layers or (fixed and given != types):
            raise ConfigError(
                f"{path}: layer_types={given} is not what a {kind} model of {layers} layers has"
            )
        if set(given) - {_SLIDING, _FULL}:
            raise ConfigError(f"{path}: layer_types={given}: only {_SLIDING} and {_FULL} are supported")
        if _SLIDING not in given:
            return {"window": 0}
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ConfigError(f"{path}: sliding_window={window!r}, though layer_types has {_SLIDING}")
        free = tuple(i for i, name in enumerate(given) if name == _FULL)
        every = free[0] + 1 if free else 0
        if free == tuple(i for i in range(layers) if every and (i + 1) % every == 0):
            return {"window": window, "global_every": every}
        return {"window": window, "global_layers": free}


def write(
    arch: Arch, *, dtype: str = "float32", ids: Mapping[str, int | None] | None = None, context: int = 4096
) -> dict[str, Any]:
    """config.json of an Arch, as the architecture of transformers that computes the same; keys of both versions.

    `ids` are token numbers by name: bos, eos, pad. `context` is the length that is promised where the Arch has no
    bound. Dropout is kept for GPT-2 alone, as embd_pdrop and resid_pdrop. Raises ConfigError with the field that no
    architecture has.
    """
    if not arch.vocab:
        raise ConfigError("--to=hf: the model's vocab is 0: set it from the tokenizer before the export")
    kind, arch = nearest(arch), _normal(arch)
    family = FAMILIES[kind]
    for name, value in family.arch.items():
        if getattr(arch, name) != value:
            raise ConfigError(
                f"--to=hf: {name}={getattr(arch, name)} of the model: no architecture of transformers has it with "
                f"the rest; the nearest, {family.architecture}, has {name}={value}"
            )
    numbers = {f"{name}_token_id": (ids or {}).get(name) for name in ("bos", "eos", "pad")}
    return {
        "architectures": [family.architecture],
        "model_type": kind,
        "vocab_size": arch.vocab,
        **_keys(arch, kind, context),
        "tie_word_embeddings": arch.tied,
        "initializer_range": arch.init_std,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        **numbers,
    }


def _normal(arch: Arch) -> Arch:
    """The same function, with a 0 in the fields that then say nothing."""
    windows, changes = arch.windows(), {}
    if not any(windows):
        changes = {"window": 0, "global_every": 0, "global_layers": (), "rope_theta_local": 0.0}
    elif all(windows):
        changes = {"global_every": 0, "global_layers": ()}
    if arch.rope_width == arch.C:
        changes["rope_width"] = 0
    if arch.query_scale == arch.C and not arch.post_norms:
        changes["query_scale"] = 0.0
    if arch.experts and "expert_ff" in FAMILIES[nearest(arch)].arch:
        changes |= {"ff": arch.F, "expert_ff": 0}
    return dataclasses.replace(arch, **changes)


def _keys(arch: Arch, kind: str, context: int) -> dict[str, Any]:
    family = FAMILIES[kind]
    acts = {mlp: act for act, mlp in reversed(family.acts.items())}
    if arch.mlp not in acts:
        raise ConfigError(f"--to=hf: mlp={arch.mlp}: {family.architecture} has {' or '.join(acts)}")
    keys: dict[str, Any] = {
        "hidden_size": arch.width,
        "intermediate_size": arch.ff,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "max_position_embeddings": arch.max_len or context,
        "rms_norm_eps": arch.norm_eps,
        "hidden_act": acts[arch.mlp],
        **_head_keys(arch, family),
        **_bias_keys(arch, family),
        **{key: _or_null(getattr(arch, field)) for key, field in family.fields.items()},
        **(hf_rope.write(arch, kind) if arch.positions == "rope" else {}),
    }
    if "window" not in family.arch:
        keys |= _window_keys(arch, family, context)
    if "query_pre_attn_scalar" in family.fields:
        scale = arch.query_scale or arch.C
        if scale % 1:
            raise ConfigError(
                f"--to=hf: query_scale={arch.query_scale}: query_pre_attn_scalar is a whole number"
            )
        keys["query_pre_attn_scalar"] = int(scale)
    rates = ("embd_pdrop", "resid_pdrop") if kind == "gpt2" else ()
    keys |= dict.fromkeys(rates, arch.dropout) | {"attn_pdrop" if rates else "attention_dropout": 0.0}
    return {family.spelled.get(key, key): value for key, value in keys.items()}


def _or_null(value: bool | float) -> bool | float | None:
    return value if isinstance(value, bool) else value or None


def _head_keys(arch: Arch, family: Family) -> dict[str, Any]:
    if family.legal.get("head_dim") == (None,):
        if arch.heads != arch.K or arch.heads * arch.C != arch.width:
            raise ConfigError(
                f"--to=hf: heads={arch.heads}, kv_heads={arch.K}, head_width={arch.C} of the model: "
                f"{family.architecture} has as many key heads as heads, and head_width = width / heads"
            )
        return {}
    if arch.width % arch.heads:
        raise ConfigError(
            f"--to=hf: {arch.heads} heads do not divide width {arch.width}, which {family.architecture} wants"
        )
    return {"num_key_value_heads": arch.K, "head_dim": arch.C}


def _bias_keys(arch: Arch, family: Family) -> dict[str, Any]:
    if "attention_bias" not in family.defaults:
        return {"attention_bias": False} if "attention_bias" in family.legal else {}
    if arch.qkv_bias != arch.out_bias:
        raise ConfigError(
            f"--to=hf: qkv_bias={arch.qkv_bias}, out_bias={arch.out_bias}: {family.architecture} has both or neither"
        )
    biases = {"attention_bias": arch.out_bias}
    return biases | ({"mlp_bias": arch.mlp_bias} if "mlp_bias" in family.defaults else {})


def _window_keys(arch: Arch, family: Family, context: int) -> dict[str, Any]:
    types = [_SLIDING if window else _FULL for window in arch.windows()]
    keys: dict[str, Any] = {"sliding_window": arch.window or None}
    if "global_layers" not in family.arch:
        keys["layer_types"] = types
    if "use_sliding_window" in family.defaults:
        first = types.index(_SLIDING) if arch.window else arch.layers
        keys |= {"use_sliding_window": bool(arch.window), "max_window_layers": first}
    if family.slides({**family.defaults, **keys}, 0):  # a null there would not be no window
        keys["sliding_window"] = arch.window or context
    if "sliding_window_pattern" in family.defaults:
        keys["sliding_window_pattern"] = arch.global_every or arch.layers + 1
    return keys
