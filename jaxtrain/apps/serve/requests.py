"""What a request asks for: OpenAI's parameters, read, checked, and refused by name."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.data.jsonl import is_unicode
from jaxtrain.data.record_formats import ROLES, BadRecord, Message, messages_of

MAX_CHOICES = 128  # completions of a prompt, as OpenAI has it
MAX_TOP_LOGPROBS = 20  # likeliest tokens told of each place
MAX_STOPS = 4
PAIRS, KEY, VALUE = 16, 64, 512  # of metadata: how many, and the most characters of each


class CompletionParams(NamedTuple):
    """What a request asks for, with OpenAI's defaults."""

    model: str
    prompts: tuple[Any, ...]  # messages (chat), or texts and lists of ids
    n: int
    temperature: float
    top_p: float
    limit: int | None  # most tokens of a completion; None: what the context has room for
    stop: tuple[str, ...]
    seed: int | None
    tops: int | None  # likeliest tokens told of each place; None: no log-probabilities
    stream: bool
    usage: bool  # a last chunk of a stream tells the counts
    store: bool
    metadata: dict[str, str]


def parse_body(text: bytes) -> dict[str, Any]:
    """The object of a request's body. Raises Refused."""
    try:
        body = json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8, at byte {error.start}", code="invalid_json") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is not a JSON object but {type(body).__name__}", code="invalid_json")
    return body


def chat_params(body: Mapping[str, Any]) -> CompletionParams:
    """The parameters of a chat completion. Raises Refused."""
    found = _read(body, CHAT)
    if found["top_logprobs"] and not found["logprobs"]:
        raise invalid_param("top_logprobs", "it needs logprobs=true")
    if found["max_tokens"] is not None and found["max_completion_tokens"] is not None:
        raise invalid_param("max_tokens", "max_completion_tokens says it too: leave out one of them")
    if found["metadata"] and not found["store"]:
        raise invalid_param("metadata", "it is kept with a stored completion: it needs store=true")
    limit = found["max_completion_tokens"] if found["max_tokens"] is None else found["max_tokens"]
    tops = (found["top_logprobs"] or 0) if found["logprobs"] else None
    return _asked(found, (found["messages"],), limit, tops)


def text_params(body: Mapping[str, Any]) -> CompletionParams:
    """The parameters of a legacy completion. Raises Refused."""
    found = _read(body, TEXT)
    if found["best_of"] not in (None, found["n"]):
        raise invalid_param("best_of", f"only n={found['n']}, or leaving it out, is served")
    return _asked(found, found["prompt"], found["max_tokens"], found["logprobs"])


def metadata_of(body: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a request that changes nothing else. Raises Refused."""
    return _read(body, {"metadata": (_metadata, {})})["metadata"]


def _asked(
    found: Mapping[str, Any], prompts: tuple[Any, ...], limit: int | None, tops: int | None
) -> CompletionParams:
    if found["include_usage"] and not found["stream"]:
        raise invalid_param("stream_options", "it needs stream=true")
    same = ("model", "n", "temperature", "top_p", "stop", "seed", "stream")
    kept = {"store": found.get("store", False), "metadata": found.get("metadata", {})}
    return CompletionParams(
        prompts=prompts, limit=limit, tops=tops, usage=found["include_usage"], **{k: found[k] for k in same}, **kept
    )  # fmt: skip


def _read(
    body: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[str, Any], Any], Any]]
) -> dict[str, Any]:
    """The value of every parameter that `rules` names, {name: (reads a value, default)}."""
    for name in body:
        if name not in rules:
            raise ApiError(
                400, f"Unknown parameter: '{name[:80]}'.", param=name[:80], code="unknown_parameter"
            )
    found = {}
    for name, (rule, default) in rules.items():
        value = body.get(name)
        if value is None and default is _NEEDED:
            raise ApiError(
                400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
            )
        found[name] = default if value is None else rule(name, value)
    return found | {"include_usage": bool(found.get("stream_options"))}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _number(low: float, high: float) -> Callable[[str, Any], float]:
    def rule(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise invalid_param(name, f"it must be a number from {low:g} to {high:g}, not {_short(value)}")
        return float(value)

    return rule


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    def rule(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise invalid_param(name, f"it must be a whole number from {low} to {high}, not {_short(value)}")
        return value

    return rule


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid_param(name, f"it must be true or false, not {_short(value)}")
    return value


def string(name: str, value: Any) -> str:
    """A text. Raises Refused."""
    if not isinstance(value, str) or not is_unicode(value):
        raise invalid_param(name, f"it must be text, not {_short(value)}")
    return value


def _neutral(*values: Any) -> Callable[[str, Any], Any]:
    """A parameter that is not served: only values with which it does nothing."""

    def rule(name: str, value: Any) -> None:
        if not any(value == one and type(value) is type(one) for one in values):
            said = " or ".join(json.dumps(one) for one in (None, *values))
            raise invalid_param(
                name, f"{_short(value)} is not served here; leave it out ({said})", "unsupported_value"
            )

    return rule


def _stops(name: str, value: Any) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > MAX_STOPS:
        raise invalid_param(name, f"it must be a text or a list of at most {MAX_STOPS}, not {_short(value)}")
    if not all(string(name, one) for one in found):
        raise invalid_param(name, "the empty text would end every completion")
    return tuple(found)


def _metadata(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > PAIRS:
        raise invalid_param(name, f"it must be an object of at most {PAIRS} texts")
    for key, one in value.items():
        if len(string(name, key)) > KEY or len(string(f"{name}.{key[:KEY]}", one)) > VALUE:
            raise invalid_param(
                name, f"a key has at most {KEY} characters, a value {VALUE}; {key[:KEY]!r} has more"
            )
    return value


def _options(name: str, value: Any) -> bool:
    if not isinstance(value, dict):
        raise invalid_param(name, f"it must be an object, not {_short(value)}")
    for key in value:
        if key not in ("include_usage", "include_obfuscation"):
            raise ApiError(
                400, f"Unknown parameter: '{name}.{key[:80]}'.", param=name, code="unknown_parameter"
            )
    _neutral(False)(f"{name}.include_obfuscation", value.get("include_obfuscation") or False)
    return _flag(f"{name}.include_usage", value.get("include_usage") or False)


def _messages(name: str, value: Any) -> tuple[Message, ...]:
    """Messages of role, content and name alone."""
    try:
        found = messages_of(value, name)
    except BadRecord as error:
        raise invalid_param(name, str(error)) from error
    for i, message in enumerate(found):
        given = {key for key, held in message.items() if held not in (None, [])}
        if message["role"] not in ROLES or given - {"role", "content", "name"}:
            unknown = min(given - {"role", "content", "name"}, default=message["role"])
            raise ApiError(
                400,
                f"Unknown parameter: '{name}[{i}].{unknown}'.",
                param=f"{name}[{i}]",
                code="unknown_parameter",
            )
    keys = ("role", "content", "name")
    return tuple({key: m[key] for key in keys if m.get(key) is not None} for m in found)


def _prompts(name: str, value: Any) -> tuple[Any, ...]:
    """Texts and lists of ids."""

    def is_ids(one: Any) -> bool:
        return isinstance(one, list) and bool(one) and all(type(i) is int and i >= 0 for i in one)

    found = [value] if isinstance(value, str) or is_ids(value) else value
    if not isinstance(found, list) or not found:
        raise invalid_param(name, f"it must be a text, a list of texts, or of token ids, not {_short(value)}")
    return tuple(one if is_ids(one) else string(name, one) for one in found)


def _short(value: Any) -> str:
    said = json.dumps(value)
    return said if len(said) <= 60 else said[:60] + "…"


_NEEDED: Any = object()
_SHARED = {
    "model": (string, _NEEDED),
    "n": (_whole(1, MAX_CHOICES), 1),
    "temperature": (_number(0, 2), 1.0),
    "top_p": (_number(1e-6, 1), 1.0),
    "stop": (_stops, ()),
    "seed": (_whole(-(2**63), 2**63 - 1), None),
    "stream": (_flag, False),
    "stream_options": (_options, False),
    "frequency_penalty": (_neutral(0, 0.0), None),
    "presence_penalty": (_neutral(0, 0.0), None),
    "logit_bias": (_neutral({}), None),
    "user": (_neutral(""), None),
}
CHAT = {
    **_SHARED,
    "messages": (_messages, _NEEDED),
    "max_tokens": (_whole(1, 2**31 - 1), None),
    "max_completion_tokens": (_whole(1, 2**31 - 1), None),
    "logprobs": (_flag, False),
    "top_logprobs": (_whole(0, MAX_TOP_LOGPROBS), None),
    "store": (_flag, False),
    "metadata": (_metadata, {}),
    "audio": (_neutral(), None),
    "function_call": (_neutral("none"), None),
    "functions": (_neutral([]), None),
    "modalities": (_neutral(["text"]), None),
    "parallel_tool_calls": (_neutral(True, False), None),
    "prediction": (_neutral(), None),
    "prompt_cache_key": (_neutral(""), None),
    "reasoning_effort": (_neutral("none"), None),
    "response_format": (_neutral({"type": "text"}), None),
    "safety_identifier": (_neutral(""), None),
    "service_tier": (_neutral("auto", "default"), None),
    "tool_choice": (_neutral("none", "auto"), None),
    "tools": (_neutral([]), None),
    "verbosity": (_neutral("medium"), None),
    "web_search_options": (_neutral(), None),
}
TEXT = {
    **_SHARED,
    "prompt": (_prompts, _NEEDED),
    "max_tokens": (_whole(1, 2**31 - 1), 16),
    "logprobs": (_whole(0, 5), None),
    "best_of": (_whole(1, MAX_CHOICES), None),
    "echo": (_neutral(False), None),
    "suffix": (_neutral(""), None),
}
