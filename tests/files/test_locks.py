"""A file's lock: one holder, named to the next one, and freed with its process."""

import subprocess
import sys

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import locks

CHILD = """
import sys, pathlib
from jaxtrain.files import locks
folder = pathlib.Path(sys.argv[1])
with locks.exclusive(folder / "lock", folder, "out"):
    print("has it", flush=True)
    sys.stdin.read()
"""


def test_one_process_has_the_lock_and_the_next_is_told_who(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "has it\n"
        with (
            pytest.raises(
                ConfigError, match=rf"--out={tmp_path} is in use by process {child.pid} on .*another --out"
            ),
            locks.exclusive(tmp_path / "lock", tmp_path, "out"),
        ):
            pass
        child.kill()
    with locks.exclusive(tmp_path / "lock", tmp_path):
        assert (tmp_path / "lock").read_text() == f"{locks.this_process()}\n"


def test_the_folder_is_made_or_is_an_error_of_the_flag(tmp_path):
    with locks.exclusive(tmp_path / "new" / "lock", tmp_path / "new"):
        assert (tmp_path / "new" / "lock").exists()
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"--workdir=.*file cannot be used: Not a directory"),
        locks.exclusive(tmp_path / "file" / "sub" / "lock", tmp_path / "file"),
    ):
        pass
