"""Attacks on a server of the chat API: those of its description, broken ones, and bytes that are not HTTP."""

import errno
import itertools
import json
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from jaxtrain.apps.soak.outcome import Outcome
from jaxtrain.config import ConfigError

EXTRA = "install the extra: pip install 'jaxtrain[soak]'"
PATIENCE = 60.0  # seconds after which a request counts as not answered
_OPEN = ("/health", "/metrics")  # paths that need no key
_CHATS = "/v1/chat/completions"
_CLOSED = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
_DOWN = (503, 504)  # errors of the server that its description has


class Address(NamedTuple):
    """A server under attack."""

    url: str
    key: str  # empty: it needs none

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request that has the key."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


class RawResponse(NamedTuple):
    """What came of a request. Status 0: the connection was closed without an answer; −1: it stayed open."""

    status: int
    body: bytes


class _Tally:
    """How often a fault was made, how often what is promised held, and the first time that it did not."""

    def __init__(self, fault: str, seed: int):
        self.fault, self.times, self.held = fault, 0, 0
        self.detail = f"seed {seed}"

    def add(self, broken: str) -> None:
        self.times += 1
        if not broken:
            self.held += 1
        elif self.held == self.times - 1:
            self.detail = f"{self.detail}, request {self.times}: {broken}"

    def outcome(self) -> Outcome:
        return Outcome(self.fault, self.times, self.held, self.detail)


def attack_server(address: Address, count: int, seed: int) -> tuple[list[Outcome], set[str]]:
    """(outcomes of about `count` requests, ids of the completions that the server said it stored).

    Raises ConfigError without the extra `soak`.
    """
    rng = random.Random(seed)
    stored: set[str] = set()
    attacks: list[tuple[str, float, Callable[[random.Random], str]]] = [
        ("broken JSON bodies", 0.2, lambda draw: _broken_body(address, draw)),
        ("bytes that are not HTTP", 0.2, lambda draw: _broken_http(address, draw)),
        ("pieces, lengths and types that lie", 0.1, lambda draw: _lying(address, draw)),
        ("pipelined requests", 0.05, lambda draw: _pipelined(address, draw)),
        ("floods of headers", 0.05, lambda draw: _flood(address, draw)),
        ("requests without the key", 0.1 if address.key else 0.0, lambda draw: _without_key(address, draw)),
        ("valid requests, stored", 0.05, lambda draw: _valid(address, draw, stored)),
    ]
    outcomes = []
    with _Meanwhile(address, rng.getrandbits(32)) as meanwhile:
        outcomes.append(_described(address, max(1, int(0.25 * count)), seed))
        for fault, share, request in attacks:
            tally = _Tally(fault, seed)
            for _ in range(int(share * count)):
                tally.add(request(rng))
            outcomes.append(tally.outcome())
    return [*outcomes, meanwhile.tally.outcome(), _idle(address, seed)], stored


def _described(address: Address, count: int, seed: int) -> Outcome:
    """Requests that are valid or invalid by the server's description, whose answers must be as it says."""
    try:
        import schemathesis
        from hypothesis import HealthCheck, Phase, assume, given, settings
        from hypothesis import seed as seeded
        from schemathesis import GenerationMode, checks
    except ImportError as error:
        raise ConfigError(f"requests of a description need the package {error.name}; {EXTRA}") from error
    schema = schemathesis.openapi.from_url(f"{address.url}/openapi.json", headers=address.headers)
    operations = [result.ok() for result in schema.get_all_operations()]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    kinds = [
        (operation, mode)
        for operation, mode in itertools.product(operations, modes)
        if mode is GenerationMode.POSITIVE or operation.body or operation.query or operation.path_parameters
    ]
    names = ("not_a_server_error", "status_code_conformance", "content_type_conformance",
             "response_headers_conformance", "response_schema_conformance", "negative_data_rejection")  # fmt: skip
    chosen = [checks.CHECKS.get_one(name) for name in names]
    tally = _Tally("requests of the description", seed)
    for i, (operation, mode) in enumerate(kinds):
        each = settings(
            max_examples=max(1, count // len(kinds)), database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],
        )  # fmt: skip

        @seeded(seed + i)
        @each
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            assume([] not in (case.query or {}).values())  # not sent: what is sent may be valid
            try:
                response = case.call(base_url=address.url, headers=address.headers, timeout=PATIENCE)
                case.validate_response(response, checks=chosen)
            except (Exception, BaseExceptionGroup) as error:  # of several checks a group
                why = "; ".join(map(str, getattr(error, "exceptions", [error])))
                tally.add(f"{case.method} {case.path}: {' '.join(why.split())[:500]}")
            else:
                tally.add("")

        one()
    return tally.outcome()


def _exchange(address: Address, sent: Iterator[bytes], end: bool) -> list[RawResponse]:
    """The replies to bytes that are sent piece by piece; `end`: nothing more will come."""
    url = urlsplit(address.url)
    received = b""
    try:
        with socket.create_connection((url.hostname, url.port), timeout=PATIENCE) as link:
            try:
                for piece in sent:
                    link.sendall(piece)
                if end:
                    link.shutdown(socket.SHUT_WR)
            except OSError as error:  # it has answered before it had read all
                if error.errno not in _CLOSED:
                    raise
            while piece := link.recv(1 << 16):
                received += piece
    except ConnectionResetError:
        pass
    except TimeoutError:
        return [*_replies(received), RawResponse(-1, b"")]
    return _replies(received) or [RawResponse(0, b"")]


def _replies(received: bytes) -> list[RawResponse]:
    """The HTTP responses that bytes are; what is none is a status of 999."""
    replies = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        if not match:
            return [*replies, RawResponse(999, received[:200])]
        if (status := int(match[1])) < 200:
            received = rest
            continue
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else len(rest)
        replies.append(RawResponse(status, rest[:size]))
        received = rest[size:]
    return replies


def _problem(reply: RawResponse, allowed: Callable[[int], bool] = lambda status: status < 500) -> str:
    """Why a reply is none that the server may give; empty: it is one."""
    if reply.status == -1:
        return f"no answer in {PATIENCE:.0f} s"
    if not allowed(reply.status) and reply.status not in _DOWN:
        return f"status {reply.status}: {reply.body[:200]!r}"
    return ""


def _first_problem(replies: list[RawResponse], sent: bytes) -> str:
    problem = next(filter(None, map(_problem, replies)), "")
    return problem and f"{problem} to {sent[:300]!r}"


def _request(address: Address, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request that ends its connection."""
    lines = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body)), **address.headers}
    text = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **headers}.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1") + body


def _chat(**more: Any) -> dict[str, Any]:
    """A small request, for whatever model is served: it is refused with 404 where that has another name."""
    return {"model": "soak", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **more}


def _broken_body(address: Address, rng: random.Random) -> str:
    body = json.dumps(_chat(stop=["x"], n=rng.randint(1, 3), metadata={"a": "é"})).encode()
    body = rng.choice(_BREAKS)(body, rng)
    path = rng.choice((_CHATS, "/v1/completions", f"{_CHATS}/chatcmpl-0"))
    sent = _request(address, "POST", path, body, **{"Content-Type": rng.choice(_TYPES)})
    return _first_problem(_exchange(address, iter([sent]), end=False), body)


_TYPES = (
    "application/json",
    "text/plain",
    "multipart/form-data; boundary=x",
    "",
    "application/json; charset=utf-16",
    "/",
)
_NUMBERS = (
    b"1e999",
    b"-0",
    b"1" * 5000,
    b"NaN",
    b"-Infinity",
    b"0x10",
    b"1" + b"0" * 400,
    b"9223372036854775808",
)
_TEXTS = (
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b"\x00",
    "𝄞".encode() * 50,
    b"x" * 9000,
    b"{{ 7 * 7 }}",
)


def _at(body: bytes, rng: random.Random, piece: bytes) -> bytes:
    place = rng.randrange(len(body) + 1)
    return body[:place] + piece + body[place + rng.choice((0, 1, len(piece))) :]


def _nested(body: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((99, 101, 1000, 20_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return body.replace(b'"Hi"', opening * depth + b"1" + closing * depth)


# Ways to break a valid body: (body, random numbers) -> body.
_BREAKS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    lambda body, rng: body[: rng.randrange(len(body))],
    lambda body, rng: _at(body, rng, rng.choice(_TEXTS)),
    lambda body, rng: _at(body, rng, bytes([rng.randrange(256)])),
    lambda body, rng: body.replace(b'"Hi"', b'"' + rng.choice(_TEXTS) + b'"'),
    lambda body, rng: re.sub(rb": \d+", lambda _: b": " + rng.choice(_NUMBERS), body),
    lambda body, rng: body[:-1] + b", " + rng.choice((b'"model": 1}', b'"n": 1}', b'"messages": []}')),
    lambda body, rng: rng.choice((b"", b"null", b"[]", b'"x"', b"\xef\xbb\xbf", b"{}" * 9)) + body * rng.randrange(2),
    lambda body, rng: body.decode().encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1"))),
    _nested,
)  # fmt: skip


def _broken_http(address: Address, rng: random.Random) -> str:
    whole = _request(address, "POST", _CHATS, json.dumps(_chat()).encode())
    sent = bytearray(rng.randbytes(rng.randrange(1, 300)) if rng.random() < 0.2 else whole)
    for _ in range(rng.randrange(5)):
        place = rng.randrange(len(sent))
        piece = rng.choice(
            (b"\r\n", b"\n", b"\x00", b" ", b":", b"\t", rng.randbytes(3), b"\r\n\r\n", b"%", b"\xff")
        )
        sent[place : place + rng.randrange(4)] = piece
    replies = _exchange(address, iter([bytes(sent)]), end=True)
    return _first_problem(replies, bytes(sent))


def _lying(address: Address, rng: random.Random) -> str:
    """Bodies in chunks, and lengths, as no client should send them."""
    body = json.dumps(_chat()).encode()
    chunks = [body[i : i + 7] for i in range(0, len(body), 7)]
    sizes = [f"{len(one):x}{rng.choice(('', ';x=y', ' '))}" for one in chunks]
    if rng.random() < 0.6:
        sizes[rng.randrange(len(sizes))] = rng.choice(("-1", "zz", "ffffffffffffffff", "0x3", "", "7" * 30))
    chunked = b"".join(
        size.encode() + b"\r\n" + one + b"\r\n" for size, one in zip(sizes, chunks, strict=True)
    )
    length, kind = rng.choice(
        ((str(len(body)), ""), ("-1", ""), ("1e3", ""), (str(10**30), ""), ("5, 6", ""), ("", "chunked"),
         (str(len(body)), "chunked"), ("", "gzip"), ("", "chunked, chunked"), ("", "identity"))
    )  # fmt: skip
    head = _request(address, "POST", _CHATS, **{"Content-Length": length, "Transfer-Encoding": kind})
    rest = chunked + b"0\r\n\r\n" if kind else body
    pieces = [head[:20], head[20:], *(rest[i : i + 50] for i in range(0, len(rest), 50))]
    return _first_problem(_exchange(address, iter(pieces), end=True), head + rest)


def _pipelined(address: Address, rng: random.Random) -> str:
    body = json.dumps(_chat(colour="red")).encode()
    kinds = {
        "health": ("GET", "/health", b""), "models": ("GET", "/v1/models", b""), "chat": ("POST", _CHATS, body),
        "none": ("GET", "/none", b""),
    }  # fmt: skip
    wanted = {"health": 200, "models": 200, "chat": 400, "none": 404}
    names = [rng.choice([*kinds]) for _ in range(rng.randint(2, 8))]
    parts = [
        _request(address, *kinds[name], Connection="close" if i == len(names) - 1 else "")
        for i, name in enumerate(names)
    ]
    statuses = [reply.status for reply in _exchange(address, iter([b"".join(parts)]), end=False)]
    return "" if statuses == [wanted[name] for name in names] else f"{names} were answered {statuses}"


def _flood(address: Address, rng: random.Random) -> str:
    many, size = rng.choice(((10, 10), (400, 30), (5000, 5), (1, 60_000), (1, 300_000), (20_000, 40)))
    flood = {f"X-{i}": "y" * size for i in range(many)}
    sent = _request(address, "GET", rng.choice(("/health", "/v1/models", "/" + "a" * size)), **flood)
    replies = _exchange(address, iter([sent]), end=False)
    return _first_problem(replies, sent)


def _without_key(address: Address, rng: random.Random) -> str:
    """A request whose key is missing or wrong, on a path that is, or looks like, one of the API's."""
    path = rng.choice(
        ("/openapi.json", "/v1/models", "/v1/models/soak", _CHATS, "/v1/completions", f"{_CHATS}/chatcmpl-0",
         f"{_CHATS}/chatcmpl-0/messages")
    )  # fmt: skip
    path = rng.choice(_PATHS)(path)
    key = address.key
    wrong = rng.choice(
        ("", f"Basic {key}", "Bearer", "Bearer ", f"Bearer {key}x", f"Bearer {key[:-1]}", f"Bearer {key}\x00", key,
         f"Bearer {key.swapcase()}!", f"Bearer Bearer {key}", "Bearer é", f"Bearer {key},x", "x" * 5000)
    )  # fmt: skip
    more = rng.choice(
        ({}, {"X-Api-Key": key}, {"Api-Key": key}, {"X-Original-URL": "/health"}, {"Cookie": key})
    )
    method = rng.choice(("GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS"))
    sent = _request(address, method, path, json.dumps(_chat()).encode(), **{**more, "Authorization": wrong})
    (reply, *_) = _exchange(address, iter([sent]), end=False)
    if path in _OPEN:
        return _problem(reply)
    return (
        _problem(reply, lambda status: status in (0, 400, 401, 404, 405))
        and f"{reply.status} to {sent[:200]!r}"
    )


_PATHS: tuple[Callable[[str], str], ...] = (
    str, str, str, lambda path: path + "/", lambda path: "/" + path, lambda path: f"/health/..{path}",
    lambda path: f"{path}?key=x", lambda path: path.replace("v1", "V1"), lambda path: path.replace("/", "%2f"),
    lambda path: f"{path};/health", lambda path: f"{path}%00", lambda path: f"http://localhost/health{path}",
    lambda path: path.replace("m", "%6d"), lambda path: f"/.{path}", lambda path: f"{path}#/health",
)  # fmt: skip


def _valid(address: Address, rng: random.Random, stored: set[str]) -> str:
    """A completion that is to be stored; the id is added to `stored` once the server has said so."""
    body = _chat(model=_model(address), store=True, max_tokens=rng.randint(1, 4), seed=rng.getrandbits(32))
    sent = _request(address, "POST", _CHATS, json.dumps(body).encode())
    (reply, *_) = _exchange(address, iter([sent]), end=False)
    if reply.status == 200:
        stored.add(json.loads(reply.body)["id"])
    return _problem(reply, lambda status: status in (200, 429))


def _get(address: Address, path: str) -> Any:
    (reply, *_) = _exchange(address, iter([_request(address, "GET", path)]), end=False)
    return json.loads(reply.body) if reply.status == 200 else {}


def _model(address: Address) -> str:
    return _get(address, "/health").get("model", "")


class _Meanwhile:
    """Valid requests from another thread as long as the attack goes on, some of which are left in their streams."""

    def __init__(self, address: Address, seed: int):
        self._address, self._rng, self._end = address, random.Random(seed), threading.Event()
        self._thread = threading.Thread(target=self._run, name="meanwhile")
        self.tally = _Tally("valid requests during the attack", seed)

    def __enter__(self) -> "_Meanwhile":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        model = _model(self._address)
        while not self._end.wait(0.05):
            stream = self._rng.random() < 0.3
            body = json.dumps(_chat(model=model, stream=stream, max_tokens=20 if stream else 2)).encode()
            sent = _request(self._address, "POST", _CHATS, body)
            try:
                self.tally.add(self._leave(sent) if stream else self._answered(sent))
            except OSError as error:
                self.tally.add(f"{type(error).__name__}: {error}")

    def _answered(self, sent: bytes) -> str:
        (reply, *_) = _exchange(self._address, iter([sent]), end=False)
        return _problem(reply, lambda status: status in (200, 429))

    def _leave(self, sent: bytes) -> str:
        url = urlsplit(self._address.url)
        with socket.create_connection((url.hostname, url.port), timeout=PATIENCE) as link:
            link.sendall(sent)
            first = link.recv(64)
        return "" if re.match(rb"HTTP/1\.1 (200|429) ", first) else repr(first)


def _idle(address: Address, seed: int) -> Outcome:
    """Whether the server, after the attack, works and has nothing left to decode."""
    tally, pause = _Tally("the server afterwards", seed), threading.Event()
    for _ in range(int(PATIENCE)):
        health: Mapping[str, Any] = _get(address, "/health")
        if (health.get("status"), health.get("busy"), health.get("waiting")) == ("ok", 0, 0):
            break
        pause.wait(1.0)
    else:
        tally.add(f"its state is {dict(health)}")
        return tally.outcome()
    tally.add("")
    return tally.outcome()
