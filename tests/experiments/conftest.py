"""Runs of the pretraining command: a tiny model, a small corpus, and caches that all of them share."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.pretrain import Pretrain, main
from jaxtrain import flags as command_line
from jaxtrain.train.metrics import TIMES

ROOT = Path(__file__).parent.parent.parent
MODEL = "tinytown-200k,layers=1,width=32,heads=2,ff=64"
SMALL = (
    f"--model={MODEL}", "--seq_len=32", "--batch_size=8", "--warmup=5", "--eval_batches=4", "--lr=0.02",
    "--tokenizer=bpe:300", "--eval_share=0.2",
)  # fmt: skip
CHILD = SMALL[1:5]  # without what a parent run brings
WORDS = "the ship went to sea and the old captain saw a white whale in the dark water by night".split()


def write(path, texts, field="text"):
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return f"--data=jsonl:{path}"


def prose(count):
    return [
        " ".join(WORDS[(i * 7 + j * (1 + i % 3)) % len(WORDS)] for j in range(5 + i % 40))
        for i in range(count)
    ]


class Bench:
    """Where the runs of a module live."""

    def __init__(self, folder):
        self.folder = folder
        self.corpus = write(folder / "corpus.jsonl", prose(300))
        self.cache = f"--cache_dir={folder / 'cache'}"

    def start(self, *flags, devices=1, env=(), data=None, small=SMALL, prefix=()):
        """The command as a process; `small` are flags that all commands have."""
        made = {
            "PYTHONPATH": str(ROOT),
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **dict(env),
        }
        command = [
            sys.executable,
            "-P",
            "-m",
            "experiments.pretrain",
            data or self.corpus,
            self.cache,
            *small,
        ]
        return subprocess.Popen(
            [*prefix, *command, *flags], env={**os.environ, **made}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8"
        )  # fmt: skip

    def run(self, *flags, status=0, quiet=True, **options):
        """Runs the command to its end; returns what it printed, errors first."""
        with self.start(*flags, **options) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == status, out + err
        assert not (quiet and "Traceback" in err), err
        return err + out

    def main(self, *flags, data=None, small=SMALL):
        """Runs the command in this process."""
        main(command_line.from_flags(Pretrain, [data or self.corpus, self.cache, *small, *flags]))


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("runs"))


def rows(workdir):
    """metrics.jsonl without what differs between two runs of one command."""
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def column(workdir, name):
    return [row[name] for row in rows(workdir) if name in row]


def arrays(workdir, step):
    """Every array of a checkpoint, by path."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    folder = Path(workdir) / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = reader.metadata(folder).item_metadata
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
        tree = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=args))
    flat = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}
