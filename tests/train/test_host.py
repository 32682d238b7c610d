import resource
import subprocess
import sys

import pytest

from jaxtrain.train import host

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and sets glibc's malloc")

# Frees and takes 64 MB ten times over; prints the page faults that this took after the first time.
TAKE = """
import ctypes, resource
from jaxtrain.train import host
if {keep}: assert host.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def take():
    p = libc.malloc(2**26)
    ctypes.memset(p, 1, 2**26)
    libc.free(p)
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@LINUX
def test_freed_memory_is_not_given_back_and_mapped_again():
    def faults(keep):
        run = subprocess.run(
            [sys.executable, "-c", TAKE.format(keep=keep)], capture_output=True, text=True, check=True
        )
        return int(run.stdout)

    assert faults(True) < 1000
    assert faults(False) > 10_000


@LINUX
def test_time_since_start_and_peak_memory():
    assert 0 < host.seconds_since_start() < 36_000
    before = host.peak_memory()
    assert before == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = b"x" * 2**28
    assert host.peak_memory() >= min(before, 2**28) and len(held) == 2**28
