"""Runs experiments one after the other, each as its own command."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jaxtrain.apps.papers import gallery
from jaxtrain.apps.papers.config import SIZES, GalleryFlags
from jaxtrain.apps.papers.verdicts import Paper
from jaxtrain.files import locks, processes

LOCK, LOGS, SHARED = "lock", "logs", "shared"


def run(options: GalleryFlags, papers: Sequence[Paper], root: Path) -> list[str]:
    """Runs the experiments; returns the names of those that failed. papers.html is written anew after each."""
    failed = []
    with locks.exclusive(root / LOCK, root), processes.ChildProcesses() as children:
        (root / LOGS).mkdir(exist_ok=True)
        for i, paper in enumerate(papers, 1):
            started = time.monotonic()
            print(f"{i} of {len(papers)}  {paper.name}: {paper.title}", flush=True)
            log = root / LOGS / f"{paper.name}.log"
            with log.open("a", encoding="utf-8") as out:
                status = children.call(_command(options, paper, root), stdout=out, stderr=subprocess.STDOUT)
            minutes = (time.monotonic() - started) / 60
            if status:
                failed.append(paper.name)
                print(f"  failed with status {status} after {minutes:.1f} min: {log}", flush=True)
                continue
            (entry,) = gallery.read(root, [paper])
            print(f"  {entry['result']['verdict']}, {minutes:.1f} min", flush=True)
            gallery.write_page(root, gallery.read(root, papers))
    return failed


def _command(options: GalleryFlags, paper: Paper, root: Path) -> list[str]:
    size = options.size if options.size in paper.sizes else SIZES[0]
    return [
        sys.executable, "-P", "-m", f"experiments.papers.{paper.name}", f"--workdir={root / paper.name}",
        f"--shared={root / SHARED}", f"--size={size}", f"--seeds={options.seeds}",
        f"--first_seed={options.first_seed}", f"--jobs={options.jobs}", f"--cache_dir={options.cache_dir}",
    ]  # fmt: skip
