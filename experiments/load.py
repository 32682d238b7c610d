"""Measure a server on this machine: tokens/s and time to first token, by the number of clients."""

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
from jaxtrain.inference.config import KEY, LOOPBACK


@dataclasses.dataclass(frozen=True)
class LoadRequests(config.Group):
    # fmt: off
    url: str = config.arg("http://127.0.0.1:8000/v1", "The server, on this machine")
    clients: str = config.arg("1,16", "Numbers of clients to measure, one after the other")
    requests: int = config.arg(64, "Requests of each measurement, shared by its clients", low=1)
    seconds: float = config.arg(60.0, "A measurement starts no request after so many seconds", low=1)
    prompt: str = config.arg("How do I paint a boat?", "The prompt of every request, each with its own seed")
    max_tokens: int = config.arg(64, "Most tokens of a completion", low=1)
    # fmt: on

    def check(self):
        parts = urlsplit(self.url)
        if parts.scheme != "http" or parts.hostname not in LOOPBACK:
            raise ConfigError(
                f"--url={self.url}: only a server on this machine is measured, http://127.0.0.1:PORT/v1"
            )
        self.client_counts()

    def client_counts(self) -> list[int]:
        """The numbers of --clients."""
        parts = self.clients.split(",")
        if not all(part.isdecimal() and 0 < int(part) <= 256 for part in parts):
            raise ConfigError(f"--clients={self.clients}: write numbers from 1 to 256, such as 1,16")
        return [int(part) for part in parts]


@dataclasses.dataclass(frozen=True)
class Load:
    asked: LoadRequests = config.group(LoadRequests)


class RequestTimes(NamedTuple):
    """The times and the tokens of one request."""

    first_token: float  # seconds
    total: float  # seconds
    tokens: int  # of the completion


def main(cfg: Load) -> None:
    """Warms the server up, then measures each number of clients."""
    from jaxtrain.files import terminal

    load = cfg.asked
    with contextlib.closing(connect(load)) as link:
        model = json.loads(_get(link, f"{urlsplit(load.url).path}/models"))["data"][0]["id"]
        for seed in range(2):
            stream(link, load, model, seed)
    base = 0.0
    for count in load.client_counts():
        times, seconds = measure(load, model, count)
        rate = sum(one.tokens for one in times) / seconds
        base = base or rate
        first_token = ", ".join(
            f"{name} {1e3 * value:.0f} ms" for name, value in quantiles([one.first_token for one in times])
        )
        throughput = f"{rate:,.0f} tokens/s ({rate / base:.1f} times), {len(times) / seconds:.1f} requests/s"
        lines = [(f"{count} clients", throughput), ("first token", first_token)]
        print("\n".join(terminal.lines(lines)), flush=True)


def quantiles(values: list[float]) -> list[tuple[str, float]]:
    """Median, 95th percentile and the largest."""
    ordered = sorted(values)
    return [
        ("median", statistics.median(ordered)),
        ("95 %", ordered[-(-95 * len(ordered) // 100) - 1]),
        ("longest", ordered[-1]),
    ]


def measure(load: LoadRequests, model: str, count: int) -> tuple[list[RequestTimes], float]:
    """(times of the requests of `count` concurrent clients, seconds). Raises Failure where a request was refused."""
    times: list[RequestTimes] = []
    errors: list[Exception] = []
    seeds, lock = iter(range(2, 2 + load.requests)), threading.Lock()
    end = time.perf_counter() + load.seconds

    def client() -> None:
        with contextlib.closing(connect(load)) as link:
            while time.perf_counter() < end and not errors:
                with lock:
                    seed = next(seeds, None)
                if seed is None:
                    return
                try:
                    times.append(stream(link, load, model, seed))
                except (Failure, OSError) as error:
                    errors.append(error)

    start = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise Failure(str(errors[0])) from errors[0]
    return times, time.perf_counter() - start


def connect(load: LoadRequests) -> http.client.HTTPConnection:
    """A persistent connection to the server."""
    parts = urlsplit(load.url)
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=60)


def stream(link: http.client.HTTPConnection, load: LoadRequests, model: str, seed: int) -> RequestTimes:
    """The times of one streamed completion. Raises Failure where the request is refused."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": load.prompt}],
        "max_completion_tokens": load.max_tokens,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, tokens = time.perf_counter(), 0.0, 0
    _send(link, "POST", f"{urlsplit(load.url).path}/chat/completions", json.dumps(body))
    response = link.getresponse()
    if response.status != 200:
        raise Failure(f"--url={load.url}: {response.status} {response.read().decode(errors='replace')}")
    for line in response:
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - start
            if b'"choices":[]' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    return RequestTimes(first, time.perf_counter() - start, tokens)


def _get(link: http.client.HTTPConnection, path: str) -> bytes:
    _send(link, "GET", path, None)
    response = link.getresponse()
    body = response.read()
    if response.status != 200:
        raise Failure(f"{path}: {response.status} {body.decode(errors='replace')}")
    return body


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
