"""Checks in processes of their own: results in order, and whatever a check does, the next one has a process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxtrain.rewards import checker_processes
from jaxtrain.rewards.checker_processes import run

HERE = "tests.rewards.test_checker_processes"


def check(do, value=None):
    """What a process of a checker_worker runs in these tests."""
    match do:
        case "return":
            return value
        case "raise":
            raise ValueError(value)
        case "exit":
            os._exit(3)
        case "print":
            print("not a result", flush=True)
            return value
        case "sleep":
            time.sleep(1000)
        case "sleep blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(1000)
        case "compute":
            return pow(3, 10**9, 10**400 + 1) % 2 + len(str(7 ** (10**8)))
        case "memory":
            return len(bytearray(1 << 40))
        case "secrets":
            return [name for name in os.environ if "SECRET" in name]


def test_results_are_in_order_and_faults_are_of_their_own_request(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "1")
    monkeypatch.setattr(checker_processes, "GRACE", 0.5)
    requests = [{"do": "return", "value": i} for i in range(20)]
    requests[3] = {"do": "raise", "value": "of 3"}
    requests[5] = {"do": "exit"}
    requests[7] = {"do": "print", "value": 7}
    requests[9] = {"do": "sleep"}
    requests[11] = {"do": "sleep blocked"}
    requests[13] = {"do": "memory"}
    requests[15] = {"do": "secrets"}
    results = run(HERE, requests, 0.5)
    wanted = {3: None, 5: None, 9: None, 11: None, 13: None, 15: []}
    assert [one.value for one in results] == [wanted.get(i, i) for i in range(20)]
    faults = {i: one.fault for i, one in enumerate(results) if one.fault}
    assert faults == {3: "failed", 5: "failed", 9: "timed_out", 11: "timed_out", 13: "failed"}
    assert results[3].detail == "ValueError: of 3" and "exit status 3" in results[5].detail


def test_a_process_that_ended_while_it_waited_is_replaced():
    assert run(HERE, [{"do": "return", "value": 1}], 5)[0].value == 1
    waiting = checker_processes._idle(HERE)
    process = waiting.get_nowait()
    process.popen.kill()
    process.popen.wait()
    waiting.put(process)
    assert run(HERE, [{"do": "return", "value": 2}], 5)[0] == (2, "", "")


def test_a_computation_that_no_signal_interrupts_is_ended_by_the_kernel():
    result = run(HERE, [{"do": "compute"}], 0.2)[0]
    assert result.fault == "timed_out"


def test_no_process_is_left_when_the_program_ends():
    program = (
        "from jaxtrain.rewards import checker_processes as c\n"
        f"print(c.run({HERE!r}, [dict(do='return', value=1)], 5)[0].value)\n"
        f"print(c._idle({HERE!r}).get_nowait().popen.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    value, pid = done.stdout.split()
    assert value == "1"
    for _ in range(200):  # it reads the end of its input
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the process outlives its program")
