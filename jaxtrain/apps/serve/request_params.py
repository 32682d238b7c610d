"""Parameters of completion requests: OpenAI's, parsed and checked; an unsupported one is refused by its name."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.data.bad_records import is_unicode
from jaxtrain.data.record_formats import ROLES, BadRecord, Message, messages_of

MAX_CHOICES = 128  # completions of a prompt, OpenAI's limit
MAX_TOP_LOGPROBS = 20  # most likely tokens at each position
MAX_STOPS = 4
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512  # pairs of metadata, characters of a key and of a value


class CompletionParams(NamedTuple):
    """The parameters of a completion request, with OpenAI's defaults."""

    model: str
    prompts: tuple[Any, ...]  # of chat one tuple of messages, else texts and lists of token ids
    n: int
    temperature: float
    top_p: float
    max_tokens: int | None  # of a completion; None: what the context has room for
    stop: tuple[str, ...]
    seed: int | None
    top_logprobs: int | None  # most likely tokens at each position; None: no log-probabilities
    stream: bool
    include_usage: bool  # whether the last chunk of a stream has the token counts
    store: bool
    metadata: dict[str, str]


def parse_body(text: bytes) -> dict[str, Any]:
    """The JSON object of a request's body. Raises ApiError."""
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
    """The parameters of a chat completion. Raises ApiError."""
    values = _parse(body, CHAT)
    if values["top_logprobs"] and not values["logprobs"]:
        raise invalid_param("top_logprobs", "it needs logprobs=true")
    if values["max_tokens"] is not None and values["max_completion_tokens"] is not None:
        raise invalid_param(
            "max_tokens", "max_completion_tokens is the same parameter: leave out one of them"
        )
    if values["metadata"] and not values["store"]:
        raise invalid_param("metadata", "it is stored with a completion: it needs store=true")
    max_tokens = values["max_completion_tokens"] if values["max_tokens"] is None else values["max_tokens"]
    top_logprobs = (values["top_logprobs"] or 0) if values["logprobs"] else None
    return _params(values, (values["messages"],), max_tokens, top_logprobs)


def text_params(body: Mapping[str, Any]) -> CompletionParams:
    """The parameters of a legacy completion. Raises ApiError."""
    values = _parse(body, TEXT)
    if values["best_of"] not in (None, values["n"]):
        raise invalid_param("best_of", f"only n={values['n']} is supported; or leave it out")
    return _params(values, values["prompt"], values["max_tokens"], values["logprobs"])


def metadata_of(body: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a request that has nothing else. Raises ApiError."""
    return _parse(body, {"metadata": (_metadata, {})})["metadata"]


def _params(
    values: Mapping[str, Any], prompts: tuple[Any, ...], max_tokens: int | None, top_logprobs: int | None
) -> CompletionParams:
    if values["include_usage"] and not values["stream"]:
        raise invalid_param("stream_options", "it needs stream=true")
    same = ("model", "n", "temperature", "top_p", "stop", "seed", "stream", "include_usage")
    return CompletionParams(
        prompts=prompts,
        max_tokens=max_tokens,
        top_logprobs=top_logprobs,
        store=values.get("store", False),
        metadata=values.get("metadata", {}),
        **{name: values[name] for name in same},
    )


def _parse(
    body: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[str, Any], Any], Any]]
) -> dict[str, Any]:
    """The values of the parameters of `rules`, {name: (function that checks a value, default)}, and `include_usage`."""
    for name in body:
        if name not in rules:
            raise ApiError(
                400, f"Unknown parameter: '{name[:80]}'.", param=name[:80], code="unknown_parameter"
            )
    values = {}
    for name, (rule, default) in rules.items():
        value = body.get(name)
        if value is None and default is _REQUIRED:
            raise ApiError(
                400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
            )
        values[name] = default if value is None else rule(name, value)
    return values | {"include_usage": bool(values.get("stream_options"))}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _number(low: float, high: float) -> Callable[[str, Any], float]:
    def rule(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise invalid_param(name, f"it must be a number from {low:g} to {high:g}, not {_short(value)}")
        return float(value)

    return rule


def _integer(low: int, high: int) -> Callable[[str, Any], int]:
    def rule(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise invalid_param(name, f"it must be a whole number from {low} to {high}, not {_short(value)}")
        return value

    return rule


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid_param(name, f"it must be true or false, not {_short(value)}")
    return value


def _string(name: str, value: Any) -> str:
    """A string that is valid Unicode. Raises ApiError."""
    if not isinstance(value, str) or not is_unicode(value):
        raise invalid_param(name, f"it must be text, not {_short(value)}")
    return value


def _neutral(*values: Any) -> Callable[[str, Any], Any]:
    """The rule of an unsupported parameter: only values that have no effect are valid."""

    def rule(name: str, value: Any) -> None:
        if not any(value == other and type(value) is type(other) for other in values):
            valid = " or ".join(json.dumps(other) for other in (None, *values))
            raise invalid_param(
                name, f"{_short(value)} is not supported; leave it out ({valid})", "unsupported_value"
            )

    return rule


def _stops(name: str, value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise invalid_param(name, f"it must be a text or a list of at most {MAX_STOPS}, not {_short(value)}")
    if not all(_string(name, stop) for stop in stops):
        raise invalid_param(name, "the empty text would end every completion")
    return tuple(stops)


def _metadata(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_METADATA:
        raise invalid_param(name, f"it must be an object of at most {MAX_METADATA} texts")
    for key, text in value.items():
        if len(_string(name, key)) > MAX_KEY or len(_string(f"{name}.{key[:MAX_KEY]}", text)) > MAX_VALUE:
            raise invalid_param(
                name,
                f"a key has at most {MAX_KEY} characters, a value {MAX_VALUE}; {key[:MAX_KEY]!r} has more",
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
    return _boolean(f"{name}.include_usage", value.get("include_usage") or False)


def _messages(name: str, value: Any) -> tuple[Message, ...]:
    """Messages that have only role, content and name."""
    try:
        messages = messages_of(value, name)
    except BadRecord as error:
        raise invalid_param(name, str(error)) from error
    for i, message in enumerate(messages):
        given = {key for key, field in message.items() if field not in (None, [])}
        if message["role"] not in ROLES or given - {"role", "content", "name"}:
            unknown = min(given - {"role", "content", "name"}, default=message["role"])
            raise ApiError(
                400,
                f"Unknown parameter: '{name}[{i}].{unknown}'.",
                param=f"{name}[{i}]",
                code="unknown_parameter",
            )
    keys = ("role", "content", "name")
    return tuple({key: m[key] for key in keys if m.get(key) is not None} for m in messages)


def _prompts(name: str, value: Any) -> tuple[Any, ...]:
    """Texts and lists of token ids."""

    def is_ids(prompt: Any) -> bool:
        return isinstance(prompt, list) and bool(prompt) and all(type(i) is int and i >= 0 for i in prompt)

    prompts = [value] if isinstance(value, str) or is_ids(value) else value
    if not isinstance(prompts, list) or not prompts:
        raise invalid_param(name, f"it must be a text, a list of texts, or of token ids, not {_short(value)}")
    return tuple(prompt if is_ids(prompt) else _string(name, prompt) for prompt in prompts)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"


_REQUIRED: Any = object()
_SHARED = {
    "model": (_string, _REQUIRED),
    "n": (_integer(1, MAX_CHOICES), 1),
    "temperature": (_number(0, 2), 1.0),
    "top_p": (_number(1e-6, 1), 1.0),
    "stop": (_stops, ()),
    "seed": (_integer(-(2**63), 2**63 - 1), None),
    "stream": (_boolean, False),
    "stream_options": (_options, False),
    "frequency_penalty": (_neutral(0, 0.0), None),
    "presence_penalty": (_neutral(0, 0.0), None),
    "logit_bias": (_neutral({}), None),
    "user": (_neutral(""), None),
}
CHAT = {
    **_SHARED,
    "messages": (_messages, _REQUIRED),
    "max_tokens": (_integer(1, 2**31 - 1), None),
    "max_completion_tokens": (_integer(1, 2**31 - 1), None),
    "logprobs": (_boolean, False),
    "top_logprobs": (_integer(0, MAX_TOP_LOGPROBS), None),
    "store": (_boolean, False),
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
    "prompt": (_prompts, _REQUIRED),
    "max_tokens": (_integer(1, 2**31 - 1), 16),
    "logprobs": (_integer(0, 5), None),
    "best_of": (_integer(1, MAX_CHOICES), None),
    "echo": (_neutral(False), None),
    "suffix": (_neutral(""), None),
}
