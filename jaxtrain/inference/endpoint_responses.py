"""Responses of an endpoint as completions: the answer, the thought before it, log-probabilities, why it ended."""

import json
from collections.abc import Sequence
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.inference.endpoint_errors import details, plain
from jaxtrain.inference.llm import CUT_OFF, FILTERED, Completion, Request, TokenLogprob, Usage, completion_of

_ENDINGS = {  # other words for the API's finish reasons
    **dict.fromkeys(("max_tokens", "model_length", "max_length"), CUT_OFF),
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("safety", "recitation", "blocklist", "prohibited_content", "refusal"), FILTERED),
}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # fields of a message that hold its thought


class MalformedResponse(ValueError):
    """A malformed response; its request is sent again."""


def read_json(text: str, expected: str) -> Any:
    """The JSON object of a response. Raises MalformedResponse."""
    if not text.strip():
        raise MalformedResponse("answered with an empty body")
    try:
        response = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedResponse(f"answered with what is not JSON ({error}): {plain(text)[:120]!r}") from error
    if not isinstance(response, dict):
        raise MalformedResponse(f"answered with what is not {expected}: {text[:60]!r}")
    return response


def read_list(response: dict[str, Any], name: str) -> list[Any]:
    """A response's list. Raises MalformedResponse, with the error that the response holds instead, where it has one."""
    if isinstance(response.get(name), list):
        return response[name]
    if isinstance(response.get("error"), dict | str):
        raise MalformedResponse(f"answered with an error: {details(json.dumps(response)).message}")
    raise MalformedResponse(f"answered without {name}: its fields are {', '.join(response) or 'none'}")


def completions(
    label: str, request: Request, response: dict[str, Any], stop: Sequence[str] = ()
) -> list[Completion]:
    """The completions of a response, each cut before the first of the `stop` strings.

    Raises MalformedResponse for one that is malformed, ConfigError for one without the log-probabilities requested.
    """
    result = [_completion(label, request, choice, stop) for choice in read_list(response, "choices")]
    if not result:
        raise MalformedResponse("answered with no choice")
    return result


def _completion(label: str, request: Request, choice: Any, stop: Sequence[str]) -> Completion:
    choice = choice if isinstance(choice, dict) else {"choice": choice}
    message = choice.get("message")
    thought, text = "", choice.get("text") if request.raw else None
    if isinstance(message, dict) and not request.raw:
        thought, text = _parts_of(message)
    if not isinstance(text, str):
        raise MalformedResponse(f"answered with a choice without text: {json.dumps(choice)[:120]}")
    reason = str(choice.get("finish_reason") or "stop")
    if reason == "error":
        raise MalformedResponse(f"answered with a choice that failed: {json.dumps(choice)[:120]}")
    reason = _ENDINGS.get(reason.lower(), reason)
    tokens = _tokens(label, choice) if request.top_logprobs else None
    cut = min((at for one in stop if (at := text.find(one)) >= 0), default=None)
    if cut is not None:
        text, reason = text[:cut], "stop"
    return completion_of(text, reason, tokens, raw=request.raw, opened=None, thought=thought)


def _parts_of(message: dict[str, Any]) -> tuple[str, str | None]:
    """(thought, text) of a message; the text of one that has none, as it was cut or only called a tool, is empty."""
    thought = next((one for name in _THOUGHTS if isinstance(one := message.get(name), str) and one), "")
    content = message.get("content")
    if isinstance(content, list):
        inside, content = _joined(content)
        thought = thought or inside
    content = content or message.get("refusal")
    if content is None and {"content", "tool_calls", *_THOUGHTS} & set(message):
        content = ""
    return thought.strip(), content


def _joined(parts: list[Any]) -> tuple[str, str]:
    """(thought, text) of a content in parts."""
    thoughts, texts = [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "output_text", "refusal"):
            texts.append(str(part.get("text") or part.get("refusal") or ""))
        elif kind in ("thinking", "reasoning"):
            inner = part.get("thinking") or part.get("reasoning") or part.get("text") or ""
            thoughts.append(_joined(inner)[1] if isinstance(inner, list) else str(inner))
        else:
            raise MalformedResponse(f"answered with a part that is not text: {json.dumps(part)[:120]}")
    return "".join(thoughts), "".join(texts)


def _tokens(label: str, choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if content is None:
        raise ConfigError(
            f"{label}: it returned no log-probabilities though they were requested: take another model, or "
            "leave them out"
        )
    try:
        return tuple(
            TokenLogprob(
                one["token"],
                float(one["logprob"]),
                tuple((t["token"], float(t["logprob"])) for t in one["top_logprobs"]),
                _bytes([one, *one["top_logprobs"]]),
            )
            for one in content
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedResponse(
            f"answered with malformed log-probabilities ({type(error).__name__}: {error})"
        ) from error


def _bytes(tokens: Sequence[dict[str, Any]]) -> tuple[bytes, ...]:
    """The bytes of tokens, where the response has those of all."""
    parts = [one.get("bytes") for one in tokens]
    return () if None in parts else tuple(map(bytes, parts))


def count_tokens(usage: Usage, response: dict[str, Any]) -> None:
    """Adds a response's own count of tokens to the usage."""
    reported = response.get("usage")
    names = ("prompt_tokens", "completion_tokens")
    counts = [reported.get(name) for name in names] if isinstance(reported, dict) else []
    if len(counts) == 2 and all(isinstance(count, int) for count in counts):
        usage.add(tokens_in=counts[0], tokens_out=counts[1])
    else:
        usage.add(uncounted=1)
