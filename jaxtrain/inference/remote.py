"""A model behind an OpenAI-compatible endpoint, through the official client: asks in, replies out.

The client waits and tries again on 408, 409, 429 and 5xx, as Retry-After says, else with exponential back-off. What it
gave is in the request cache before anybody sees it, so that a run that stops loses nothing and pays for nothing twice.
"""

import dataclasses
import importlib.util
import json
import os
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import config
from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference.llm import LLM, REFUSED, Completion, Request, TokenLogprob, Usage, seed_of
from jaxtrain.inference.request_cache import RequestCache, key_of

MOST_LOGPROBS = 20  # that the API has room for
UNUSABLE = 3  # times that an answer which is no answer is asked for again
NO_KEY = "none"  # the client wants some key; a server of one's own may want none
NOT_TAKEN = (400, 413, 422)  # a prompt that is too long, or filtered out, or a parameter that is unknown
CHAT, TEXT = "/chat/completions", "/completions"


@dataclasses.dataclass(frozen=True)
class EndpointFlags(config.Group):
    # fmt: off
    api_key_env: str = config.arg("OPENAI_API_KEY", "Environment variable with the endpoints' key", live=True)
    timeout: float = config.arg(120.0, "Seconds that an endpoint may take for one answer", low=0.01, live=True)
    retries: int = config.arg(6, "Times that the client sends a request again, each time waiting longer", low=0,
        live=True)
    concurrency: int = config.arg(8, "Requests under way at once", low=1, live=True)
    use_cache: bool = config.arg(True, "Keep answers in --cache_dir, and take those that are there", live=True)
    price_in: float = config.arg(0.0, "Price of a million tokens that endpoints read", low=0, live=True)
    price_out: float = config.arg(0.0, "Price of a million tokens that endpoints write", low=0, live=True)
    # fmt: on

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


class _Line(NamedTuple):
    """An open client, and what messages about it begin with."""

    client: Any
    url: str
    model: str
    said: str
    settings: EndpointFlags
    cache: RequestCache | None
    spent: Usage


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def open_endpoint(text: str, flag: str, settings: EndpointFlags, cache: Path) -> LLM:
    """The endpoint URL?model=NAME, such as http://localhost:8000/v1?model=sft; the only model needs no name.

    Raises ConfigError for a URL, key or model that cannot be, Failure where nobody answers.
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
    opened = RequestCache(cache) if settings.use_cache else None
    line = _Line(client, url, "", f"--{flag}={text}", settings, opened, Usage())

    def close() -> None:
        client.close()
        if opened:
            opened.close()

    try:
        model = options["model"][0] if options.get("model") else _only_model(line)
    except BaseException:
        close()
        raise
    line = line._replace(model=model)
    return LLM(
        f"{url}?model={model}", lambda asks: _generate(line, asks), True, line.spent, remote=True, close=close
    )


def _only_model(line: _Line) -> str:
    listed = _sent(line, lambda: line.client.models.with_raw_response.list(), "a list of models")
    found = [one.get("id") for one in _list(listed, "data") if isinstance(one, dict)]
    if len(found) != 1:
        raise ConfigError(
            f"{line.said}: name a model with ?model=NAME; it has {', '.join(map(str, found[:12])) or 'none'}"
        )
    return str(found[0])


def _generate(line: _Line, asks: Sequence[Request]) -> list[list[Completion]]:
    """The first error ends it, once the other requests under way have brought what they may into the cache."""
    pool = ThreadPoolExecutor(line.settings.concurrency)
    try:
        waiting = [pool.submit(_replies, line, ask) for ask in asks]
        done = wait(waiting, return_when=FIRST_EXCEPTION).done
        if any(one.exception() for one in done):
            pool.shutdown(cancel_futures=True)
        return [one.result() for one in sorted(waiting, key=lambda one: one.cancelled())]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for nothing


def _replies(line: _Line, ask: Request) -> list[Completion]:
    """The replies to one ask. A server that has fewer than asked for is asked again for those that are missing."""
    if ask.top_logprobs > MOST_LOGPROBS or (ask.raw and ask.top_logprobs):
        raise ConfigError(
            f"{line.said}: {ask.top_logprobs} log-probabilities: the API has at most {MOST_LOGPROBS}, in a chat"
        )
    found: list[Completion] = []
    while len(found) < ask.samples:
        seed = seed_of(ask.seed, len(found)) if found else ask.seed
        try:
            found += _answered(line, ask, ask.samples - len(found), seed)
        except _NotTaken:
            spent = line.spent
            if not (spent.cached or spent.tokens_in or spent.uncounted):
                raise
            spent.add(refused=1)
            found += [Completion("", REFUSED)] * (ask.samples - len(found))
    return found[: ask.samples]


def _answered(line: _Line, ask: Request, n: int, seed: int) -> list[Completion]:
    path, request = _request(line.model, ask, n, seed)
    key = key_of(line.url, path, request)
    held = line.cache.get(key) if line.cache else None
    if held is not None:
        line.spent.add(cached=1)
        return _read(line, ask, held)
    api = line.client.completions if ask.raw else line.client.chat.completions
    answer = _sent(
        line,
        lambda: api.with_raw_response.create(**request),
        "a completion",
        lambda answer: _read(line, ask, answer),
    )
    if line.cache:
        line.cache.put(key, answer)
    _count(line.spent, answer)
    return _read(line, ask, answer)


def _request(model: str, ask: Request, n: int, seed: int) -> tuple[str, dict[str, Any]]:
    request: dict[str, Any] = {
        "model": model, "seed": seed, "temperature": ask.temperature, "max_tokens": ask.max_new,
    }  # fmt: skip
    request |= {"n": n} if n > 1 else {}
    request |= {"stop": list(ask.stop)} if ask.stop else {}
    if ask.raw:
        return TEXT, request | {"prompt": "".join(one["content"] for one in ask.messages)}
    if ask.top_logprobs:
        request |= {"logprobs": True, "top_logprobs": ask.top_logprobs}
    told = [{"role": one["role"], "content": one["content"]} for one in ask.messages]
    return CHAT, request | {"messages": told}


class _NotTaken(ConfigError):
    """A request that is refused; where others were answered, it is its prompt that is."""


class _Unusable(ValueError):
    """An answer that is none; asked for again."""


def _sent(
    line: _Line, send: Callable[[], Any], wanted: str, check: Callable[[Any], Any] = lambda answer: None
) -> Any:
    """The JSON that an endpoint answers with, once `check` reads it. Raises what explains why there is none."""
    import openai

    for left in range(UNUSABLE, -1, -1):
        line.spent.add(requests=1)
        try:
            answer = _parsed(send().text, wanted)
            check(answer)
            return answer
        except _Unusable as error:
            if not left:
                raise Failure(
                    f"{line.said}: {error}, {UNUSABLE + 1} times; is it an OpenAI-compatible endpoint?"
                ) from error
            line.spent.add(repeated=1)
        except openai.APIError as error:
            raise _explained(line, error) from error
    raise AssertionError("the loop returns or raises")


def _parsed(text: str, wanted: str) -> Any:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Unusable(f"answered with what is not JSON ({error}): {text[:60]!r}") from error
    if not isinstance(answer, dict):
        raise _Unusable(f"answered with what is not {wanted}: {text[:60]!r}")
    return answer


def _list(answer: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(answer.get(name), list):
        raise _Unusable(f"answered without {name}: its fields are {', '.join(answer) or 'none'}")
    return answer[name]


def _read(line: _Line, ask: Request, answer: dict[str, Any]) -> list[Completion]:
    """Raises _Unusable where a completion is malformed, ConfigError where it lacks log-probabilities asked for."""
    found = []
    for choice in _list(answer, "choices"):
        message = choice.get("message") if isinstance(choice, dict) else None
        text = choice.get("text") if isinstance(choice, dict) and ask.raw else None
        if isinstance(message, dict) and not ask.raw:
            text = message.get("content") or message.get("refusal")
            text = "" if text is None and "content" in message else text
        if not isinstance(text, str):
            raise _Unusable(f"answered with a choice without text: {json.dumps(choice)[:60]}")
        tokens = _tokens(line, choice) if ask.top_logprobs else None
        found.append(Completion(text, str(choice.get("finish_reason") or "stop"), tokens))
    if not found:
        raise _Unusable("answered with no choice")
    return found


def _tokens(line: _Line, choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    if content is None:
        raise ConfigError(
            f"{line.said}: it returned no log-probabilities though they were asked for: take another model, or leave "
            "them out"
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
        raise _Unusable(
            f"answered with malformed log-probabilities ({type(error).__name__}: {error})"
        ) from error


def _bytes(told: Sequence[dict[str, Any]]) -> tuple[bytes, ...]:
    """The bytes of tokens, where all of them are told."""
    held = [one.get("bytes") for one in told]
    return () if None in held else tuple(map(bytes, held))


def _count(spent: Usage, answer: dict[str, Any]) -> None:
    usage = answer.get("usage")
    counts = (
        [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if isinstance(usage, dict)
        else []
    )
    if len(counts) == 2 and all(isinstance(count, int) for count in counts):
        spent.add(tokens_in=counts[0], tokens_out=counts[1])
    else:
        spent.add(uncounted=1)


def _explained(line: _Line, error: Any) -> Exception:
    """A client's error as ours: what the same command would meet again is a ConfigError."""
    import openai

    env, tries = line.settings.api_key_env, line.settings.retries + 1
    kept = (
        "what was answered is kept in the request cache"
        if line.cache
        else "nothing was kept (--use_cache=false)"
    )
    said = getattr(error, "message", str(error))
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        there = "is set" if os.environ.get(env) else "is not set"
        return ConfigError(f"{line.said}: it refused the key ({status}): {said}; --api_key_env={env} {there}")
    if isinstance(error, openai.APITimeoutError):
        return Failure(
            f"{line.said}: no answer in --timeout={line.settings.timeout:g} s, {tries} times; {kept}: raise it, lower "
            "--concurrency or --max_new, or run the command again later"
        )
    if isinstance(error, openai.APIConnectionError):
        return Failure(
            f"{line.said}: nobody answers ({error.__cause__ or said}), {tries} times; {kept}: is it up?"
        )
    if isinstance(error, openai.RateLimitError):
        return Failure(
            f"{line.said}: too many requests (429), {tries} times: {said}; {kept}: lower --concurrency, raise "
            "--retries, or run the command again later"
        )
    if status in NOT_TAKEN:
        return _NotTaken(f"{line.said}: it refused the request ({status}): {said}")
    if status is not None and 400 <= status < 500:
        return ConfigError(f"{line.said}: it refused the request ({status}): {said}")
    return Failure(
        f"{line.said}: it failed ({status or type(error).__name__}), {tries} times: {said}; {kept}"
    )
