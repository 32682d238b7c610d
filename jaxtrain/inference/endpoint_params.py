"""Request parameters that an endpoint does not take, learnt from its refusal, and what is sent instead.

What would make a result wrong, as a lack of log-probabilities, is no change but an error. Everything else goes on, is
printed once, and stands in the usage of the model, so that reports have it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from jaxtrain.inference.endpoint_errors import REFUSALS, ErrorDetails

Body = dict[str, Any]
COLDEST = 0.01  # temperature sent for 0 where an endpoint takes none but positive ones


class RequestChange(NamedTuple):
    """What is sent instead of a parameter, and how that is said."""

    apply: Callable[[Body], Body]
    effect: str


def _without(name: str) -> Callable[[Body], Body]:
    return lambda body: {key: value for key, value in body.items() if key != name}


def _renamed(old: str, new: str) -> Callable[[Body], Body]:
    return lambda body: {new if key == old else key: value for key, value in body.items()}


def _warmed(body: Body) -> Body:
    return {**body, "temperature": body["temperature"] or COLDEST} if "temperature" in body else body


def _system_in_first_turn(body: Body) -> Body:
    messages = body.get("messages") or []
    if not messages or messages[0]["role"] != "system":
        return body
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return {**body, "messages": [{**system, "role": "user"}, *rest]}
    first = {**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}
    return {**body, "messages": [first, *rest[1:]]}


CHANGES: Mapping[str, RequestChange] = {
    "max_tokens": RequestChange(
        _renamed("max_tokens", "max_completion_tokens"), "max_completion_tokens is sent instead"
    ),
    "seed": RequestChange(_without("seed"), "none is sent, so the same command may bring other completions"),
    "temperature=0": RequestChange(_warmed, f"{COLDEST} is sent instead of 0"),
    "temperature": RequestChange(
        _without("temperature"), "none is sent: completions are sampled at the endpoint's own temperature"
    ),
    "stop": RequestChange(_without("stop"), "none are sent; completions are cut at them here"),
    "n": RequestChange(_without("n"), "every sample is a request of its own"),
    "system": RequestChange(_system_in_first_turn, "the system message stands before the first user turn"),
}
NEEDED = ("logprobs", "top_logprobs")  # without which a result would be wrong
FIXED = ("model", "messages", "prompt")  # what a request is not without

_UNSUPPORTED = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra inputs"
    r"|extra_forbidden|extraneous|additional propert|deprecated|not a valid (?:field|param|arg|key|name)"
    r"|invalid (?:field|param|arg|key)|only the default|only (?:a )?(?:value|1\b|one\b)|not (?:take|accept|allow)"
    r"|not (?:be )?(?:taken|accepted|available|implemented|recogni[sz]ed|enabled)|cannot be (?:used|set|specified)"
    r"|must be (?:1\b|one\b|the default)|instead|compatible|no longer",
    re.IGNORECASE,
)
_POSITIVE = re.compile(r"positive|greater than 0|> ?0|above 0|non-?zero", re.IGNORECASE)
_SIZE = re.compile(r"context length|context window|too (?:large|long|many)|exceed|maximum", re.IGNORECASE)
_SYSTEM = re.compile(
    r"system[\s_'\"`]*(?:role|message|prompt|instruction)|role\w*[\s'\"`:=]*system|['\"`]system['\"`]|developer"
    r" instruction|roles must alternate",
    re.IGNORECASE,
)
_ALIASES = {  # other texts that speak of a parameter
    "n": r"(?:^|['\"`\s(])n(?:['\"`]|\s*(?:must|is|should|>|=|:))|one completion choice|candidate_?count",
    "stop": r"stop_?sequences?",
}


def learnt(body: Body, status: int | None, error: ErrorDetails) -> str | None:
    """The name of the change that a refusal of `body` asks for; None where it speaks of something else.

    "logprobs" is no change: they are needed.
    """
    if status not in REFUSALS:
        return None
    text = " ".join((*error.texts, *error.codes))
    if _SYSTEM.search(text) and any(one["role"] == "system" for one in body.get("messages", ())):
        return "system" if _UNSUPPORTED.search(text) or "alternate" in text.lower() else None
    name = _named(body, error)
    if name == "temperature" and body["temperature"] == 0 and _POSITIVE.search(text):
        return "temperature=0"
    if (
        name is None
        or not _UNSUPPORTED.search(text)
        or (_SIZE.search(" ".join(error.texts)) and not error.params)
    ):
        return None
    if name in NEEDED:
        return NEEDED[0]
    return None if name in FIXED or name == "max_completion_tokens" else name


def _named(body: Body, error: ErrorDetails) -> str | None:
    """The parameter of the request that an error speaks of: the one that it names, else its text's first."""
    for param in error.params:
        if param in body:
            return param
    text = " ".join(error.texts)
    places = {name: _mention(name, text) for name in body if name not in FIXED}
    mentioned = {name: place for name, place in places.items() if place is not None}
    return min(mentioned, key=mentioned.__getitem__) if mentioned else None


def _mention(name: str, text: str) -> int | None:
    word = rf"(?<![\w./-]){re.escape(name)}(?![\w/-])"
    patterns = [_ALIASES[name]] if name == "n" else [word, *([_ALIASES[name]] if name in _ALIASES else [])]
    found = [match.start() for one in patterns if (match := re.search(one, text, re.IGNORECASE))]
    return min(found, default=None)


def line_of(name: str, error: ErrorDetails) -> str:
    """A line about a change, with the endpoint's own words."""
    effect = CHANGES[name].effect if name in CHANGES else "it is left out"
    what = "the system role" if name == "system" else name
    return f"it does not take {what}: {effect} (it says: {error.message})"


def changed(body: Body, names: Iterable[str]) -> tuple[Body, list[str]]:
    """(the body with the changes, the names of those that changed it)."""
    made = []
    for name in names:
        after = (CHANGES[name].apply if name in CHANGES else _without(name))(body)
        if after != body:
            made.append(name)
        body = after
    return body, made
