"""The whole soak: the attacks in forks, and what becomes of their rows."""

import importlib.util
import json

import pytest

from jaxtrain.apps.soak import campaign, run, warm
from jaxtrain.apps.soak.attempt import Result
from jaxtrain.apps.soak.config import SoakFlags
from jaxtrain.apps.soak.outcome import Outcome
from jaxtrain.config import ConfigError, Failure


class FakeProcesses:
    """Functions run in this process instead of a fork."""

    status = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def call(self, function, log, seconds=0.0):
        function()
        log.write_text("a line\nthe last line\n")
        return self.status


@pytest.fixture
def nothing_real(monkeypatch):
    """No imports, no forks, no faults; returns the results that the faults give."""
    results = []
    monkeypatch.setattr(warm, "load", lambda: None)
    monkeypatch.setattr(warm, "Processes", FakeProcesses)
    monkeypatch.setattr(run, "_records", lambda count, seed: [Outcome("records", count, count - seed, "r")])
    monkeypatch.setattr(run, "_requests", lambda count, seed: [Outcome("requests", count, count, "q")])

    def attack(flags, place, found, stopping, say):
        found += results
        if flags.attempts == 99:
            raise Failure("no reference")

    monkeypatch.setattr(campaign, "run", attack)
    return results


def flags(folder, **options):
    return SoakFlags(workdir=str(folder), **{"records": 0, "requests": 0, **options})


@pytest.mark.parametrize(
    ("options", "why", "held"),
    [
        ({}, "", True),
        ({}, "it differs", False),
        ({"records": 5}, "", True),
        ({"records": 5, "seed": 1}, "", False),
        ({"records": 5, "seed": 1, "only": "x"}, "", True),
        ({"requests": 7}, "", True),
    ],
)
def test_all_must_hold(tmp_path, nothing_real, capsys, options, why, held):
    nothing_real.append(Result("ppo", "bit flip", 1, "bit 1", why))
    given = flags(tmp_path, **options)
    assert run.run(given) is held
    table = json.loads((tmp_path / "soak.json").read_text())["table"]
    counted = [row["fault"] for row in table]
    wanted = [name for name in ("records", "requests") if options.get(name) and not given.only]
    assert counted == ["bit flip, ppo", *wanted]
    assert "in all" in capsys.readouterr().out


def test_what_was_found_is_written_where_the_soak_fails(tmp_path, nothing_real):
    nothing_real.append(Result("ppo", "bit flip", 1, "bit 1", ""))
    with pytest.raises(Failure, match="no reference"):
        run.run(flags(tmp_path, attempts=99))
    assert len(json.loads((tmp_path / "soak.json").read_text())["injections"]) == 1


@pytest.mark.parametrize(("attack", "package"), [("records", "hypothesis"), ("requests", "schemathesis")])
def test_a_package_that_is_missing_is_named_at_the_start(
    tmp_path, nothing_real, monkeypatch, attack, package
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ConfigError, match=rf"--{attack}=5 needs {package}; .*jaxtrain\[soak\].*--{attack}=0"):
        run.run(flags(tmp_path / "soak", **{attack: 5}))
    assert not (tmp_path / "soak").exists()
    assert run.run(flags(tmp_path / "soak"))


def test_an_attack_that_fails_is_no_attack_that_held(tmp_path, nothing_real, monkeypatch):
    monkeypatch.setattr(FakeProcesses, "status", 1)
    with pytest.raises(Failure, match=r"malformed records ended with status 1: the last line"):
        run.run(flags(tmp_path, records=5))
