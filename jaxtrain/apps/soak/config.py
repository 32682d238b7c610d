"""Flags of the soak."""

import dataclasses

from jaxtrain import config

EXTRA = "install the extra: pip install 'jaxtrain[soak]', or launch/soak, which does"


@dataclasses.dataclass(frozen=True)
class SoakFlags(config.Group):
    # fmt: off
    minutes: float = config.arg(60.0, "Minutes of faults; the undisturbed runs before them do not count",
        low=0)
    stages: str = config.arg("", "Commands to attack, joined by commas; empty: all")
    faults: str = config.arg("", "Faults, joined by commas; empty: all")
    seed: int = config.arg(0, "Seed of which fault comes when, and where it strikes", low=0)
    attempts: int = config.arg(0, "Most faults; 0: as many as fit into --minutes", low=0)
    only: str = config.arg("", "Repeat one fault: STAGE:FAULT:NUMBER, as the table names it")
    records: int = config.arg(50_000, "Malformed records that are read; 0: none", low=0)
    requests: int = config.arg(20_000, "Malformed requests that a server gets; 0: none", low=0)
    workdir: str = config.arg("runs/soak", "Folder for soak.json, the undisturbed runs, and what did not hold")
    # fmt: on

    def names(self, flag: str) -> list[str]:
        """The parts of --stages or --faults."""
        return config.listed(getattr(self, flag))


@dataclasses.dataclass(frozen=True)
class Soak:
    soak: SoakFlags = config.group(SoakFlags)
