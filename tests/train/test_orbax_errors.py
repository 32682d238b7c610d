"""What Orbax prints of a failure is kept for a file; what anything else prints is not touched."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from jaxtrain.signals import SIGTERM, Stopped
from jaxtrain.train import checkpoint, orbax_errors

CHILD = """
import gc, threading
from jaxtrain.train import orbax_errors
orbax_errors.collect()

class Raises:
    def __del__(self):
        raise ValueError(f"in {threading.current_thread().name}")

def coroutine_of(path):
    names = {}
    exec(compile('''
async def read():
    try:
        await waiting
    finally:
        raise ValueError("of a read")
''', path, "exec"), names)
    class Waiting:
        def __await__(self):
            yield
    names["waiting"] = Waiting()
    reading = names["read"]()
    reading.send(None)
    return reading

for path in ("/x/orbax/serialization.py", "/x/mine.py"):
    one = coroutine_of(path)
    del one
thread = threading.Thread(target=Raises, name="another thread")
thread.start(), thread.join()
Raises()
gc.collect()
print(*orbax_errors._printed, sep="\\n")
"""


def test_what_orbax_leaves_behind_is_kept_and_the_rest_is_printed():
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert done.stdout.count("of a read") == 1 and done.stdout.count("in another thread") == 1
    assert "in MainThread" in done.stderr and "in MainThread" not in done.stdout
    assert done.stderr.count("of a read") == 1 and "in another thread" not in done.stderr


def test_the_tracebacks_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_errors, "_printed", ["one", "two"])
    where, traces = orbax_errors.write(tmp_path)
    assert str(tmp_path / orbax_errors.FILE) in where and traces == ""
    assert (tmp_path / orbax_errors.FILE).read_text() == "one\ntwo"
    assert orbax_errors.write(tmp_path) == ("", "")
    orbax_errors._printed.append("three")
    assert orbax_errors.write(tmp_path / "none") == ("", "three"), "no file could be written"


@pytest.mark.parametrize("name", ["save", "restore"])
def test_a_signal_that_orbax_makes_an_error_of_is_the_signal(tmp_path, monkeypatch, name):
    """Orbax raises Exception from whatever is raised while it reads an array."""

    def stopped(*_, **__):
        raise ValueError("Encountered error while reading") from Stopped(SIGTERM)

    tree = {"w": jnp.ones(2)}
    with checkpoint.Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, tree, {})
    monkeypatch.setattr(ocp.CheckpointManager if name == "save" else ocp.Checkpointer, name, stopped)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
    checkpoints = checkpoint.Checkpoints(tmp_path, 1)
    with pytest.raises(Stopped):
        checkpoints.save(2, tree, {}) if name == "save" else checkpoints.restore(abstract)
    assert checkpoints.steps() == [1]
