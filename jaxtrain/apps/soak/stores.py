"""The two commands that answer requests and store what they acknowledge: nothing acknowledged may be lost."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from jaxtrain.apps.soak.attempt import TRACEBACK, Attempt, described, named, unexplained
from jaxtrain.apps.soak.faults import Fault
from jaxtrain.apps.soak.reference import Place, Reference
from jaxtrain.apps.soak.targets import SoakTarget
from jaxtrain.apps.soak.warm import Ended, Injected
from jaxtrain.config import Failure

START = 180.0  # seconds that a server may take to answer
DRAIN = 60.0  # seconds that it may take to leave after SIGTERM
LOAD = (0.0, 1.5)  # seconds between the first acknowledgement and the fault
_STORE = "{here}/run/store.sqlite"
_ALL = ("kill -9 under load", "SIGTERM under load", "bit flip of the store", "truncation of the store")

TARGETS = (
    SoakTarget("serve", ("serve", "--model={parents}/sft", f"--store={_STORE}", "--port=0", "--context=64", "--rows=2",
        "--cache_dir={here}/cache"), False, _ALL),
    SoakTarget("collect_preferences", ("collect_preferences", "--model={parents}/sft", f"--store={_STORE}", "--port=0",
        "--nobrowser", "--prompt_count=24", "--max_new=12", "--tries=6", "--second=1", "--cache_dir={here}/cache"),
        False, _ALL),
)  # fmt: skip


class Service(NamedTuple):
    """How a command is used: its address in what it prints, a client, and what its store holds."""

    ready: str  # a pattern, whose group is the port
    client: Callable[[int, Callable[[str], None]], None]  # (port, what to do with an acknowledgement)
    stored: str  # the SQL of what was acknowledged


def _complete(port: int, acknowledged: Callable[[str], None]) -> None:
    """Asks for one stored completion after another, until the server is gone."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as link:
        for i in range(10**6):
            body = {"messages": [{"role": "user", "content": f"Hi {i}"}], "model": "sft", "store": True}
            body |= {"max_tokens": 1 + i % 8, "metadata": {"use": "soak"}}
            link.request(
                "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            response = link.getresponse()
            text = response.read()
            if response.status != 200:
                raise RuntimeError(f"status {response.status}: {text[:300]!r}")
            acknowledged(json.loads(text)["id"])


def _annotate(port: int, acknowledged: Callable[[str], None]) -> None:
    """Votes on one item after another, until the page is gone or has none left."""
    cookie = ""

    def request(path: str, **fields: str) -> tuple[int, str]:
        nonlocal cookie
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as link:
            headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
            link.request("POST" if fields else "GET", path, urlencode(fields) if fields else None, headers)
            response = link.getresponse()
            if given := response.headers.get("set-cookie"):
                cookie = given.partition(";")[0]
            return response.status, response.read().decode()

    name = f"a{os.getpid()}"
    token = re.search(r'name="token" value="(\w+)"', request("/")[1])[1]
    request("/begin", token=token, name=name)
    while item := re.search(r'name="item" value="(\d+)"', (page := request("/")[1])):
        token = re.search(r'name="token" value="(\w+)"', page)[1]
        status, text = request("/vote", token=token, item=item[1], choice="first", reason="soak")
        if status != 303:
            raise RuntimeError(f"status {status}: {text[:300]!r}")
        acknowledged(f"{item[1]} {name}")


SERVICES: Mapping[str, Service] = {
    "serve": Service(r"^serving .* at http://[^:]+:(\d+)", _complete, "SELECT id FROM completions"),
    "collect_preferences": Service(r"^annotation page at http://[^:]+:(\d+)", _annotate,
        "SELECT item || ' ' || annotator FROM votes WHERE undone IS NULL"),
}  # fmt: skip


class RunningService:
    """A service that runs. `ended` is set where it ended before it was ready."""

    def __init__(self, place: Place, target: SoakTarget):
        self._place, self._target, self.ended = place, target, None
        place.log.unlink(missing_ok=True)
        self._pid = place.start(target)
        self.port = self._wait_until_ready()

    def _wait_until_ready(self) -> int:
        end = time.monotonic() + START
        while time.monotonic() < end:
            text = self._place.log.read_text(encoding="utf-8") if self._place.log.exists() else ""
            if found := re.search(SERVICES[self._target.name].ready, text, re.M):
                return int(found[1])
            if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.05)
        self.ended = self._place.processes.wait(self._pid, self._place.log, 0.1)
        return 0

    def use(self, acknowledged: Path) -> int:
        """A process of a client, which appends what was acknowledged to a file."""
        handle = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        client, port = SERVICES[self._target.name].client, self.port

        def use() -> None:
            with contextlib.suppress(ConnectionError, http.client.HTTPException):  # the fault, not a result
                client(port, lambda name: os.write(handle, f"{name}\n".encode()))

        pid = self._place.processes.fork(use, self._place.folder / "client.txt")
        os.close(handle)
        return pid

    def end(self, number: int) -> Ended:
        """Sends a signal, and waits for the end."""
        return self._place.processes.wait(
            self._pid, self._place.log, DRAIN, Injected(signals=[(0.0, number)])
        )


def prepare(place: Place, target: SoakTarget) -> Reference:
    """A store with acknowledged contents, and a cache with compiled programs. Raises Failure where that fails."""
    folder = place.folder / "targets" / target.name
    acknowledged, begun = folder / "acknowledged.txt", time.monotonic()
    if not (folder / "cache").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        place.clear(place.folder / "cache" if (place.folder / "cache").is_dir() else None)
        session = RunningService(place, target)
        if session.ended:
            raise Failure(f"{target.name} does not start: {described(session.ended)}")
        ended = _load(place, session, acknowledged, 2.0, signal.SIGTERM)
        if why := (described(ended) if ended.status else "") or lost(place, target, acknowledged):
            raise Failure(f"{target.name} without a fault: {why}")
        shutil.copytree(place.here / "run", folder / "run")
        shutil.move(place.here / "cache", folder / "cache")
    return Reference(folder, time.monotonic() - begun, {}, {}, {})


def _load(place: Place, session: RunningService, acknowledged: Path, seconds: float, number: int) -> Ended:
    """Two clients until a signal ends the service, which comes some seconds after the first acknowledgement."""
    clients = [session.use(acknowledged) for _ in range(2)]
    end = time.monotonic() + START
    while time.monotonic() < end and not (acknowledged.exists() and acknowledged.stat().st_size):
        time.sleep(0.01)
    time.sleep(seconds)
    ended = session.end(number)
    for client in clients:
        place.processes.wait(client, place.folder / "client.txt", DRAIN)
    return ended


def lost(place: Place, target: SoakTarget, acknowledged: Path) -> str:
    """What was acknowledged and is not in the store, or why the store cannot be read; empty: all is there."""
    names = set(acknowledged.read_text(encoding="utf-8").splitlines()) if acknowledged.exists() else set()
    try:
        with contextlib.closing(sqlite3.connect(place.here / "run" / "store.sqlite")) as db:
            (sound,) = db.execute("PRAGMA integrity_check").fetchone()
            there = {name for (name,) in db.execute(SERVICES[target.name].stored)}
    except sqlite3.Error as error:
        return f"the store cannot be read: {error}"
    if sound != "ok":
        return f"the store is damaged: {sound}"
    if not names:
        return f"nothing was acknowledged in {START:.0f} s"
    return f"{len(names - there)} of {len(names)} acknowledged are not in the store" if names - there else ""


def _under_load(attempt: Attempt, number: int, expected: tuple[int, ...]) -> tuple[str, str]:
    attempt.reset(cold=False)
    acknowledged = attempt.place.folder / "acknowledged.txt"
    acknowledged.unlink(missing_ok=True)
    session, seconds = RunningService(attempt.place, attempt.target), attempt.rng.uniform(*LOAD)
    if session.ended:
        return "start", described(session.ended)
    ended = _load(attempt.place, session, acknowledged, seconds, number)
    what = f"{seconds:.2f} s after the first acknowledgement"
    if ended.status not in expected or TRACEBACK in ended.output:
        return what, described(ended)
    if why := lost(attempt.place, attempt.target, acknowledged):
        return what, why
    again = RunningService(attempt.place, attempt.target)
    if again.ended:
        return what, f"the same command again: {described(again.ended)}"
    ended = again.end(signal.SIGTERM)
    if ended.status:
        return what, f"the same command again, at its end: {described(ended)}"
    return what, lost(attempt.place, attempt.target, acknowledged)


def kill(attempt: Attempt) -> tuple[str, str]:
    """kill -9 while clients wait for answers."""
    return _under_load(attempt, signal.SIGKILL, (128 + signal.SIGKILL,))


def sigterm(attempt: Attempt) -> tuple[str, str]:
    """SIGTERM while clients wait for answers."""
    return _under_load(attempt, signal.SIGTERM, (0,))


def _damaged(attempt: Attempt, damage: Callable[[Path], str]) -> tuple[str, str]:
    """Damages the store, and starts the command: it names the store, or serves what can be read."""
    attempt.reset(attempt.reference.folder / "run", cold=False)
    path = attempt.here / "run" / "store.sqlite"
    what = damage(path)
    session = RunningService(attempt.place, attempt.target)
    ended = session.ended or session.end(signal.SIGTERM)
    if why := unexplained(ended) or (TRACEBACK in ended.output and described(ended)):
        return what, why
    if ended.status and not named(ended, path, attempt.here):
        return what, f"the store is not named: {described(ended)}"
    return what, ""


def bit_flip(attempt: Attempt) -> tuple[str, str]:
    """One bit of the store."""

    def flip(path: Path) -> str:
        body = bytearray(path.read_bytes())
        place = attempt.rng.randrange(8 * len(body))
        body[place // 8] ^= 1 << place % 8
        path.write_bytes(body)
        return f"bit {place}"

    return _damaged(attempt, flip)


def truncation(attempt: Attempt) -> tuple[str, str]:
    """The store loses its end."""

    def truncate(path: Path) -> str:
        size = attempt.rng.randrange(path.stat().st_size)
        os.truncate(path, size)
        return f"all but {size} bytes"

    return _damaged(attempt, truncate)


FAULTS = (
    Fault(_ALL[0], kill, 4),
    Fault(_ALL[1], sigterm, 1),
    Fault(_ALL[2], bit_flip, 3),
    Fault(_ALL[3], truncation, 1),
)
