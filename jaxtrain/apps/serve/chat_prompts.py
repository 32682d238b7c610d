"""The prompt of a chat request, and what reads its completions."""

import re
from collections.abc import Mapping
from typing import Any

from jaxtrain.apps.serve import message_parser
from jaxtrain.apps.serve.errors import invalid_param
from jaxtrain.apps.serve.message_parser import MessageParser
from jaxtrain.apps.serve.request_params import CompletionParams
from jaxtrain.config import ConfigError
from jaxtrain.data import jinja_limits
from jaxtrain.data.chat import Template
from jaxtrain.data.messages import BadRecord


def chat_prompt(template: Template, params: CompletionParams) -> tuple[list[int], MessageParser]:
    """(ids of the prompt, the parser of its completions). Raises ApiError for what the template does not write."""
    messages, variables = params.prompts[0], _variables(template, params)
    try:
        with jinja_limits.within(jinja_limits.SECONDS):
            ids = template.encode_prompt(messages, variables).tolist()
            lost = template.unwritten(messages, variables) if params.tools or params.documents else ()
    except (BadRecord, ConfigError) as error:
        raise invalid_param("messages", str(error)) from error
    for name in ("tools", "documents"):
        if name in lost:
            raise invalid_param(
                name,
                f"the chat template {template.name} writes nothing of them; leave them out",
                "unsupported_value",
            )
    calling = any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
    reads_calls = params.tool_choice != "none" and (
        bool(params.tools) or calling or message_parser.calls_without_tools(template)
    )
    return ids, message_parser.parser_for(
        template, ids, params.tools, reads_calls, not params.parallel_tool_calls
    )


def _variables(template: Template, params: CompletionParams) -> Mapping[str, Any]:
    """What the template gets besides the messages. Raises ApiError for a variable that it does not read."""
    for name, param in params.template_only.items():
        if not re.search(rf"\b{re.escape(name)}\b", template.source):
            raise invalid_param(
                param, f"the chat template {template.name} reads no {name}; leave it out", "unsupported_value"
            )
    given = {"tools": list(params.tools), "documents": list(params.documents)}
    return params.template_kwargs | {name: value for name, value in given.items() if value}
