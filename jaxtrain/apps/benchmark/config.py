"""Flags of the GPU check."""

import dataclasses
from pathlib import Path

from jaxtrain import config
from jaxtrain.apps.benchmark.parts import PARTS
from jaxtrain.config import ConfigError

OUT, PAGE = "docs/results_gpu.json", "docs/speed.md"


@dataclasses.dataclass(frozen=True)
class GpuCheck(config.Group):
    # fmt: off
    out: str = config.arg(OUT, "File of the results (JSON). Parts that this run leaves out stay as they are in it")
    page: str = config.arg(PAGE, "Page whose section about GPUs is written from them; empty: none")
    seconds: int = config.arg(480, "Time for everything. Parts for which it does not suffice are shortened or left "
        "out. 0: measure nothing, write the page alone", low=0)
    parts: str = config.arg("all", f"What to measure, joined by +, in this order: {', '.join(PARTS)}")
    tiny: bool = config.arg(False, "Sizes that a CPU can run, to try the check itself; needs another --out")
    compiled: str = config.arg(config.CACHE_DIR, "Folder in which compiled programs are stored for the next run")
    # fmt: on

    def check(self):
        unknown = [name for name in self.names() if name not in PARTS]
        if unknown:
            raise ConfigError(f"--parts={self.parts}: no part {unknown[0]!r}; one of {', '.join(PARTS)}")
        if self.tiny and Path(self.out) == Path(OUT):
            raise ConfigError(f"--tiny: its numbers do not belong in {OUT}; name another file by --out")
        if self.tiny and self.page and Path(self.page) == Path(PAGE):
            raise ConfigError(f"--tiny: its numbers do not belong in {PAGE}; add --page=")

    def names(self) -> list[str]:
        """The parts to measure, in order."""
        return list(PARTS) if self.parts == "all" else self.parts.split("+")
