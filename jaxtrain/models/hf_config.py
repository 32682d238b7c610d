"""A Hugging Face config.json as an Arch, and an Arch as config.json.

Both spellings of the file are read: transformers 4 (torch_dtype, rope_theta, rope_scaling) and 5 (dtype,
rope_parameters); what is written holds both. A setting that would change what the model computes, and that an Arch
cannot say, raises ConfigError with its key and value. Settings of training alone, such as dropout, are not read.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.models.hf_families import FAMILIES, LEGAL, Config
from jaxtrain.models.zoo import Arch


def read(folder: Path) -> Arch:
    """The Arch of a folder's config.json. Raises ConfigError where there is none, or it asks for something else."""
    path = folder / "config.json"
    config = load(path)
    kind = config.get("model_type")
    if kind == "gemma3" and isinstance(config.get("text_config"), dict):
        outer, config, kind = config, config["text_config"], "gemma3_text"
        config.setdefault("tie_word_embeddings", outer.get("tie_word_embeddings", True))
        _require_legal(path, outer, LEGAL)
    if kind not in FAMILIES:
        raise ConfigError(
            f"{path}: model_type={kind!r}, architectures={config.get('architectures')} is no architecture that can be "
            f"read; known are {', '.join(f'{name} ({family.architecture})' for name, family in FAMILIES.items())}"
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
    names = config.get("architectures") or [family.architecture]
    if not any(str(name).endswith(("ForCausalLM", "LMHeadModel", "Model")) for name in names):
        raise ConfigError(f"{path}: architectures={names} is no language model; want {family.architecture}")
    _require_legal(path, config, family.legal)
    values = {**family.defaults, **config}
    try:
        shape = _gpt2_shape(path, values) if kind == "gpt2" else _shape(path, values, kind)
        common = {"tied": bool(values["tie_word_embeddings"]), "init_std": values["initializer_range"]}
        return Arch(**{**family.arch, **common, **shape})
    except KeyError as error:
        raise ConfigError(f"{path}: has no {error}, which a {kind} model needs") from error
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _require_legal(path: Path, config: Config, legal: Mapping[str, tuple]) -> None:
    for key, values in legal.items():
        if config.get(key, values[0]) not in values:
            allowed = " or ".join(json.dumps(value) for value in values if value is not None) or "none"
            raise ConfigError(
                f"{path}: {key}={json.dumps(config[key])} is not supported, only {allowed}: "
                "the model would compute something else"
            )


def _number(path: Path, values: Config, key: str, kinds: tuple[type, ...] = (int,)) -> Any:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ConfigError(f"{path}: {key}={value!r} must be a number ({kinds[-1].__name__})")
    return value


def _gpt2_shape(path: Path, values: Config) -> dict[str, Any]:
    width = _number(path, values, "n_embd")
    return {
        "layers": _number(path, values, "n_layer"),
        "width": width,
        "heads": _number(path, values, "n_head"),
        "ff": 4 * width if values["n_inner"] is None else _number(path, values, "n_inner"),
        "vocab": _number(path, values, "vocab_size"),
        "max_len": _number(path, values, "n_positions"),
        "norm_eps": _number(path, values, "layer_norm_epsilon", (int, float)),
    }


def _shape(path: Path, values: Config, kind: str) -> dict[str, Any]:
    def count(key: str) -> int:
        return _number(path, values, key)

    width, heads = count("hidden_size"), count("num_attention_heads")
    kv_heads = heads if values["num_key_value_heads"] is None else count("num_key_value_heads")
    head_width = 0 if values["head_dim"] is None else count("head_dim")
    fields = {
        "layers": count("num_hidden_layers"),
        "width": width,
        "heads": heads,
        "ff": count("intermediate_size"),
        "kv_heads": 0 if kv_heads == heads else kv_heads,
        "head_width": 0 if head_width * heads == width else head_width,
        "vocab": count("vocab_size"),
        "max_len": count("max_position_embeddings"),
        "norm_eps": _number(path, values, "rms_norm_eps", (int, float)),
        **_windows(path, values, kind),
    }
    if kind.startswith("gemma"):
        fields["query_scale"] = _number(path, values, "query_pre_attn_scalar", (int, float))
        fields["attn_softcap"] = values["attn_logit_softcapping"] or 0.0
        fields["logit_softcap"] = values["final_logit_softcapping"] or 0.0
    if kind == "llama":
        biases = {key: bool(values[key]) for key in ("attention_bias", "mlp_bias")}
        if len(set(biases.values())) > 1:
            raise ConfigError(f"{path}: {biases}: biases are supported in both or in neither")
        fields["qkv_bias"] = fields["bias"] = biases["mlp_bias"]
    return {**fields, **_rope(path, values, kind, bool(fields["window"]))}


def _windows(path: Path, values: Config, kind: str) -> dict[str, int]:
    """`window` and `global_every` of the layers' types, given or implied."""
    layers, window = _number(path, values, "num_hidden_layers"), values["sliding_window"]
    slides = FAMILIES[kind].slides
    types = ["sliding_attention" if slides(values, i) else "full_attention" for i in range(layers)]
    given = values.get("layer_types") or types
    if (kind in ("llama", "mistral") and given != types) or len(given) != layers:
        raise ConfigError(f"{path}: layer_types={given} is not what a {kind} model of {layers} layers has")
    if set(given) - {"sliding_attention", "full_attention"}:
        raise ConfigError(
            f"{path}: layer_types={given}: only sliding_attention and full_attention are supported"
        )
    if "sliding_attention" not in given:
        return {"window": 0, "global_every": 0}
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ConfigError(f"{path}: sliding_window={window!r}, though layer_types has sliding_attention")
    every = given.index("full_attention") + 1 if "full_attention" in given else 0
    fields = {"window": window, "global_every": every}
    expected = [
        "full_attention" if every and (i + 1) % every == 0 else "sliding_attention" for i in range(layers)
    ]
    if given != expected:
        raise ConfigError(
            f"{path}: layer_types={given} (max_window_layers={values.get('max_window_layers')}): a window on all "
            "layers but every n-th is supported, no other pattern"
        )
    return fields


def _rope(path: Path, values: Config, kind: str, windowed: bool) -> dict[str, Any]:
    theta, length = values["rope_theta"], values["max_position_embeddings"]
    old = _rotary(path, values.get("rope_scaling"), theta, length)
    new = values.get("rope_parameters") or {}
    nested = {key: new[key] for key in ("full_attention", "sliding_attention") if key in new}
    if new and bool(nested) != (kind == "gemma3_text"):
        per = "one for each type of layer" if kind == "gemma3_text" else "one for all layers"
        raise ConfigError(f"{path}: rope_parameters={json.dumps(new)}: a {kind} model has {per}")
    everywhere = _rotary(path, nested.get("full_attention") if nested else new, theta, length)
    if values.get("rope_scaling") and new and everywhere != old:
        raise ConfigError(f"{path}: rope_scaling and rope_parameters disagree; keep the one that is true")
    everywhere = everywhere if new else old
    fields = {"rope_theta": everywhere[0], "rope_scaling": everywhere[1]}
    if kind != "gemma3_text" or not windowed:
        return fields
    local = _rotary(path, nested.get("sliding_attention"), values["rope_local_base_freq"], length)
    if local[1] and local != everywhere:
        raise ConfigError(
            f"{path}: rope_parameters of sliding_attention are scaled ({local[1]}): only those of full_attention may be"
        )
    return {**fields, "rope_theta_local": 0.0 if local[1] else local[0]}


def _rotary(path: Path, given: Config | None, theta: float, length: int) -> tuple[float, tuple[float, ...]]:
    """(theta, Arch.rope_scaling) of rope_parameters, or of rope_scaling and the theta beside it."""
    given = given or {}
    kind = given.get("rope_type") or given.get("type") or "default"
    theta = given.get("rope_theta", theta)
    _require_legal(path, given, {"partial_rotary_factor": (1, None)})
    if kind == "default":
        return theta, ()
    try:
        if kind == "linear":
            return theta, (given["factor"],)
        if kind == "llama3":
            original = given.get("original_max_position_embeddings", length)
            return theta, (given["factor"], given["low_freq_factor"], given["high_freq_factor"], original)
    except KeyError as error:
        raise ConfigError(f"{path}: rope_type={kind!r} without {error}") from error
    raise ConfigError(f"{path}: rope_type={kind!r} is not supported, only default, linear and llama3")


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
    kind, arch = _kind(arch), _normal(arch)
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
        **(_gpt2_keys(arch) if kind == "gpt2" else _keys(arch, kind, context)),
        "tie_word_embeddings": arch.tied,
        "initializer_range": arch.init_std,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        **numbers,
    }


def _kind(arch: Arch) -> str:
    if arch.positions == "learned":
        return "gpt2"
    if arch.post_norms:
        return "gemma3_text" if arch.qk_norm else "gemma2"
    if arch.qk_norm:
        return "qwen3"
    if arch.qkv_bias and not arch.bias:
        return "qwen2"
    return "mistral" if arch.window else "llama"


def _normal(arch: Arch) -> Arch:
    """The same function, with a 0 in the fields that then say nothing."""
    windows, changes = arch.windows(), {}
    if not any(windows):
        changes = {"window": 0, "global_every": 0, "rope_theta_local": 0.0}
    elif all(windows):
        changes = {"global_every": 0}
    if arch.query_scale == arch.C and not arch.post_norms:
        changes["query_scale"] = 0.0
    return dataclasses.replace(arch, **changes)


def _gpt2_keys(arch: Arch) -> dict[str, Any]:
    if arch.heads != arch.K or arch.heads * arch.C != arch.width:
        raise ConfigError(
            f"--to=hf: heads={arch.heads}, kv_heads={arch.K}, head_width={arch.C} of the model: "
            "GPT2LMHeadModel has as many key heads as heads, and head_width = width / heads"
        )
    return {
        "n_embd": arch.width,
        "n_layer": arch.layers,
        "n_head": arch.heads,
        "n_inner": arch.ff,
        "n_positions": arch.max_len,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": arch.norm_eps,
        "embd_pdrop": arch.dropout,
        "resid_pdrop": arch.dropout,
        "attn_pdrop": 0.0,
    }


def _keys(arch: Arch, kind: str, context: int) -> dict[str, Any]:
    if arch.width % arch.heads and kind in ("llama", "gemma2", "gemma3_text"):
        raise ConfigError(
            f"--to=hf: {arch.heads} heads do not divide width {arch.width}, which {FAMILIES[kind].architecture} wants"
        )
    keys: dict[str, Any] = {
        "hidden_size": arch.width,
        "intermediate_size": arch.ff,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.K,
        "head_dim": arch.C,
        "max_position_embeddings": arch.max_len or context,
        "rms_norm_eps": arch.norm_eps,
        "attention_dropout": 0.0,
        "attention_bias": kind == "llama" and arch.bias,
        **_rope_keys(arch, kind),
    }
    types = ["sliding_attention" if window else "full_attention" for window in arch.windows()]
    if kind == "llama" and arch.bias != arch.qkv_bias:
        raise ConfigError(
            f"--to=hf: bias={arch.bias} needs qkv_bias={arch.bias}: LlamaForCausalLM has both or none"
        )
    if kind == "llama":
        return {**keys, "hidden_act": "silu", "mlp_bias": arch.bias}
    if kind == "mistral":
        return {**keys, "hidden_act": "silu", "sliding_window": arch.window or None}
    if kind.startswith("qwen"):
        first = types.index("sliding_attention") if arch.window else arch.layers
        windows = {"use_sliding_window": bool(arch.window), "sliding_window": arch.window or None}
        return {**keys, "hidden_act": "silu", **windows, "max_window_layers": first, "layer_types": types}
    if arch.query_scale % 1:
        raise ConfigError(f"--to=hf: query_scale={arch.query_scale}: query_pre_attn_scalar is a whole number")
    return {
        **keys,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": arch.window or context,
        "sliding_window_pattern": arch.global_every or arch.layers + 1,
        "layer_types": types,
        "query_pre_attn_scalar": int(arch.query_scale or arch.C),
        "attn_logit_softcapping": arch.attn_softcap or None,
        "final_logit_softcapping": arch.logit_softcap or None,
    }


def _rope_keys(arch: Arch, kind: str) -> dict[str, Any]:
    scaling: dict[str, Any] = {"rope_type": "default"}
    if len(arch.rope_scaling) == 1:
        scaling = {"rope_type": "linear", "factor": float(arch.rope_scaling[0])}
    elif arch.rope_scaling:
        factor, low, high, original = arch.rope_scaling
        scaling = {
            "rope_type": "llama3",
            "factor": float(factor),
            "low_freq_factor": float(low),
            "high_freq_factor": float(high),
            "original_max_position_embeddings": int(original),
        }
    theta = float(arch.rope_theta)
    old = {"rope_theta": theta, "rope_scaling": scaling if arch.rope_scaling else None}
    if kind != "gemma3_text":
        return {**old, "rope_parameters": {**scaling, "rope_theta": theta}}
    if arch.rope_scaling and arch.window and not arch.rope_theta_local:
        raise ConfigError(
            "--to=hf: Gemma3ForCausalLM does not scale layers with a window: set rope_theta_local"
        )
    local = float(arch.rope_theta_local or arch.rope_theta)
    new = {
        "full_attention": {**scaling, "rope_theta": theta},
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    return {**old, "rope_local_base_freq": local, "rope_parameters": new}
