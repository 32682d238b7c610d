"""Child processes end with what started them, whatever they do."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxtrain.files.processes import ChildProcesses
from tests.runs import ROOT

CHILD = "import signal, sys, time; signal.signal(15, {}); print('up', flush=True); time.sleep(900)"
SAVES, HANGS = CHILD.format("lambda *_: sys.exit(print('saved'))"), CHILD.format("signal.SIG_IGN")


@pytest.mark.parametrize(("code", "said"), [(SAVES, "up\nsaved\n"), (HANGS, "up\n")])
def test_what_is_under_way_is_stopped_and_nothing_else_starts(tmp_path, code, said):
    results, log = [], tmp_path / "log"

    def work(running):
        with log.open("w") as out:
            results.append(running.call([sys.executable, "-c", code], stdout=out))
        results.append(
            running.call([sys.executable, "-c", "raise SystemExit('it starts')"], stderr=subprocess.DEVNULL)
        )

    running = ChildProcesses(60.0 if code == SAVES else 0.2)
    thread = threading.Thread(target=work, args=(running,))
    with pytest.raises(KeyError), running:
        thread.start()
        while log.stat().st_size < 3 if log.exists() else True:
            time.sleep(0.01)
        raise KeyError
    thread.join(60)
    assert results == [143, 143] and log.read_text() == said


def test_a_command_that_ends_by_itself():
    with ChildProcesses(1.0) as running:
        assert running.call([sys.executable, "-c", "raise SystemExit(7)"]) == 7


FAMILY = """
import sys, time
from jaxtrain import signals
from jaxtrain.files import processes
if sys.argv[1:]:
    signals.end_with_parent()
    print("up", flush=True)
    time.sleep(900)
with processes.ChildProcesses(60.0) as running:
    running.call([sys.executable, __file__, "child"])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=str)
def test_a_child_ends_where_its_parent_is_killed(tmp_path, number):
    file = tmp_path / "family.py"
    file.write_text(FAMILY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, file], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"up\n"
        parent.send_signal(number)
        # The child has the pipe, too: it ends when the child has ended.
        assert parent.stdout.read() == b""
