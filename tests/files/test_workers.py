"""Worker processes: what they return and raise, and how they end."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.files.workers import Worker

CHILD = """
import os, time
from jaxtrain.files.workers import Worker
worker = Worker()
worker.call(os.getpid)
print(worker.pid, flush=True)
worker.call(time.sleep, 60)
"""
PRINTS = """
from jaxtrain.files.workers import Worker
worker = Worker()
print(worker.call(print, "aside"), worker.call(abs, -1))
"""


@pytest.fixture
def worker():
    one = Worker({"WORD": "hello"}, niceness=1)
    yield one
    one.close()


def test_a_worker_is_another_process_with_its_own_environment(worker):
    assert worker.fresh
    assert worker.call(os.getpid) == worker.pid != os.getpid()
    assert worker.call(os.getenv, "WORD") == "hello" and os.getenv("WORD") is None
    assert not worker.fresh and worker.call(os.nice, 0) == os.nice(0) + 1, "the niceness is added once"
    assert worker.call(eval, "'jax' in __import__('sys').modules") is False


def test_what_a_function_raises_is_raised_here_and_the_worker_goes_on(worker):
    with pytest.raises(ZeroDivisionError) as found:
        worker.call(divmod, 1, 0)
    assert "In a worker process" in found.value.__notes__[0]
    with pytest.raises(ConfigError, match=r"^--data: wrong$") as found:
        worker.call(exec, "from jaxtrain.config import ConfigError; raise ConfigError('--data: wrong')")
    assert not getattr(found.value, "__notes__", ()), "its words are all that the user needs"
    with pytest.raises(Failure, match="Odd: words"):  # a class that cannot be sent
        worker.call(exec, "class Odd(Exception): pass\nraise Odd('words')")
    assert worker.call(abs, -1) == 1


def test_what_a_function_prints_does_not_mix_with_its_answers():
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("None 1\n", "aside\n")


def test_a_killed_worker_is_a_failure(worker):
    with pytest.raises(Failure, match="killed or could not start"):
        worker.call(exec, "import os; os.kill(os.getpid(), 9)")


def test_a_worker_ends_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    time.sleep(0.2)  # within its call
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    until = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < until
        time.sleep(0.05)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
