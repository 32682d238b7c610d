"""A model behind an OpenAI-compatible endpoint, through the official client: requests in, completions out.

The client waits and tries again on 408, 409, 429 and 5xx, as Retry-After says, else with exponential back-off. A
response is in the request cache before it is used, so that a run that stops loses nothing and pays for nothing twice.
"""

import importlib.util
import json
import os
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference.config import EndpointFlags
from jaxtrain.inference.llm import LLM, REFUSED, Completion, Request, TokenLogprob, Usage, derive_seed
from jaxtrain.inference.request_cache import RequestCache, key_of

MAX_LOGPROBS = 20  # of the API
MALFORMED_RETRIES = 3  # times that a request is sent again after a malformed response
NO_KEY = "none"  # the client wants some key; a server of one's own may want none
REJECTED = (400, 413, 422)  # statuses for a prompt that is too long or filtered out, or an unknown parameter
CHAT, TEXT = "/chat/completions", "/completions"


class _Endpoint(NamedTuple):
    """An open client with its settings."""

    client: Any
    url: str
    model: str
    label: str  # which messages about it begin with
    settings: EndpointFlags
    cache: RequestCache | None
    usage: Usage


def open_endpoint(text: str, flag: str, settings: EndpointFlags, cache: Path) -> LLM:
    """The endpoint URL?model=NAME, such as http://localhost:8000/v1?model=sft; the only model needs no name.

    Raises ConfigError for a URL, key or model that cannot be, Failure where there is no response.
    """
    if importlib.util.find_spec("openai") is None:
        raise ConfigError(f"--{flag}={text}: needs the openai client: pip install 'jaxtrain[serve]'")
    import openai

    parts = urllib.parse.urlsplit(text)
    options = urllib.parse.parse_qs(parts.query)
    if not parts.hostname or parts.username or set(options) - {"model"} or parts.fragment:
        raise ConfigError(
            f"--{flag}: write http://HOST:PORT/v1?model=NAME; keys are in --api_key_env's variable"
        )
    url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    key = os.environ.get(settings.api_key_env) or NO_KEY
    client = openai.OpenAI(api_key=key, base_url=url, timeout=settings.timeout, max_retries=settings.retries)
    request_cache = RequestCache(cache) if settings.use_cache else None
    endpoint = _Endpoint(
        client=client, url=url, model="", label=f"--{flag}={text}", settings=settings, cache=request_cache,
        usage=Usage(),
    )  # fmt: skip

    def close() -> None:
        client.close()
        if request_cache:
            request_cache.close()

    try:
        model = options["model"][0] if options.get("model") else _only_model(endpoint)
    except BaseException:
        close()
        raise
    endpoint = endpoint._replace(model=model)
    return LLM(
        f"{url}?model={model}",
        lambda requests: _generate(endpoint, requests),
        True,
        endpoint.usage,
        remote=True,
        close=close,
    )


def _only_model(endpoint: _Endpoint) -> str:
    listed = _send(endpoint, lambda: endpoint.client.models.with_raw_response.list(), "a list of models")
    names = [one.get("id") for one in _list(listed, "data") if isinstance(one, dict)]
    if len(names) != 1:
        raise ConfigError(
            f"{endpoint.label}: name a model with ?model=NAME; it has {', '.join(map(str, names[:12])) or 'none'}"
        )
    return str(names[0])


def _generate(endpoint: _Endpoint, requests: Sequence[Request]) -> list[list[Completion]]:
    """Completions of requests, several at once. The first error ends it, once the others under way are in the cache."""
    pool = ThreadPoolExecutor(endpoint.settings.concurrency)
    try:
        futures = [pool.submit(_completions, endpoint, request) for request in requests]
        done = wait(futures, return_when=FIRST_EXCEPTION).done
        if any(one.exception() for one in done):
            pool.shutdown(cancel_futures=True)
        return [one.result() for one in sorted(futures, key=lambda one: one.cancelled())]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for nothing


def _completions(endpoint: _Endpoint, request: Request) -> list[Completion]:
    """The completions of one request. One that brings fewer than its `samples` is sent again for those missing."""
    if request.top_logprobs > MAX_LOGPROBS or (request.raw and request.top_logprobs):
        raise ConfigError(
            f"{endpoint.label}: {request.top_logprobs} log-probabilities: the API has at most {MAX_LOGPROBS}, in a chat"
        )
    completions: list[Completion] = []
    while len(completions) < request.samples:
        seed = derive_seed(request.seed, len(completions)) if completions else request.seed
        missing = request.samples - len(completions)
        try:
            completions += _cached(endpoint, request, missing, seed)
        except _Rejected:
            usage = endpoint.usage
            if not (usage.cached or usage.tokens_in or usage.uncounted):
                raise
            usage.add(refused=1)
            completions += [Completion("", REFUSED)] * missing
    return completions[: request.samples]


def _cached(endpoint: _Endpoint, request: Request, n: int, seed: int) -> list[Completion]:
    """Completions from the request cache, else from the endpoint."""
    path, body = _body(endpoint.model, request, n, seed)
    key = key_of(endpoint.url, path, body)
    stored = endpoint.cache.get(key) if endpoint.cache else None
    if stored is not None:
        endpoint.usage.add(cached=1)
        return _parse(endpoint, request, stored)
    api = endpoint.client.completions if request.raw else endpoint.client.chat.completions
    response = _send(
        endpoint,
        lambda: api.with_raw_response.create(**body),
        "a completion",
        lambda response: _parse(endpoint, request, response),
    )
    if endpoint.cache:
        endpoint.cache.put(key, response)
    _count(endpoint.usage, response)
    return _parse(endpoint, request, response)


def _body(model: str, request: Request, n: int, seed: int) -> tuple[str, dict[str, Any]]:
    """(the API's path, the JSON body of a request)."""
    body: dict[str, Any] = {
        "model": model, "seed": seed, "temperature": request.temperature, "max_tokens": request.max_new,
    }  # fmt: skip
    body |= {"n": n} if n > 1 else {}
    body |= {"stop": list(request.stop)} if request.stop else {}
    if request.raw:
        return TEXT, body | {"prompt": "".join(one["content"] for one in request.messages)}
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    messages = [{"role": one["role"], "content": one["content"]} for one in request.messages]
    return CHAT, body | {"messages": messages}


class _Rejected(ConfigError):
    """A request that is rejected; where others were not, its prompt is the reason."""


class _Malformed(ValueError):
    """A malformed response; its request is sent again."""


def _send(
    endpoint: _Endpoint,
    send: Callable[[], Any],
    expected: str,
    check: Callable[[Any], Any] = lambda response: None,
) -> Any:
    """The JSON of a response that passes `check`. Raises ConfigError or Failure with the reason for none."""
    import openai

    for left in range(MALFORMED_RETRIES, -1, -1):
        endpoint.usage.add(requests=1)
        try:
            response = _json(send().text, expected)
            check(response)
            return response
        except _Malformed as error:
            if not left:
                raise Failure(
                    f"{endpoint.label}: {error}, {MALFORMED_RETRIES + 1} times; is it an OpenAI-compatible endpoint?"
                ) from error
            endpoint.usage.add(repeated=1)
        except openai.APIError as error:
            raise _as_our_error(endpoint, error) from error
    raise AssertionError("the loop returns or raises")


def _json(text: str, expected: str) -> Any:
    try:
        response = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"answered with what is not JSON ({error}): {text[:60]!r}") from error
    if not isinstance(response, dict):
        raise _Malformed(f"answered with what is not {expected}: {text[:60]!r}")
    return response


def _list(response: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(response.get(name), list):
        raise _Malformed(f"answered without {name}: its fields are {', '.join(response) or 'none'}")
    return response[name]


def _parse(endpoint: _Endpoint, request: Request, response: dict[str, Any]) -> list[Completion]:
    """The completions of a response.

    Raises _Malformed for one that is malformed, ConfigError for one without the log-probabilities requested.
    """
    completions = []
    for choice in _list(response, "choices"):
        message = choice.get("message") if isinstance(choice, dict) else None
        text = choice.get("text") if isinstance(choice, dict) and request.raw else None
        if isinstance(message, dict) and not request.raw:
            text = message.get("content") or message.get("refusal")
            text = "" if text is None and "content" in message else text
        if not isinstance(text, str):
            raise _Malformed(f"answered with a choice without text: {json.dumps(choice)[:60]}")
        tokens = _tokens(endpoint, choice) if request.top_logprobs else None
        completions.append(Completion(text, str(choice.get("finish_reason") or "stop"), tokens))
    if not completions:
        raise _Malformed("answered with no choice")
    return completions


def _tokens(endpoint: _Endpoint, choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if content is None:
        raise ConfigError(
            f"{endpoint.label}: it returned no log-probabilities though they were requested: take another model, or "
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
        raise _Malformed(
            f"answered with malformed log-probabilities ({type(error).__name__}: {error})"
        ) from error


def _bytes(tokens: Sequence[dict[str, Any]]) -> tuple[bytes, ...]:
    """The bytes of tokens, where the response has those of all."""
    parts = [one.get("bytes") for one in tokens]
    return () if None in parts else tuple(map(bytes, parts))


def _count(usage: Usage, response: dict[str, Any]) -> None:
    reported = response.get("usage")
    names = ("prompt_tokens", "completion_tokens")
    counts = [reported.get(name) for name in names] if isinstance(reported, dict) else []
    if len(counts) == 2 and all(isinstance(count, int) for count in counts):
        usage.add(tokens_in=counts[0], tokens_out=counts[1])
    else:
        usage.add(uncounted=1)


def _as_our_error(endpoint: _Endpoint, error: Any) -> Exception:
    """A client's error as ours: a ConfigError where the same command would fail again."""
    import openai

    env, tries = endpoint.settings.api_key_env, endpoint.settings.retries + 1
    cached = (
        "responses so far are in the request cache"
        if endpoint.cache
        else "no response was stored (--use_cache=false)"
    )
    message = getattr(error, "message", str(error))
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        state = "is set" if os.environ.get(env) else "is not set"
        return ConfigError(
            f"{endpoint.label}: it refused the key ({status}): {message}; --api_key_env={env} {state}"
        )
    if isinstance(error, openai.APITimeoutError):
        return Failure(
            f"{endpoint.label}: no answer in --timeout={endpoint.settings.timeout:g} s, {tries} times; {cached}: "
            "raise it, lower --concurrency or --max_new, or run the command again later"
        )
    if isinstance(error, openai.APIConnectionError):
        return Failure(
            f"{endpoint.label}: no connection ({error.__cause__ or message}), {tries} times; {cached}: is it up?"
        )
    if isinstance(error, openai.RateLimitError):
        return Failure(
            f"{endpoint.label}: too many requests (429), {tries} times: {message}; {cached}: lower --concurrency, "
            "raise --retries, or run the command again later"
        )
    if status in REJECTED:
        return _Rejected(f"{endpoint.label}: it refused the request ({status}): {message}")
    if status is not None and 400 <= status < 500:
        return ConfigError(f"{endpoint.label}: it refused the request ({status}): {message}")
    return Failure(
        f"{endpoint.label}: it failed ({status or type(error).__name__}), {tries} times: {message}; {cached}"
    )
