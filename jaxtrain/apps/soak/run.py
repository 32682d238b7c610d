"""The whole soak: malformed records and requests, then faults of commands, and the table of all."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from jaxtrain.apps.soak import campaign, warm
from jaxtrain.apps.soak.attempt import Result
from jaxtrain.apps.soak.config import EXTRA, SoakFlags
from jaxtrain.apps.soak.outcome import Outcome
from jaxtrain.apps.soak.reference import Place
from jaxtrain.config import ConfigError, Failure
from jaxtrain.files import atomic, paths

LONGEST = 4 * 3600.0  # seconds of all malformed records, and of all malformed requests


def run(flags: SoakFlags) -> bool:
    """Attacks what the flags name, prints the table, writes soak.json; whether everything held.

    Ctrl-C and SIGTERM end it after the fault under way, with the table so far; no process survives it. Raises
    ConfigError for names that are not known, and KeyboardInterrupt after a stop in which everything held.
    """
    _check_packages(flags)
    folder = paths.absolute(Path(flags.workdir).expanduser())
    folder.mkdir(parents=True, exist_ok=True)
    print("importing everything once ...", flush=True)
    warm.load()
    results: list[Result] = []
    malformed: list[Outcome] = []
    with warm.interruptible() as stopping, warm.Processes() as processes:
        place = Place(folder, processes)
        try:
            for name, attack in {"records": _records, "requests": _requests}.items():
                count = getattr(flags, name)
                if count and not flags.only and not stopping():
                    print(f"{count:,} malformed {name} ...", flush=True)
                    malformed += _attacked(
                        place, name, lambda attack=attack, count=count: attack(count, flags.seed)
                    )
            campaign.run(flags, place, results, stopping, lambda text: print(text, flush=True))
        finally:
            rows = [*campaign.outcomes(results, flags.seed), *malformed]
            campaign.write(results, flags, place, malformed)
            print(campaign.table(rows, results), flush=True)
            print(f"{folder / campaign.REPORT} has every injection", flush=True)
        held = all(row.held == row.times for row in rows)
        if held and stopping():
            raise KeyboardInterrupt
    return held


def _check_packages(flags: SoakFlags) -> None:
    """Raises ConfigError where an attack that the flags name needs a package that is not installed."""
    needs = {"records": ("hypothesis",), "requests": ("hypothesis", "schemathesis")}
    for name, packages in needs.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if getattr(flags, name) and not flags.only and missing:
            raise ConfigError(
                f"--{name}={getattr(flags, name)} needs {' and '.join(missing)}; {EXTRA}; or --{name}=0"
            )


def _records(count: int, seed: int) -> list[Outcome]:
    from jaxtrain.apps.soak import records

    return records.attack(count, seed)


def _requests(count: int, seed: int) -> list[Outcome]:
    from jaxtrain.apps.soak import requests_attack

    return requests_attack.attack(count, seed)


def _attacked(place: Place, name: str, attack: Callable[[], list[Outcome]]) -> list[Outcome]:
    """The rows of an attack, which runs in a fork. Raises Failure, with its last line, where it fails."""
    out, log = place.folder / f"{name}.json", place.folder / f"{name}.txt"
    log.unlink(missing_ok=True)
    status = place.processes.call(lambda: atomic.write_text(out, json.dumps(attack())), log, LONGEST)
    if status != 0:
        last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise Failure(f"the attack with malformed {name} ended with status {status}: {last} ({log} has all)")
    return [Outcome(*row) for row in json.loads(out.read_text(encoding="utf-8"))]
