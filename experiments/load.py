"""Measure a server on this machine: tokens/s and the time to the first token, by the number of its clients."""

import contextlib
import dataclasses
import http.client
import json
import os
import statistics
import threading
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from jaxtrain import config, flags
from jaxtrain.config import ConfigError, Failure

KEY = "JAXTRAIN_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class LoadRequests(config.Group):
    # fmt: off
    url: str = config.arg("http://127.0.0.1:8000/v1", "The server, on this machine")
    clients: str = config.arg("1,16", "Numbers of clients to measure, one after the other")
    requests: int = config.arg(64, "Requests of each measurement, shared by its clients", low=1)
    seconds: float = config.arg(60.0, "A measurement begins no request after so many seconds", low=1)
    prompt: str = config.arg("How do I paint a boat?", "What every request asks, each with its own seed")
    max_tokens: int = config.arg(64, "Most tokens of an answer", low=1)
    # fmt: on

    def check(self):
        parts = urlsplit(self.url)
        if parts.scheme != "http" or parts.hostname not in LOOPBACK:
            raise ConfigError(
                f"--url={self.url}: only a server on this machine is measured, http://127.0.0.1:PORT/v1"
            )
        self.counts()

    def counts(self) -> list[int]:
        """The numbers of --clients."""
        parts = self.clients.split(",")
        if not all(part.isdecimal() and 0 < int(part) <= 256 for part in parts):
            raise ConfigError(f"--clients={self.clients}: write numbers from 1 to 256, such as 1,16")
        return [int(part) for part in parts]


@dataclasses.dataclass(frozen=True)
class Load:
    asked: LoadRequests = config.group(LoadRequests)


class RequestTimes(NamedTuple):
    """One request."""

    first: float  # seconds until the first token
    whole: float
    tokens: int


def main(cfg: Load) -> None:
    """Warms the server up, then measures each number of clients."""
    from jaxtrain.files import terminal

    asked = cfg.asked
    with contextlib.closing(connect(asked)) as link:
        model = json.loads(_answer(link, "GET", f"{urlsplit(asked.url).path}/models"))["data"][0]["id"]
        for seed in range(2):
            stream(link, asked, model, seed)
    base = 0.0
    for count in asked.counts():
        found, seconds = measured(asked, model, count)
        rate = sum(one.tokens for one in found) / seconds
        base = base or rate
        said = ", ".join(
            f"{name} {1e3 * value:.0f} ms" for name, value in quantiles([one.first for one in found])
        )
        fast = f"{rate:,.0f} tokens/s ({rate / base:.1f} times), {len(found) / seconds:.1f} requests/s"
        lines = [(f"{count} clients", fast), ("first token", said)]
        print("\n".join(terminal.lines(lines)), flush=True)


def quantiles(values: list[float]) -> list[tuple[str, float]]:
    """Median, 95th percentile and the largest."""
    ordered = sorted(values)
    return [
        ("median", statistics.median(ordered)),
        ("95 %", ordered[-(-95 * len(ordered) // 100) - 1]),
        ("most", ordered[-1]),
    ]


def measured(asked: LoadRequests, model: str, count: int) -> tuple[list[RequestTimes], float]:
    """(what was served to `count` clients at once, seconds). Raises Failure where a request was refused."""
    seeds, lock, found, failed = iter(range(2, 2 + asked.requests)), threading.Lock(), [], []
    end = time.perf_counter() + asked.seconds

    def client() -> None:
        with contextlib.closing(connect(asked)) as link:
            while time.perf_counter() < end and not failed:
                with lock:
                    seed = next(seeds, None)
                if seed is None:
                    return
                try:
                    found.append(stream(link, asked, model, seed))
                except (Failure, OSError) as error:
                    failed.append(error)

    begun = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise Failure(str(failed[0])) from failed[0]
    return found, time.perf_counter() - begun


def connect(asked: LoadRequests) -> http.client.HTTPConnection:
    """A connection that stays open."""
    parts = urlsplit(asked.url)
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=60)


def stream(link: http.client.HTTPConnection, asked: LoadRequests, model: str, seed: int) -> RequestTimes:
    """Asks for one answer, and reads it as it comes. Raises Failure where it is refused."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": asked.prompt}],
        "max_completion_tokens": asked.max_tokens,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun, first, tokens = time.perf_counter(), 0.0, 0
    _send(link, "POST", f"{urlsplit(asked.url).path}/chat/completions", json.dumps(body))
    response = link.getresponse()
    if response.status != 200:
        raise Failure(f"--url={asked.url}: {response.status} {response.read().decode(errors='replace')}")
    for line in response:
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - begun
            if b'"choices":[]' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    return RequestTimes(first, time.perf_counter() - begun, tokens)


def _answer(link: http.client.HTTPConnection, method: str, path: str) -> bytes:
    _send(link, method, path, None)
    response = link.getresponse()
    said = response.read()
    if response.status != 200:
        raise Failure(f"{path}: {response.status} {said.decode(errors='replace')}")
    return said


def _send(link: http.client.HTTPConnection, method: str, path: str, body: str | None) -> None:
    key = os.environ.get(KEY, "")
    headers: dict[str, Any] = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    try:
        link.request(method, path, body, headers)
    except OSError as error:
        raise Failure(
            f"no server at {link.host}:{link.port} ({error}): start it with ./launch/run serve"
        ) from error


if __name__ == "__main__":
    flags.launch(Load, main, "./launch/run load")
