"""Runs of the commands: a tiny model, a small corpus, and caches that all of them share."""

import contextlib
import importlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from jaxtrain import flags as command_line
from jaxtrain.files import journal
from jaxtrain.train.metric_names import TIMES

ROOT = Path(__file__).parent.parent
MODEL = "tinytown-200k,layers=1,width=32,heads=2,ff=64"
SMALL = (
    f"--model={MODEL}", "--seq_len=32", "--batch_size=8", "--warmup=5", "--eval_batches=4", "--lr=0.02",
    "--tokenizer=bpe:300", "--eval_share=0.2",
)  # fmt: skip
CHILD = SMALL[1:5]  # without what a parent run brings
WORDS = "the ship went to sea and the old captain saw a white whale in the dark water by night".split()


def jsonl(path, records):
    """The records as a file; returns its name as a source of data."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return f"jsonl:{path}"


def write(path, texts, field="text"):
    return f"--data={jsonl(path, [{field: text} for text in texts])}"


def prose(count):
    return [
        " ".join(WORDS[(i * 7 + j * (1 + i % 3)) % len(WORDS)] for j in range(5 + i % 40))
        for i in range(count)
    ]


class Bench:
    """Where the runs of a module live."""

    def __init__(self, folder, cache=None):
        self.folder = folder
        self.corpus = write(folder / "corpus.jsonl", prose(300))
        self.cache = f"--cache_dir={cache or folder / 'cache'}"

    def start(self, *flags, stage="pretrain", devices=1, env=(), data=None, small=SMALL, prefix=()):
        """A stage's command as a process; `small` are flags that all commands have."""
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
            f"experiments.{stage}",
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

    def main(self, *flags, stage="pretrain", data=None, small=SMALL):
        """Runs the command in this process, which saves a start of Python; returns what it printed, errors first."""
        with quick():
            return call(stage, data or self.corpus, self.cache, *small, *flags)


def call(stage, *flags):
    """Runs a stage's command in this process; returns what it printed, errors first."""
    module = importlib.import_module(f"experiments.{stage}")
    cfg = command_line.from_flags(getattr(module, stage.title().replace("_", "")), list(flags))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        module.main(cfg)
    return err.getvalue() + out.getvalue()


def on_one_device(patch):
    """Has commands in this process run on one of its devices, while the MonkeyPatch holds."""
    import jax

    from jaxtrain.train import parallel

    make = parallel.make
    patch.setattr(parallel, "make", lambda run: make(run, jax.devices()[:1]))


@contextlib.contextmanager
def quick():
    """Runs in this process on one device, with little optimised; what is compiled is kept for the next run."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    kept = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in kept}
    with pytest.MonkeyPatch.context() as patch:
        on_one_device(patch)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_disable_most_optimizations", True)  # jax may be imported only now
        compilation_cache.reset_cache()  # jax decides at its first program whether it keeps any
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


@contextlib.contextmanager
def killed_in_the_second_batch():
    """A journal whose second batch is the last that is whole: what follows is half a line. Expects the kill."""
    add = journal.Journal.add

    def killed(self, batch):
        add(self, batch)
        if len(self.batches) == 2:
            with self._path.open("ab") as file:
                file.write(b'{"rows": [{"pro')
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal.Journal, "add", killed)
        yield


class Town:
    """A tiny model of Tinytown, `base`, one fine-tuned from it, `sft`, and the commands that go on from them.

    Every run has a name, that of its folder.
    """

    SFT = (
        "--steps=16", "--checkpoint_every=6", "--keep=9", "--sample_every=8", "--eval_every=4", "--lr=0.01",
        "--neftune=5",
    )  # fmt: skip
    LORA = ("--steps=8", "--checkpoint_every=5", "--keep=9", "--lr=0.02", "--lora_rank=2", "--lora_alpha=4")
    SMALL = (
        "--seq_len=48", "--batch_size=8", "--warmup=2", "--eval_batches=2", "--prompt_count=8", "--max_new=12",
        "--log_every=1",
    )  # fmt: skip
    DATA: ClassVar = {
        "sft": "tinytown:sft?documents=200&held_out=40",
        "reward": "tinytown:preferences?documents=96&held_out=24",
        "dpo": "tinytown:preferences?documents=96&held_out=24",
        "ppo": "tinytown:prompts?documents=64",
        "grpo": "tinytown:prompts?documents=64",
    }

    def __init__(self, folder):
        self.folder, self.cache = folder, f"--cache_dir={folder / 'cache'}"
        self.said, self.commands = {}, {}
        with quick():
            self.said["base"] = call(
                "pretrain", "--data=tinytown:pretrain?documents=300&held_out=40", f"--model={MODEL}", self.cache,
                "--tokenizer=bpe:400", "--steps=40", "--lr=0.02", f"--workdir={self / 'base'}",
                "--eval_batches=1", "--seq_len=64", "--batch_size=8", "--warmup=5",
            )  # fmt: skip
        self.run("sft", "sft", *self.SFT, start="base")

    def __truediv__(self, name):
        return self.folder / name

    def flags(self, stage, *flags, start="sft", data=None):
        """A command's flags; `start` is the name of a run, or what --init_from takes."""
        source = self / start if start and (self / start).exists() else start
        return (
            f"--data={data or self.DATA[stage]}",
            f"--init_from={source}",
            self.cache,
            *self.SMALL,
            *flags,
        )

    def run(self, stage, name, *flags, **options):
        """Runs the command in this process, or says again what it said; returns the run's folder."""
        workdir, command = self / name, (stage, flags, options)
        if name not in self.said:
            with quick():
                self.said[name] = call(stage, *self.flags(stage, f"--workdir={workdir}", *flags, **options))
            self.commands[name] = command
        assert self.commands[name] == command, f"a run of another test has the name {name} and other flags"
        return workdir

    def again(self, stage, name, *flags, **options):
        """Runs the command once more over the run that is there; returns what it says."""
        with quick():
            return call(stage, *self.flags(stage, f"--workdir={self / name}", *flags, **options))

    def resumed(self, stage, name, step, *flags, **options):
        """Goes on from a step of a finished run in a copy of it: what a run killed after it would do."""
        copy = self / f"{name}-resumed"
        shutil.copytree(self / name, copy)
        for later in (copy / "checkpoints").iterdir():
            if later.name.isdecimal() and int(later.name) > step:
                shutil.rmtree(later)
        said = self.again(stage, copy.name, *flags, **options)
        assert f"resuming from step {step} " in said
        return copy


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    return Town(tmp_path_factory.mktemp("town"))


def free_port_number():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def in_two_processes(code, argument, timeout=400, **environment):
    """Runs Python code with one argument in two processes of two devices, which join as the environment says."""
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu",
        "JAXTRAIN_COORDINATOR": f"127.0.0.1:{free_port_number()}", "JAXTRAIN_NUM_PROCESSES": "2", **environment,
    }  # fmt: skip
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(argument)],
            env={**env, "JAXTRAIN_PROCESS_ID": str(i)}, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=timeout)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(errors)


@pytest.fixture
def free_port():
    return free_port_number()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The cache of all modules: a program that two of them run is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bench(tmp_path_factory, compiled):
    """A folder of the module's own: modules that give their runs the same name may follow each other in one process."""
    return Bench(tmp_path_factory.mktemp("runs"), compiled)


def rows(workdir):
    """metrics.jsonl without what differs between two runs of one command."""
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def column(workdir, name):
    return [row[name] for row in rows(workdir) if name in row]


def same_arrays(one, other, step):
    """The paths of all arrays of two runs' checkpoints, which must be the same to the bit."""
    import numpy as np

    wanted, found = arrays(one, step), arrays(other, step)
    assert wanted.keys() == found.keys()
    for path, value in wanted.items():
        assert np.array_equal(value, found[path]), path
    return wanted


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


@pytest.fixture(scope="session")
def adapted(town):
    """A run that trained adapters over `sft`."""
    return town.run("sft", "lora", *town.LORA)
