"""What Orbax prints of a failure is kept for a file; what anything else prints is not touched."""

import subprocess
import sys

from jaxtrain.train import orbax_errors

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
