"""The messages and tools of chat requests: checked, and in the form that chat templates take."""

import json
from collections.abc import Mapping
from typing import Any

from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.data.messages import THOUGHTS, BadRecord, Message, check_unicode, messages_of
from jaxtrain.data.tool_calls import arguments_of

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_TEXTS = ("name", "tool_call_id", "refusal", *THOUGHTS)  # fields of a message that are texts
# Fields that an answer comes with, and that no template reads: they change nothing in a prompt.
_UNREAD = ("annotations", "type", "id", "status", "provider_specific_fields")
_READ = ("role", "content", "tool_calls", "function_call", *_TEXTS)
# Variables of a template that are the server's to set.
_SERVERS = (
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
    *("bos_token", "eos_token", "pad_token"),
)


def read_messages(name: str, value: Any) -> tuple[Message, ...]:
    """The messages of a request; an answer may be one that a server wrote, as it came. Raises ApiError."""
    if not isinstance(value, list) or not value:
        raise invalid_param(
            name, f"it must be a list of messages, not {'an empty one' if value == [] else _kind(value)}"
        )
    rows = [_checked(f"{name}[{i}]", message) for i, message in enumerate(value)]
    try:
        messages = messages_of(rows, name)
    except BadRecord as error:
        raise invalid_param(name, str(error)) from error
    return tuple({key: field for key, field in message.items() if key != "train"} for message in messages)


def _checked(name: str, message: Any) -> Message:
    """One message with the fields that are read; raises ApiError for what would be lost."""
    if not isinstance(message, Mapping):
        raise invalid_param(name, f"it must be an object with role and content, not {_kind(message)}")
    if message.get("role") not in _ROLES:
        raise invalid_param(
            f"{name}.role", f"unknown role: {message.get('role')!r:.40}; known are {', '.join(_ROLES)}"
        )
    for key, field in message.items():
        if key not in (*_READ, *_UNREAD) and field not in (None, [], {}, ""):
            raise ApiError(
                400, f"Unknown parameter: '{name}.{key[:80]}'.", param=name, code="unknown_parameter"
            )
    for key in _TEXTS:
        if not isinstance(message.get(key), str | None):
            raise invalid_param(f"{name}.{key}", f"it must be text, not {_kind(message[key])}")
    row = {
        key: message.get(key) for key in _READ if key == "content" or message.get(key) not in (None, [], "")
    }
    if not isinstance(row.get("content"), str | list | None):
        raise invalid_param(
            f"{name}.content", f"it must be text or a list of parts, not {_kind(row['content'])}"
        )
    assistant = row["role"] == "assistant"
    if row.get("content") in (None, []):
        if not assistant and row["content"] is None:
            raise invalid_param(f"{name}.content", "it must be text or a list of parts, not null")
        row["content"] = ""
    if not assistant and {"tool_calls", "function_call"} & row.keys():
        raise invalid_param(f"{name}.tool_calls", "only a message of the assistant calls tools")
    row |= _calls(name, row)
    return {**row, "train": False}  # nothing here is learnt, so that an empty turn is one


def _calls(name: str, row: Message) -> Message:
    """The tool calls of a message, their arguments as JSON, of which nulls are a part."""
    calls = row.get("tool_calls", [])
    if not isinstance(calls, list):
        raise invalid_param(f"{name}.tool_calls", f"it must be a list of calls, not {_kind(calls)}")
    if row.get("function_call"):
        return {"function_call": _function(f"{name}.function_call", row["function_call"])}
    called = []
    for i, call in enumerate(calls):
        where = f"{name}.tool_calls[{i}]"
        if not isinstance(call, Mapping) or not isinstance(call.get("id") or "", str):
            raise invalid_param(where, "it must be an object with an id and a function")
        called.append({**call, "function": _function(f"{where}.function", call.get("function"))})
    return {"tool_calls": called} if called else {}


def _function(name: str, function: Any) -> Message:
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise invalid_param(name, "it must be an object that has a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        return {**function, "arguments": arguments}  # what a model wrote wrong stays as it is
    read = arguments_of(arguments)
    if read is None:
        raise invalid_param(
            f"{name}.arguments", f"it must be a JSON text or an object, not {_kind(arguments)}"
        )
    return {**function, "arguments": json.dumps(read, ensure_ascii=False)}


def read_tools(name: str, value: Any) -> tuple[dict[str, Any], ...]:
    """The tools of a request. Raises ApiError for what is no function."""
    if not isinstance(value, list):
        raise invalid_param(name, f"it must be a list of tools, not {_kind(value)}")
    for i, tool in enumerate(value):
        function = (
            tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
        )
        if (
            not isinstance(function, Mapping)
            or not isinstance(function.get("name"), str)
            or not function["name"]
        ):
            raise invalid_param(
                f"{name}[{i}]",
                'it must be {"type": "function", "function": {"name": …}}; no other tool is known',
            )
        parameters = function.get("parameters")
        if not isinstance(parameters, Mapping | None):
            raise invalid_param(
                f"{name}[{i}].function.parameters", f"it must be a JSON schema, not {_kind(parameters)}"
            )
        if not isinstance((parameters or {}).get("properties"), Mapping | None):
            raise invalid_param(f"{name}[{i}].function.parameters.properties", "it must be an object")
        if not isinstance(function.get("description"), str | None):
            raise invalid_param(f"{name}[{i}].function.description", "it must be text")
    _require_unicode(name, value)
    return tuple(value)


def read_tool_choice(name: str, value: Any) -> str:
    """none or auto. Raises ApiError for a choice that would force a call."""
    if value not in ("none", "auto"):
        raise invalid_param(
            name, "only none and auto are supported: no call is forced; leave it out", "unsupported_value"
        )
    return value


def read_documents(name: str, value: Any) -> tuple[Any, ...]:
    """The documents of a request, objects of texts. Raises ApiError."""
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise invalid_param(name, "it must be a list of objects")
    _require_unicode(name, value)
    return tuple(value)


def read_template_kwargs(name: str, value: Any) -> dict[str, Any]:
    """Variables of the chat template. Raises ApiError for those that other parameters set."""
    if not isinstance(value, Mapping):
        raise invalid_param(name, f"it must be an object, not {_kind(value)}")
    if taken := [key for key in value if key in _SERVERS]:
        raise invalid_param(f"{name}.{taken[0]}", "it is not a variable of a request")
    _require_unicode(name, value)
    return dict(value)


def _require_unicode(name: str, value: Any) -> None:
    try:
        check_unicode(value, name)
    except BadRecord as error:
        raise invalid_param(name, str(error)) from error


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _texts_or_null(*names: str) -> dict[str, Any]:
    return {name: {"type": ["string", "null"]} for name in names}


# JSON schemas, each of all that the function above takes.
_EMPTY = [None, [], {}, ""]
_CALLED = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "arguments": {"type": ["string", "object", "null"]},
    },
}
_CALLS = {
    "type": "array",
    "items": {"type": "object", "required": ["function"], "properties": {"function": _CALLED}},
}
MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": [*_ROLES]},
            "content": {"type": ["string", "array", "null"]},
            "tool_calls": {"anyOf": [_CALLS, {"enum": [*_EMPTY]}]},
            "function_call": {"anyOf": [_CALLED, {"enum": [*_EMPTY]}]},
            **_texts_or_null(*_TEXTS),
            **{name: {} for name in _UNREAD},
        },
        "additionalProperties": {"enum": _EMPTY},
        "anyOf": [
            {"properties": {"role": {"const": "assistant"}}},
            {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}},
        ],
    },
}
_PARAMETERS = {"type": ["object", "null"], "properties": {"properties": {"type": ["object", "null"]}}}
TOOLS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "parameters": _PARAMETERS,
                    **_texts_or_null("description"),
                },
            },
        },
    },
}
TOOL_CHOICE = {"enum": ["none", "auto"]}
DOCUMENTS = {"type": "array", "items": {"type": "object"}}
TEMPLATE_KWARGS = {"type": "object", "propertyNames": {"not": {"enum": [*_SERVERS]}}}
