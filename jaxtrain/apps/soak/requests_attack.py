"""The attack on `serve`: a server process, thousands of requests, kill -9, and what is left on the disk."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jaxtrain.apps.soak import targets
from jaxtrain.apps.soak.outcome import Outcome
from jaxtrain.apps.soak.request_faults import Address, attack_server
from jaxtrain.config import Failure
from jaxtrain.data import completions_db
from jaxtrain.inference import config

_KEY = "the key of an attack"
_START_SECONDS, _END_SECONDS = 600.0, 60.0
_DATA = "--data=tinytown:pretrain?documents=96&held_out=24"


def attack(count: int, seed: int) -> list[Outcome]:
    """The outcomes of about `count` requests to a server of a tiny model, which is killed at the end.

    Raises Failure where no server starts, ConfigError without the extra `soak`.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        _command(here, "pretrain", _DATA, f"--model={targets.MODEL}", "--tokenizer=bpe:400", "--seq_len=48",
                 "--steps=2", "--warmup=1", "--batch_size=8", f"--workdir={here / 'run'}")  # fmt: skip
        with _server(here) as (process, url):
            outcomes, stored = attack_server(Address(url, _KEY), count, seed)
            alive = process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait(_END_SECONDS)
        log = (here / "log.txt").read_text(errors="replace")
        return [*outcomes, _alive(alive, log, seed), _on_disk(here / "store.sqlite", stored, seed)]


def _alive(alive: bool, log: str, seed: int) -> Outcome:
    """Whether the process lived until it was killed, and logged no traceback."""
    lines = log.splitlines()
    traces = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    why = "" if alive else "the process ended"
    if traces:
        why = f"{len(traces)} tracebacks in its log, the first: {' | '.join(lines[traces[0] : traces[0] + 40])[-1000:]}"
    return Outcome("the server process", 1, int(not why), why or f"seed {seed}")


def _on_disk(store: Path, stored: set[str], seed: int) -> Outcome:
    """Whether all completions that the server said it stored are in the store after kill -9."""
    import json

    with contextlib.closing(completions_db.connect(store)) as db:
        found = {json.loads(body)["id"] for body in completions_db.bodies(db)}
    lost = sorted(stored - found)
    detail = f"seed {seed}" + (f", lost {lost[:3]}" if lost else "")
    return Outcome("stored completions, kill -9", len(stored), len(stored) - len(lost), detail)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[3])
    own = {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", config.KEY: _KEY,
           "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # fmt: skip
    return {**os.environ, **own}


def _arguments(here: Path, name: str, *flags: str) -> list[str]:
    return [sys.executable, "-P", "-m", f"experiments.{name}", f"--cache_dir={here / 'cache'}", *flags]


def _command(here: Path, name: str, *flags: str) -> None:
    done = subprocess.run(
        _arguments(here, name, *flags), env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failure(f"{name} ended with status {done.returncode}: {done.stderr[-500:]}")


@contextlib.contextmanager
def _server(here: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server of {here}/run, and its URL; it is killed at the end."""
    log = here / "log.txt"
    flags = (f"--model={here / 'run'}", f"--store={here / 'store.sqlite'}", "--template=plain", "--name=soak",
             "--port=0", "--rows=4", "--context=128")  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(
            _arguments(here, "serve", *flags), env=_environment(), stdout=out, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + _START_SECONDS
        while not (found := [line for line in log.read_text().splitlines() if line.startswith("serving ")]):
            if process.poll() is not None or time.monotonic() > until:
                raise Failure(f"the server did not start: {log.read_text()[-500:]}")
            time.sleep(0.1)
        yield process, found[0].split(" at ")[1].split("/v1,")[0]
    finally:
        process.kill()
        process.wait()
