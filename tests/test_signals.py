"""What a signal does to a command, in processes of their own: launched as all commands are."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = """
import dataclasses, hashlib, sys, time
from jaxtrain import config, flags, signals

@dataclasses.dataclass(frozen=True)
class Command:
    run: config.Run = config.group(config.Run)

def main(cfg):
    with signals.explaining(lambda: "step 7 is saved"):
        {body}

flags.launch(Command, main, "command", grace=0.5)
"""
WAIT = "print('up', flush=True); time.sleep(900)"
ENDLESS = (
    "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"  # C code, during which no handler of Python's runs
)
# Says that it is up from another thread, once the main thread is in that code.
UP_IN_C = f"import threading; threading.Timer(0.5, lambda: print('up', flush=True)).start(); {ENDLESS}"
AFTER = "Ctrl-C: stopping after this step; again: now"
BOUNDED = "SIGTERM: stopping after this step, in at most {} s; again: now\n"
NOTING = """
        with signals.noting() as received:
            print('up', flush=True)
            while not received(): time.sleep(0.01)
            print(received(), flush=True)
            {then}
        print('saved')
"""


def run(body, *numbers, command=COMMAND, **env):
    """(exit status, stdout, stderr) of a command to which signals are sent once it says that it is up, and after each
    line that it prints then."""
    command = [sys.executable, "-c", command.format(body=body)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for number in numbers:
                process.stdout.readline()
                process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # else `with` would wait for one that no signal has ended
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
    ],
)
def test_a_command_ends_and_says_what_is_on_the_disk(number, status, said):
    assert run(WAIT, number) == (status, "", f"error: {said}\nstep 7 is saved\n")


def test_a_command_that_hangs_in_c_code_is_ended():
    assert run(UP_IN_C, signal.SIGTERM) == (143, "", "error: stopped by SIGTERM\nstep 7 is saved\n")


def test_an_error_that_the_users_code_swallows_still_ends_the_command():
    body = "\n        try: print('up', flush=True); time.sleep(900)\n        except BaseException: time.sleep(900)"
    assert run(body, signal.SIGTERM)[0] == 143


IGNORED = """
        import gc
        def collecting(phase, info):
            gc.callbacks.clear()
            print('up', flush=True)
            time.sleep(900)
        gc.disable()
        gc.callbacks.append(collecting)
        gc.collect()
        print('not ended', flush=True)
        time.sleep(900)
"""


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_within_a_callback_whose_errors_are_ignored_ends_the_command(number, status, said):
    """With a grace in which the test would fail."""
    command = COMMAND.replace("grace=0.5", "grace=900")
    code, out, err = run(IGNORED, number, command=command)
    assert code == status and err.endswith(f"error: {said}\nstep 7 is saved\n")
    assert out.strip() in ("", "not ended")  # the first where this process is slower than the second signal


def test_training_notes_the_first_signal_and_saves():
    status, out, err = run(NOTING.format(then="pass"), signal.SIGTERM)
    assert (status, out) == (0, "15\nsaved\n")
    # It may end before its thread writes.
    assert err in ("", BOUNDED.format(270))


def test_training_that_was_stopped_ends_with_the_status_of_the_signal():
    """So that `pretrain && sft` does not go on."""
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        assert run(NOTING.format(then="signals.record_stop(received())"), number)[:2] == (
            status,
            f"{int(number)}\nsaved\n",
        )


def test_a_signal_in_c_code_is_answered_before_the_code_ends():
    """As in a compilation: the second signal is sent once the line that answers the first one is there."""
    command = COMMAND.replace("grace=0.5", "grace=900")
    for body, line in (
        (UP_IN_C, "Ctrl-C: stopping, in at most 900 s; again: now"),
        (f"\n        with signals.noting():\n            {UP_IN_C}", AFTER),
    ):
        with subprocess.Popen(
            [sys.executable, "-c", command.format(body=body)], env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline() == f"{line}\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and err == "error: ended by a second Ctrl-C\nstep 7 is saved\n"


@pytest.mark.parametrize("then", ["time.sleep(900)", ENDLESS])
def test_a_second_signal_ends_training_at_once(then):
    status, out, err = run(NOTING.format(then=then), signal.SIGTERM, signal.SIGTERM)
    assert status == 143 and "saved" not in out and "step 7 is saved" in err


def test_work_that_does_not_end_is_left_a_while_after_sigterm():
    status, out, err = run(NOTING.format(then=ENDLESS), signal.SIGTERM, JAXTRAIN_STOP_WITHIN="2")
    assert (status, out) == (143, "15\n")
    ended = "error: stopped by SIGTERM; the work under way had not ended 2 s after it\nstep 7 is saved\n"
    assert err == BOUNDED.format(2) + ended


def test_a_save_is_not_cut_short():
    """It takes longer than the work before it may; what follows has the grace."""
    save = "\n            with signals.saving(): time.sleep(1)"
    command = COMMAND.replace("grace=0.5", "grace=900")
    status, out, err = run(
        NOTING.format(then=save), signal.SIGTERM, command=command, JAXTRAIN_STOP_WITHIN="0.1"
    )
    assert (status, out, err) == (0, "15\nsaved\n", BOUNDED.format(0))


@pytest.mark.parametrize("seconds", ["soon", "0", "inf", "nan"])
def test_a_bound_that_is_no_number_is_refused(seconds):
    status, out, err = run("print('runs')", JAXTRAIN_STOP_WITHIN=seconds)
    assert (status, out) == (2, "") and "write a number of seconds, above 0" in err
