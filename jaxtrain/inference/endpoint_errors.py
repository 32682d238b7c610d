"""What an endpoint says when it refuses or fails, and our errors for it, with the remedy.

Servers write errors in many ways: OpenAI's `error` object, `detail` of FastAPI as a text or a list with places, a bare
`message`, a list around all of it, plain text, or the HTML page of a proxy.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference.config import EndpointFlags

LONGEST = 400  # characters of an endpoint's message that are shown
REFUSALS = (400, 405, 413, 415, 422, 501)  # statuses for what is wrong with a request as it stands
_TEXTS = ("message", "msg", "detail", "error", "title", "error_description", "reason")
_PLACES = ("param", "loc", "property")
_CODES = ("code", "type", "status")
_PAGE = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.DOTALL | re.IGNORECASE)


class ErrorDetails(NamedTuple):
    """The parts of an endpoint's error: texts for people, parameters that it names, codes."""

    texts: tuple[str, ...]
    params: tuple[str, ...]
    codes: tuple[str, ...]

    @property
    def message(self) -> str:
        """The texts on one line."""
        return shortened("; ".join(dict.fromkeys(self.texts))) or "no message"


class RejectedRequest(ConfigError):
    """A request that is rejected; where others like it were not, its prompt is the reason."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason  # without the flag


def shortened(text: str) -> str:
    """A text on one line, of at most LONGEST characters."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def details(body: str) -> ErrorDetails:
    """The details in the body of an error."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ErrorDetails((plain(body),) if plain(body) else (), (), ())
    texts, params, codes = [], [], []
    for name, one in _fields(value):
        kinds = {
            **dict.fromkeys(_TEXTS, texts),
            **dict.fromkeys(_PLACES, params),
            **dict.fromkeys(_CODES, codes),
        }
        kinds.get(name, []).append(one)
    return ErrorDetails(tuple(texts), tuple(params), tuple(codes))


def _fields(value: Any, name: str = "message") -> Iterator[tuple[str, str]]:
    """(name, text) of the fields of an error; what a server repeats of the request is not among them."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key in (*_TEXTS, *_PLACES, *_CODES):
                yield from _fields(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from _fields(one, name)
    elif isinstance(value, str) and value.strip():
        yield name, value


def plain(body: str) -> str:
    """A body that is not JSON as a line of text, without the tags of a page."""
    text = _PAGE.sub(" ", body) if "<" in body else body
    return shortened(text)


def body_of(error: Any) -> str:
    """The body of a client's error; its message where there is no response."""
    response = getattr(error, "response", None)
    return response.text if response is not None else str(getattr(error, "message", error))


def as_our_error(label: str, url: str, settings: EndpointFlags, error: Any, names: str = "") -> Exception:
    """A client's error as ours: a ConfigError where the same command would fail again.

    `names` is a line about the models that the endpoint has.
    """
    import openai

    tries = settings.retries + 1
    cached = (
        "responses so far are in the request cache"
        if settings.use_cache
        else "no response was stored (--use_cache=false)"
    )
    if isinstance(error, openai.APITimeoutError):
        return Failure(
            f"{label}: no answer in --timeout={settings.timeout:g} s, {tries} times; {cached}: "
            "raise it, lower --concurrency or --max_new, or run the command again later"
        )
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or getattr(error, "message", error)
        return Failure(f"{label}: no connection ({cause}), {tries} times; {cached}: is it running?")
    status, message = getattr(error, "status_code", None), details(body_of(error)).message
    message += _redirected(error)
    if status == 429:
        return Failure(
            f"{label}: too many requests (429), {tries} times: {message}{_wait(error)}; {cached}: lower "
            "--concurrency, raise --retries, or run the command again later"
        )
    if status in (401, 403):
        env = settings.api_key_env
        state = "is set" if os.environ.get(env) else f"is not set: export {env}=KEY, or name another variable"
        return ConfigError(f"{label}: it refused the key ({status}): {message}; --api_key_env={env} {state}")
    if status == 404:
        return ConfigError(f"{label}: it refused the request (404): {message}; {names or _place(url)}")
    if status in REFUSALS:
        reason = f"the endpoint refused the request ({status}): {message}"
        return RejectedRequest(f"{label}: it refused the request ({status}): {message}", reason)
    if status is not None and 300 <= status < 500:
        return ConfigError(f"{label}: it refused the request ({status}): {message}")
    return Failure(
        f"{label}: it failed ({status or type(error).__name__}), {tries} times: {message}; {cached}"
    )


def _redirected(error: Any) -> str:
    response = getattr(error, "response", None)
    if response is None or not response.history:
        return ""
    return f" (it redirects from {response.history[0].url} to {response.url}: name that address)"


def _wait(error: Any) -> str:
    seconds = error.response.headers.get("retry-after")
    return f" (Retry-After: {seconds})" if seconds else ""


def _place(url: str) -> str:
    versioned = re.search(r"/v\d", url)
    return f"requests go to {url}/…" + (
        "" if versioned else ": most servers have their API below /v1, add it"
    )
