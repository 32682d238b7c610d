"""JSON schemas of the server's responses."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_TEXT, _INTEGER, _NUMBER, _BOOLEAN = ({"type": name} for name in ("string", "integer", "number", "boolean"))
_COUNT = {"type": "integer", "minimum": 0}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] = {}) -> Schema:
    """The schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "required": [*required],
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


def _stored(schema: Schema, more: Mapping[str, Schema]) -> Schema:
    """The schema of what the store has of an object: with more fields, of which later versions may add some."""
    properties = {**schema["properties"], **more}
    return {"type": "object", "required": [*schema["required"], *more], "properties": properties}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_FINISH = {"enum": ["stop", "length", "tool_calls"]}
_ENTRY = {"token": _TEXT, "bytes": _list(_COUNT), "logprob": _NUMBER}
_CHAT_LOGPROBS = _or_null(
    _object(
        {
            "content": _list(_object({**_ENTRY, "top_logprobs": _list(_object(_ENTRY))})),
            "refusal": {"type": "null"},
        }
    )
)
_TEXT_LOGPROBS = _or_null(
    _object(
        {
            "tokens": _list(_TEXT),
            "token_logprobs": _list(_or_null(_NUMBER)),
            "top_logprobs": _list(_or_null({"type": "object", "additionalProperties": _NUMBER})),
            "text_offset": _list(_COUNT),
        }
    )
)
_CALL = {
    "id": _TEXT,
    "type": {"const": "function"},
    "function": _object({"name": _TEXT, "arguments": _TEXT}),
}
_MESSAGE = _object(
    {"role": {"const": "assistant"}, "content": _or_null(_TEXT), "refusal": {"type": "null"}},
    {"reasoning_content": _TEXT, "tool_calls": _list(_object(_CALL))},
)
_DELTA = _object(
    {},
    {
        "role": {"const": "assistant"},
        "content": _TEXT,
        "reasoning_content": _TEXT,
        "tool_calls": _list(_object({"index": _COUNT, **_CALL})),
    },
)
_USAGE = _object({name: _COUNT for name in ("prompt_tokens", "completion_tokens", "total_tokens")})
_CHAT_CHOICE = {"index": _COUNT, "message": _MESSAGE, "logprobs": _CHAT_LOGPROBS, "finish_reason": _FINISH}
_TEXT_CHOICE = {"index": _COUNT, "text": _TEXT, "logprobs": _TEXT_LOGPROBS}


def _head(kind: str) -> Mapping[str, Schema]:
    return {
        "id": _TEXT,
        "object": {"const": kind},
        "created": _INTEGER,
        "model": _TEXT,
        "system_fingerprint": _TEXT,
    }


def _page(item: Schema) -> Schema:
    ids = {"first_id": _or_null(_TEXT), "last_id": _or_null(_TEXT)}
    return _object({"object": {"const": "list"}, "data": _list(item), **ids, "has_more": _BOOLEAN})


_COMPLETION = _object({**_head("chat.completion"), "choices": _list(_object(_CHAT_CHOICE)), "usage": _USAGE})
_MODEL = _object(
    {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": _INTEGER,
        "owned_by": _TEXT,
        "weight_version": _TEXT,
        "single_turn": _BOOLEAN,
    }
)
_INPUT = {"type": "object", "required": ["role"], "properties": {"role": _TEXT}}
SCHEMAS: Mapping[str, Schema] = {
    "Error": _object(
        {
            "error": _object(
                {"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)}
            )
        }
    ),
    "Health": _object(
        {
            "status": {"enum": ["ok", "failed"]},
            "model": _TEXT,
            "busy": _COUNT,
            "waiting": _COUNT,
            "rows": _COUNT,
        }
    ),
    "OpenAPI": {
        "type": "object",
        "required": ["openapi", "info", "paths"],
        "properties": {"openapi": {"const": "3.1.0"}},
    },
    "Model": _MODEL,
    "ModelList": _object({"object": {"const": "list"}, "data": _list(_ref("Model"))}),
    "TextCompletion": _object(
        {
            **_head("text_completion"),
            "choices": _list(_object({**_TEXT_CHOICE, "finish_reason": _FINISH})),
            "usage": _USAGE,
        }
    ),
    "TextCompletionChunk": _object(
        {
            **_head("text_completion"),
            "choices": _list(_object({**_TEXT_CHOICE, "finish_reason": _or_null(_FINISH)})),
        },
        {"usage": _or_null(_USAGE)},
    ),
    "ChatCompletion": _COMPLETION,
    "ChatCompletionChunk": _object(
        {
            **_head("chat.completion.chunk"),
            "choices": _list(
                _object(
                    {
                        "index": _COUNT,
                        "delta": _DELTA,
                        "logprobs": _CHAT_LOGPROBS,
                        "finish_reason": _or_null(_FINISH),
                    }
                )
            ),
        },
        {"usage": _or_null(_USAGE)},
    ),
    "StoredCompletion": _stored(
        _COMPLETION,
        {
            "choices": _list(_stored(_object(_CHAT_CHOICE), {"token_ids": _list(_COUNT)})),
            "input": _list(_INPUT),
            "metadata": {"type": "object", "additionalProperties": _TEXT},
            "seed": _INTEGER,
            "prompt_token_ids": _list(_COUNT),
        },
    ),
    "StoredCompletionPage": _page(_ref("StoredCompletion")),
    "DeletedCompletion": _object(
        {"object": {"const": "chat.completion.deleted"}, "id": _TEXT, "deleted": {"const": True}}
    ),
    "WeightsUpdate": _object({"success": {"const": True}, "message": _TEXT, "weight_version": _TEXT}),
    "MessagePage": _page({**_INPUT, "required": ["id", "role"]}),
}
