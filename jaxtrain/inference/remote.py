"""A model behind an OpenAI-compatible endpoint, through the official client: requests in, completions out.

The client waits and tries again on 408, 409, 429 and 5xx, as Retry-After says, else with exponential back-off. What an
endpoint does not take is learnt from its first refusal (endpoint_params). A response is in the request cache before it
is used, so that a run that stops loses nothing and pays for nothing twice.
"""

import collections
import dataclasses
import difflib
import importlib.util
import os
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Failure
from jaxtrain.files import progress, terminal
from jaxtrain.inference import endpoint_errors, endpoint_params, endpoint_responses
from jaxtrain.inference.config import EndpointFlags
from jaxtrain.inference.endpoint_errors import RejectedRequest
from jaxtrain.inference.endpoint_responses import MalformedResponse
from jaxtrain.inference.llm import LLM, REFUSED, Completion, Request, Usage, derive_seed
from jaxtrain.inference.request_cache import RequestCache, key_of

MAX_LOGPROBS = 20  # of the API
MALFORMED_RETRIES = 3  # times that a request is sent again after a malformed response
LISTING_RETRIES = 2  # times that the list of models is requested again, before anything else is loaded
NO_KEY = "none"  # the client wants some key; a server of one's own may want none
CHAT, TEXT = "/chat/completions", "/completions"
# Fields of a stored response: {parameter: line} of what was sent otherwise; what it took, and for which batch.
_CHANGES, _SENT = "request_changes", "request_sent"


class Endpoint(NamedTuple):
    """An open client with its settings."""

    client: Any
    url: str
    model: str
    label: str  # which messages about it begin with
    settings: EndpointFlags
    cache: RequestCache | None
    usage: Usage
    models: tuple[str, ...]  # that it lists; none where it has no list
    accepted: set[str]  # kinds of requests of which it has answered one


def open_endpoint(text: str, flag: str, settings: EndpointFlags, cache: Path) -> LLM:
    """The endpoint URL?model=NAME, such as http://localhost:8000/v1?model=sft; the only model needs no name.

    Raises ConfigError for a URL, key or model that cannot be, Failure where there is no response.
    """
    request_cache = RequestCache(cache) if settings.use_cache else None

    def close_cache() -> None:
        if request_cache:
            request_cache.close()

    try:
        endpoint = connect(text, flag, settings, request_cache)
    except BaseException:
        close_cache()
        raise

    def close() -> None:
        endpoint.client.close()
        close_cache()

    return LLM(
        f"{endpoint.url}?model={endpoint.model}",
        lambda requests: _generate(endpoint, requests),
        True,
        endpoint.usage,
        remote=True,
        close=close,
    )


def connect(text: str, flag: str, settings: EndpointFlags, cache: RequestCache | None = None) -> Endpoint:
    """An open client of the endpoint that `text` names, and its model. Raises as `open_endpoint` does."""
    if importlib.util.find_spec("openai") is None:
        raise ConfigError(f"--{flag}={text}: needs the openai client: pip install 'jaxtrain[serve]'")
    import openai

    url, model = _address(text, flag)
    key = os.environ.get(settings.api_key_env) or NO_KEY
    client = openai.OpenAI(api_key=key, base_url=url, timeout=settings.timeout, max_retries=settings.retries)
    endpoint = Endpoint(
        client=client, url=url, model=model, label=f"--{flag}={text}", settings=settings, cache=cache, usage=Usage(),
        models=(), accepted=set(),
    )  # fmt: skip
    try:
        model, models = _listed(endpoint)
    except BaseException:
        client.close()
        raise
    return endpoint._replace(model=model, models=models)


def _address(text: str, flag: str) -> tuple[str, str]:
    """(the URL of the API, the model or an empty text). Raises ConfigError."""
    try:
        parts = urllib.parse.urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    options = urllib.parse.parse_qs(parts.query) if host else {}
    if not host or parts.username or set(options) - {"model"} or parts.fragment:
        raise ConfigError(
            f"--{flag}: write http://HOST:PORT/v1?model=NAME; keys are in --api_key_env's variable"
        )
    for ending in (CHAT, TEXT, "/models"):
        if parts.path.rstrip("/").endswith(ending):
            raise ConfigError(f"--{flag}={text}: leave {ending} out: write http://HOST:PORT/v1?model=NAME")
    url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return url, options["model"][0] if options.get("model") else ""


def _listed(endpoint: Endpoint) -> tuple[str, tuple[str, ...]]:
    """(the model, its only one where none was named; the models that the endpoint lists, none without a list).

    Without a connection a named model may still be answered for by stored responses: a note says so. Raises Failure
    where none was named, ConfigError where the endpoint refuses the key or does not list one model alone.
    """
    import openai

    retries = min(LISTING_RETRIES, endpoint.settings.retries)
    endpoint = endpoint._replace(settings=dataclasses.replace(endpoint.settings, retries=retries))
    client = endpoint.client.with_options(max_retries=retries)
    error: Exception | None = None
    names: tuple[str, ...] = ()
    try:
        listed = endpoint_responses.read_json(client.models.with_raw_response.list().text, "a list of models")
        rows = endpoint_responses.read_list(listed, "data")
        names = tuple(str(one["id"]) for one in rows if isinstance(one, dict) and one.get("id"))
    except openai.APIError as caught:
        error = as_our_error(endpoint, caught)
        no_server = isinstance(caught, openai.APIConnectionError) and not isinstance(
            caught, openai.APITimeoutError
        )
        if no_server and endpoint.model:
            terminal.note([("endpoint", f"{error} Stored responses and finished files are used.")])
            return endpoint.model, ()
        if no_server or isinstance(caught, openai.AuthenticationError):
            raise error from caught
    except MalformedResponse as caught:
        error = Failure(f"{endpoint.label}: {caught}, when its models were requested")
    if endpoint.model:
        return endpoint.model, names
    if len(names) != 1:
        has = f"it has {', '.join(names[:12]) or 'none'}" if error is None else str(error)
        raise ConfigError(f"{endpoint.label}: name a model with ?model=NAME; {has}") from error
    return names[0], names


def _generate(endpoint: Endpoint, requests: Sequence[Request]) -> list[list[Completion]]:
    """Completions of requests, several at once. The first error ends it, once the others under way are in the cache.

    A request that is rejected while others of its kind are not has completions that are REFUSED.
    """
    pool = ThreadPoolExecutor(endpoint.settings.concurrency)
    try:
        futures = {pool.submit(_completions, endpoint, request): request for request in requests}
        rejected: collections.Counter[str] = collections.Counter()
        for done in as_completed(futures):
            progress.report(f"an answer of {endpoint.label}")
            error, kind = done.exception(), _kind(futures[done])
            rejected[kind] += isinstance(error, RejectedRequest)
            may_go_on = kind in endpoint.accepted or rejected[kind] < endpoint.settings.concurrency
            if error and not (isinstance(error, RejectedRequest) and may_go_on):
                pool.shutdown(cancel_futures=True)
                raise error
        return [_result(endpoint, request, done) for done, request in futures.items()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for nothing


def _result(endpoint: Endpoint, request: Request, done: Future) -> list[Completion]:
    error = done.exception()
    if isinstance(error, RejectedRequest) and _kind(request) in endpoint.accepted:
        return _refused(endpoint, error, request.samples)
    return done.result()


def _refused(endpoint: Endpoint, error: RejectedRequest, samples: int) -> list[Completion]:
    endpoint.usage.add(refused=1)
    return [Completion("", REFUSED, detail=error.reason)] * samples


def _kind(request: Request) -> str:
    """What a request has in common with others that differ in prompt and seed alone."""
    roles = sorted({one["role"] for one in request.messages})
    return repr((roles, *request._replace(messages=(), seed=0, samples=0)))


def _completions(endpoint: Endpoint, request: Request) -> list[Completion]:
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
        except RejectedRequest as error:
            if not completions:
                raise
            return completions + _refused(endpoint, error, missing)
        endpoint.accepted.add(_kind(request))
    return completions[: request.samples]


def _cached(endpoint: Endpoint, request: Request, n: int, seed: int) -> list[Completion]:
    """Completions from the request cache, else from the endpoint."""
    path, body = _body(endpoint.model, request, n, seed)
    key = key_of(endpoint.url, path, body)
    stored, usage = endpoint.cache.get(key) if endpoint.cache else None, endpoint.usage
    if stored is not None:
        sent = stored.get(_SENT, {})
        if sent.get("batch") and usage.is_first(key, sent["batch"]):
            usage.add(requests=sent["requests"], repeated=sent["repeated"])
            endpoint_responses.count_tokens(usage, stored)
        else:
            usage.add(cached=1)
        for name, line in stored.get(_CHANGES, {}).items():
            _add_change(endpoint, name, line)
        return _parse(endpoint, request, stored)
    api = endpoint.client.completions if request.raw else endpoint.client.chat.completions
    response = _send(endpoint, api.with_raw_response.create, body, request)
    usage.is_first(key, usage.batch)
    if endpoint.cache:
        endpoint.cache.put(key, response)
    endpoint_responses.count_tokens(usage, response)
    return _parse(endpoint, request, response)


def _parse(endpoint: Endpoint, request: Request, response: dict[str, Any]) -> list[Completion]:
    stop = request.stop if "stop" in response.get(_CHANGES, {}) else ()
    return endpoint_responses.completions(endpoint.label, request, response, stop)


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


def _send(
    endpoint: Endpoint, create: Callable[..., Any], body: dict[str, Any], request: Request
) -> dict[str, Any]:
    """The JSON of a response with completions, with the changes of its request. Raises ConfigError or Failure."""
    import openai

    times, malformed = 0, 0
    while True:
        sent, made = endpoint_params.changed(body, list(endpoint.usage.changes))
        times += 1
        endpoint.usage.add(requests=1)
        try:
            response = endpoint_responses.read_json(create(**sent).text, "a completion")
            changes = {name: endpoint.usage.changes[name] for name in made}
            response = {**response, _CHANGES: changes} if changes else response
            _parse(endpoint, request, response)
            if endpoint.usage.batch:
                response[_SENT] = {"batch": endpoint.usage.batch, "requests": times, "repeated": malformed}
            return response
        except MalformedResponse as error:
            malformed += 1
            if malformed > MALFORMED_RETRIES:
                raise Failure(
                    f"{endpoint.label}: {error}, {malformed} times; is it an OpenAI-compatible endpoint?"
                ) from error
            endpoint.usage.add(repeated=1)
        except openai.APIError as error:
            if not _learnt(endpoint, body, made, error):
                raise as_our_error(endpoint, error) from error


def _learnt(endpoint: Endpoint, body: dict[str, Any], made: Sequence[str], error: Any) -> bool:
    """Whether the request is to be sent again, as it is known now what the endpoint does not take.

    `made` are the changes that the refused request had. Raises ConfigError where the endpoint has no log-probabilities.
    """
    sent, _ = endpoint_params.changed(body, made)
    details = endpoint_errors.details(endpoint_errors.body_of(error))
    name = endpoint_params.learnt(sent, getattr(error, "status_code", None), details)
    if name is None:
        return False
    if name in endpoint_params.NEEDED:
        raise ConfigError(
            f"{endpoint.label}: it gives no log-probabilities ({details.message}), which are needed here: name a "
            "model that gives them, or do without (a judge: leave out --soft)"
        ) from error
    if name not in made:  # another thread may have learnt it meanwhile
        _add_change(endpoint, name, endpoint_params.line_of(name, details))
        return True
    return False


def _add_change(endpoint: Endpoint, name: str, line: str) -> None:
    if endpoint.usage.add_change(name, line):
        print(f"{endpoint.url}?model={endpoint.model}: {line}", file=sys.stderr, flush=True)


def as_our_error(endpoint: Endpoint, error: Any) -> Exception:
    """A client's error as ours, with the remedy."""
    names = ""
    if endpoint.models and endpoint.model not in endpoint.models:
        near = difflib.get_close_matches(endpoint.model, endpoint.models, 6, 0.4) or endpoint.models[:12]
        names = f"its list of models has no {endpoint.model}, but {', '.join(near)}"
    return endpoint_errors.as_our_error(endpoint.label, endpoint.url, endpoint.settings, error, names)
