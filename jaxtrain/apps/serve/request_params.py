"""Parameters of completion requests: OpenAI's and vLLM's, parsed and checked.

What changes nothing is taken; what would change something and is not supported is refused by its name.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxtrain.apps.serve import request_messages
from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.data.bad_records import is_unicode
from jaxtrain.generate.sampler import NEUTRAL

MAX_CHOICES = 128  # completions of a prompt, OpenAI's limit
MAX_TOP_LOGPROBS = 20  # most likely tokens at each position
MAX_TEXT_LOGPROBS = 5  # those of legacy completions
MAX_STOPS = 16
MAX_DEPTH = 100  # lists and objects inside each other
GREEDY = 1e-5  # temperatures below it are 0, as in vLLM
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512  # pairs of metadata, characters of a key and of a value


class Rule(NamedTuple):
    """How a parameter is checked, and the JSON schema of its values, which takes all that the check takes."""

    check: Callable[[str, Any], Any]  # (name, value) -> the value as it is used. Raises ApiError
    schema: Mapping[str, Any]


Rules = Mapping[str, tuple[Rule, Any]]  # a parameter -> its rule and its default


class CompletionParams(NamedTuple):
    """The parameters of a completion request, with OpenAI's defaults."""

    model: str
    prompts: tuple[Any, ...]  # of chat one tuple of messages, else texts and lists of token ids
    n: int
    sampling_params: dict[str, float]  # of ops/sampling.py's HOW
    max_tokens: int | None  # of a completion; None: what the context has room for
    stop: tuple[str, ...]
    seed: int | None
    top_logprobs: int | None  # most likely tokens at each position; None: no log-probabilities
    stream: bool
    include_usage: bool  # whether the last chunk of a stream has the token counts
    store: bool
    metadata: dict[str, str]
    echo: bool = False  # whether a text starts with its prompt
    return_token_ids: bool = False  # whether a choice of a legacy completion has the ids of its tokens
    tools: tuple[dict[str, Any], ...] = ()
    documents: tuple[dict[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    template_kwargs: Mapping[str, Any] = MappingProxyType(
        {}
    )  # variables of the template but tools and documents
    # Those that must be read by the template to change anything: {variable: parameter}.
    template_only: Mapping[str, str] = MappingProxyType({})


def parse_body(text: bytes) -> dict[str, Any]:
    """The JSON object of a request's body. Raises ApiError."""
    try:
        body = json.loads(text.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8, at byte {error.start}", code="invalid_json") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if _depth(body) > MAX_DEPTH:
        raise ApiError(
            400, f"the body has more than {MAX_DEPTH} levels of lists and objects", code="invalid_json"
        )
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is not a JSON object but {type(body).__name__}", code="invalid_json")
    return body


def chat_params(body: Mapping[str, Any]) -> CompletionParams:
    """The parameters of a chat completion. Raises ApiError."""
    values = _parse(body, CHAT)
    if values["top_logprobs"] and not values["logprobs"]:
        raise invalid_param("top_logprobs", "it needs logprobs=true")
    limits = {values[name] for name in ("max_tokens", "max_completion_tokens")} - {None}
    if len(limits) > 1:
        raise invalid_param(
            "max_tokens", "max_completion_tokens is the same parameter: leave out one of them"
        )
    top_logprobs = (values["top_logprobs"] or 0) if values["logprobs"] else None
    params = _params(values, (values["messages"],), min(limits, default=None), top_logprobs)
    given = {name: values[name] for name in TEMPLATE_ONLY if values[name] is not None}
    variables = values["chat_template_kwargs"]
    acting = {name: name for name, value in given.items() if value not in TEMPLATE_ONLY[name]}
    # One that is off, such as enable_thinking=false, is off in every template.
    acting |= {name: f"chat_template_kwargs.{name}" for name, value in variables.items() if value}
    return params._replace(
        tools=values["tools"],
        documents=values["documents"],
        tool_choice=values["tool_choice"],
        parallel_tool_calls=values["parallel_tool_calls"],
        template_kwargs=given | variables,
        template_only=acting,
    )


def text_params(body: Mapping[str, Any]) -> CompletionParams:
    """The parameters of a legacy completion. Raises ApiError."""
    values = _parse(body, TEXT)
    if values["best_of"] not in (None, values["n"]):
        raise invalid_param("best_of", f"only n={values['n']} is supported; or leave it out")
    if not values["max_tokens"] and not values["echo"]:
        raise invalid_param("max_tokens", "a completion of no tokens needs echo=true")
    if values["echo"] and values["stream"]:
        raise invalid_param("echo", "it is not supported with stream=true", "unsupported_value")
    if values["return_token_ids"] and values["stream"]:
        raise invalid_param("return_token_ids", "it is not supported with stream=true", "unsupported_value")
    params = _params(values, values["prompt"], values["max_tokens"], values["logprobs"])
    return params._replace(echo=values["echo"], return_token_ids=values["return_token_ids"])


class WeightsParams(NamedTuple):
    """A request to load weights."""

    model_path: str  # their folder
    model: str  # empty: the only one
    weight_version: str  # empty: one that follows from the files


def weights_params(body: Mapping[str, Any]) -> WeightsParams:
    """The folder, model and version of a request to load weights. Raises ApiError."""
    values = _parse(body, WEIGHTS)
    if len(values["weight_version"]) > MAX_KEY:
        raise invalid_param("weight_version", f"it has at most {MAX_KEY} characters")
    return WeightsParams(*(values[name] for name in WeightsParams._fields))


def metadata_of(body: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a request that has nothing else. Raises ApiError."""
    return _parse(body, METADATA)["metadata"]


def _params(
    values: Mapping[str, Any], prompts: tuple[Any, ...], max_tokens: int | None, top_logprobs: int | None
) -> CompletionParams:
    same = ("model", "n", "stop", "seed", "stream", "include_usage")
    return CompletionParams(
        prompts=prompts,
        sampling_params={name: values[name] for name in NEUTRAL},
        max_tokens=max_tokens,
        top_logprobs=top_logprobs,
        store=values.get("store", False),
        metadata=values.get("metadata", {}),
        **{name: values[name] for name in same},
    )


def _parse(body: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """The values of the parameters of `rules`, {name: (rule, default)}, and `include_usage`."""
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
        values[name] = default if value is None else rule.check(name, value)
    return values | {"include_usage": bool(values.get("stream_options"))}


def _depth(value: Any) -> int:
    """The levels of lists and objects; MAX_DEPTH + 1 for more of them."""
    level, depth = [value], 0
    while (level := [one for one in level if isinstance(one, list | dict)]) and depth <= MAX_DEPTH:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of pairs. Raises ValueError where a key stands twice: all its values but one would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"an object has the key {twice[:80]!a} twice")
    return value


def _number(low: float, high: float) -> Rule:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise invalid_param(name, f"it must be a number from {low:g} to {high:g}, not {_short(value)}")
        return float(value)

    return Rule(check, {"type": "number", "minimum": low, "maximum": high})


def _is_whole(value: Any) -> bool:
    """Whether a value is an integer for JSON schemas, as 1.0 is."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )


def _integer(low: int, high: int) -> Rule:
    def check(name: str, value: Any) -> int:
        whole = value if _is_whole(value) else None
        if whole is None or not low <= whole <= high:
            raise invalid_param(name, f"it must be a whole number from {low} to {high}, not {_short(value)}")
        return int(whole)

    return Rule(check, {"type": "integer", "minimum": low, "maximum": high})


def _then(rule: Rule, f: Callable[[Any], Any]) -> Rule:
    """A rule whose value is `f` of the checked one."""
    return rule._replace(check=lambda name, value: f(rule.check(name, value)))


def _greedy(temperature: float) -> float:
    return temperature if temperature >= GREEDY else 0.0


def _all_tokens(top_k: int) -> int:
    """0 and −1 are all tokens."""
    return max(top_k, 0)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid_param(name, f"it must be true or false, not {_short(value)}")
    return value


def _string(name: str, value: Any) -> str:
    """A string that is valid Unicode. Raises ApiError."""
    if not isinstance(value, str) or not is_unicode(value):
        raise invalid_param(name, f"it must be text, not {_short(value)}")
    return value


def _neutral(*values: Any) -> Rule:
    """The rule of an unsupported parameter: only values that have no effect are valid."""

    def check(name: str, value: Any) -> None:
        if not any(value == other and type(value) is type(other) for other in values):
            valid = " or ".join(json.dumps(other) for other in (None, *values))
            raise invalid_param(
                name, f"{_short(value)} is not supported; leave it out ({valid})", "unsupported_value"
            )

    return Rule(check, {"enum": [None, *values]})


def _no_bias(name: str, value: Any) -> None:
    if not isinstance(value, dict) or any(value.values()):
        raise invalid_param(name, f"{_short(value)} is not supported; leave it out", "unsupported_value")


def _prediction(name: str, value: Any) -> None:
    """A guess of the answer, which makes some servers faster and changes no answer."""
    if not isinstance(value, dict) or value.get("type") != "content":
        raise invalid_param(name, f"it must be an object of type content, not {_short(value)}")


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
    for key, option in value.items():
        if key not in _STREAM:
            raise ApiError(
                400, f"Unknown parameter: '{name}.{key[:80]}'.", param=name, code="unknown_parameter"
            )
        if option is not None:
            _STREAM[key].check(f"{name}.{key}", option)
    return bool(value.get("include_usage"))


def _prompts(name: str, value: Any) -> tuple[Any, ...]:
    """Texts and lists of token ids."""

    def is_ids(prompt: Any) -> bool:
        return isinstance(prompt, list) and bool(prompt) and all(_is_whole(i) and i >= 0 for i in prompt)

    prompts = [value] if isinstance(value, str) or is_ids(value) else value
    if not isinstance(prompts, list) or not prompts:
        raise invalid_param(name, f"it must be a text, a list of texts, or of token ids, not {_short(value)}")
    return tuple([*map(int, prompt)] if is_ids(prompt) else _string(name, prompt) for prompt in prompts)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"


_REQUIRED: Any = object()
_STRING, _BOOLEAN = Rule(_string, {"type": "string"}), Rule(_boolean, {"type": "boolean"})
# Obfuscation only pads a stream.
_STREAM = {
    "include_usage": _BOOLEAN,
    "include_obfuscation": _BOOLEAN,
    "continuous_usage_stats": _neutral(False),
}
_OPTIONS = Rule(
    _options,
    {
        "type": "object",
        "properties": {name: {"anyOf": [rule.schema, {"type": "null"}]} for name, rule in _STREAM.items()},
        "additionalProperties": False,
    },
)
_STOPS = Rule(
    _stops,
    {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "maxItems": MAX_STOPS, "items": {"type": "string", "minLength": 1}},
        ]
    },
)
_METADATA = Rule(
    _metadata,
    {
        "type": "object",
        "maxProperties": MAX_METADATA,
        "propertyNames": {"maxLength": MAX_KEY},
        "additionalProperties": {"type": "string", "maxLength": MAX_VALUE},
    },
)
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_ONE_PROMPT = [{"type": "string"}, _IDS]
_PROMPTS = Rule(
    _prompts, {"anyOf": [*_ONE_PROMPT, {"type": "array", "minItems": 1, "items": {"anyOf": _ONE_PROMPT}}]}
)
_NO_BIAS = Rule(_no_bias, {"type": "object", "additionalProperties": {"enum": [0, None, False, "", [], {}]}})
_PREDICTION = Rule(
    _prediction, {"type": "object", "required": ["type"], "properties": {"type": {"const": "content"}}}
)
# Parameters for the chat template, and their values that are as good as none where it does not read them.
TEMPLATE_ONLY = {"reasoning_effort": ("none", "medium"), "verbosity": ("medium",)}
_SHARED = {
    "model": (_STRING, _REQUIRED),
    "n": (_integer(1, MAX_CHOICES), 1),
    "temperature": (_then(_number(0, 2), _greedy), NEUTRAL["temperature"]),
    "top_p": (_number(1e-6, 1), NEUTRAL["top_p"]),
    "top_k": (_then(_integer(-1, 2**31 - 1), _all_tokens), NEUTRAL["top_k"]),
    "min_p": (_number(0, 1), NEUTRAL["min_p"]),
    "repetition_penalty": (_number(1e-2, 1e2), NEUTRAL["repetition_penalty"]),
    "stop": (_STOPS, ()),
    "seed": (_integer(-(2**63), 2**63 - 1), None),
    "stream": (_BOOLEAN, False),
    "stream_options": (_OPTIONS, False),
    "frequency_penalty": (_neutral(0, 0.0), None),
    "presence_penalty": (_neutral(0, 0.0), None),
    "logit_bias": (_NO_BIAS, None),
    # Of whom a request is, and how it is cached and scheduled: nothing of it changes a completion.
    "user": (_STRING, None),
    "cache_salt": (_STRING, None),
    "priority": (_integer(-(2**31), 2**31 - 1), None),
    "request_id": (_STRING, None),
    # vLLM's, at the values that change nothing.
    "allowed_token_ids": (_neutral([]), None),
    "bad_words": (_neutral([]), None),
    "detokenize": (_neutral(True), None),
    "guided_choice": (_neutral(), None),
    "guided_grammar": (_neutral(), None),
    "guided_json": (_neutral(), None),
    "guided_regex": (_neutral(), None),
    "ignore_eos": (_neutral(False), None),
    "include_stop_str_in_output": (_neutral(False), None),
    "length_penalty": (_neutral(1, 1.0), None),
    "min_tokens": (_neutral(0), None),
    "prompt_logprobs": (_neutral(), None),
    "return_token_ids": (_neutral(False), None),
    "return_tokens_as_token_ids": (_neutral(False), None),
    "skip_special_tokens": (_neutral(True), None),
    "spaces_between_special_tokens": (_neutral(True, False), None),
    "stop_token_ids": (_neutral([]), None),
    "structured_outputs": (_neutral(), None),
    "truncate_prompt_tokens": (_neutral(), None),
    "use_beam_search": (_neutral(False), None),
}
CHAT = {
    **_SHARED,
    "messages": (Rule(request_messages.read_messages, request_messages.MESSAGES), _REQUIRED),
    "tools": (Rule(request_messages.read_tools, request_messages.TOOLS), ()),
    "tool_choice": (Rule(request_messages.read_tool_choice, request_messages.TOOL_CHOICE), "auto"),
    "parallel_tool_calls": (_BOOLEAN, True),
    "documents": (Rule(request_messages.read_documents, request_messages.DOCUMENTS), ()),
    "chat_template_kwargs": (
        Rule(request_messages.read_template_kwargs, request_messages.TEMPLATE_KWARGS),
        {},
    ),
    "reasoning_effort": (_STRING, None),
    "verbosity": (_STRING, None),
    "max_tokens": (_integer(1, 2**31 - 1), None),
    "max_completion_tokens": (_integer(1, 2**31 - 1), None),
    "logprobs": (_BOOLEAN, False),
    "top_logprobs": (_integer(0, MAX_TOP_LOGPROBS), None),
    "store": (_BOOLEAN, False),
    "metadata": (_METADATA, {}),
    "prediction": (_PREDICTION, None),
    "prompt_cache_key": (_STRING, None),
    "prompt_cache_retention": (_STRING, None),
    "safety_identifier": (_STRING, None),
    "service_tier": (_STRING, None),
    "add_generation_prompt": (_neutral(True), None),
    "add_special_tokens": (_neutral(False), None),
    "audio": (_neutral(), None),
    "best_of": (_neutral(1), None),
    "chat_template": (_neutral(), None),
    "continue_final_message": (_neutral(False), None),
    "echo": (_neutral(False), None),
    "function_call": (_neutral("none", "auto"), None),
    "functions": (_neutral([]), None),
    "include_reasoning": (_neutral(True), None),
    "modalities": (_neutral(["text"]), None),
    "response_format": (_neutral({"type": "text"}), None),
    "web_search_options": (_neutral(), None),
}
TEXT = {
    **_SHARED,
    "prompt": (_PROMPTS, _REQUIRED),
    "max_tokens": (_integer(0, 2**31 - 1), 16),
    "logprobs": (_integer(0, MAX_TEXT_LOGPROBS), None),
    "best_of": (_integer(1, MAX_CHOICES), None),
    "add_special_tokens": (_neutral(True), None),
    "echo": (_BOOLEAN, False),
    "return_token_ids": (_BOOLEAN, False),
    "response_format": (_neutral({"type": "text"}), None),
    "suffix": (_neutral(""), None),
}
METADATA: Rules = {"metadata": (_METADATA, {})}
# SGLang's parameters; those that it has for its own memory change nothing here.
WEIGHTS: Rules = {
    "model_path": (_STRING, _REQUIRED),
    "model": (_STRING, ""),
    "weight_version": (_STRING, ""),
    "load_format": (_neutral("auto", "safetensors"), None),
    "flush_cache": (_neutral(True), None),
    "abort_all_requests": (_neutral(False), None),
    "is_async": (_neutral(False), None),
    "keep_pause": (_neutral(False), None),
    "torch_empty_cache": (_BOOLEAN, False),
    "recapture_cuda_graph": (_BOOLEAN, False),
}


def body_schema(rules: Rules) -> dict[str, Any]:
    """The JSON schema of a request's body: any parameter may be null, which is its default."""
    properties = {
        name: rule.schema if default is _REQUIRED else {"anyOf": [rule.schema, {"type": "null"}]}
        for name, (rule, default) in rules.items()
    }
    required = [name for name, (_, default) in rules.items() if default is _REQUIRED]
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }
