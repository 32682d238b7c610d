"""The processes of a sandbox end with whoever started it."""

import os
import subprocess
import sys
import time
import uuid

import pytest

from jaxtrain.rewards.sandbox import process
from tests.rewards.sandbox.test_escapes import processes

PROGRAM = """
import sys
from jaxtrain.rewards.sandbox import launcher, runner
launcher.MAIN += " # " + sys.argv[1]
code = "def f():\\n    open('started', 'w').close()\\n    while True: pass"
runner.run(runner.Job(code, ("f()",)), runner.Limits(seconds=600))
"""


def until(condition, seconds=60):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to pass")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_sandbox_ends_with_the_process_that_started_it(tmp_path):
    marker = f"marker-{uuid.uuid4()}"
    starter = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, marker], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    until(lambda: len(processes(marker)) >= 5)  # the starter, the launcher, and three of the sandbox
    starter.kill()
    starter.wait()
    until(lambda: not processes(marker))


def test_children_are_those_of_this_process():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.pid in process._children() and os.getpid() not in process._children()
    child.communicate(b"\n")
    assert child.pid not in process._children()
