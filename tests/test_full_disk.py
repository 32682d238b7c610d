"""What is said where a file cannot grow."""

import errno
import resource

import pytest

from jaxtrain import full_disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_its_free_space_told(tmp_path, number):
    error = OSError(number, "no room", tmp_path / "a" / "b")
    assert full_disk.is_full(error) and not full_disk.is_full(OSError(errno.EACCES, "no right"))
    assert "MB are free there: make room, then run the same command again" in full_disk.remedy(
        error.filename, error
    )


def test_a_limit_on_the_size_of_files_is_named(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (61_440, -1))
    for error in (
        OSError(errno.EFBIG, "x"),
        "OUT_OF_RANGE: Failed to write: File too large [os_error_code='27']",
    ):
        assert full_disk.remedy("/", error).startswith(
            "Files may have at most 61,440 bytes here (ulimit -f): raise"
        )
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY, -1))
    assert "name another disk" in full_disk.remedy("/", OSError(errno.EFBIG, "x"))
