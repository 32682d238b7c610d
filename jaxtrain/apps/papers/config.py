"""Flag groups of ./launch/run papers.NAME and papers.all."""

import dataclasses

from jaxtrain import config

SIZES = ("cpu", "gpu")


@dataclasses.dataclass(frozen=True)
class TrialSeeds(config.Group):
    """What one experiment and all of them share."""

    # fmt: off
    size: str = config.arg("cpu", "cpu: minutes on two cores; gpu, where an experiment has it: 10M to 150M parameters, "
        "minutes on one H100", choices=SIZES)
    seeds: int = config.arg(3, "Seeds that a verdict is of, --first_seed and those after it", low=1)
    first_seed: int = config.arg(0, "The first seed", low=0)
    jobs: int = config.arg(0, "Seeds at once; 0: 2 on a CPU, 1 on an accelerator", low=0)
    cache_dir: str = config.arg(config.CACHE_DIR, "Where prepared data sets and compiled programs are kept")
    # fmt: on


@dataclasses.dataclass(frozen=True)
class PaperTrial(TrialSeeds):
    # fmt: off
    workdir: str = config.arg("auto", "Folder of the seeds' results, result.json and the figure; the same command "
        "resumes. auto: runs/papers/NAME")
    shared: str = config.arg("runs/papers/shared", "Folder of the training runs, which experiments share")
    # fmt: on


@dataclasses.dataclass(frozen=True)
class GalleryFlags(TrialSeeds):
    # fmt: off
    workdir: str = config.arg("runs/papers", "Folder of the experiments' folders and papers.html; the same command "
        "resumes")
    only: str = config.arg("", "Experiments to run, separated by commas; empty: all")
    render: bool = config.arg(False, "Run nothing; write the pages from the results that are there")
    docs: str = config.arg("", "Also write the table and the figures into this folder of documentation, as papers.md")
    # fmt: on
