"""Compiled programs: a damaged one never runs, and is compiled anew."""

import random
import subprocess
import sys

import pytest

from jaxtrain.train import compiled_programs
from jaxtrain.train.compiled_programs import sealed, unsealed

RUN = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from jax._src.lru_cache import LRUCache
from jaxtrain.train import compiled_programs, processes

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
processes.initialize(sys.argv[1])
folder = Path(sys.argv[1]) / "compiled"
f = lambda x: jnp.tanh(x @ x.T).sum()
x = jnp.arange(12.0).reshape(3, 4) / 7
want = jax.jit(f)(x)
(entry,) = folder.glob("jit__lambda*-cache")
held = entry.read_bytes()
middle = len(held) // 2
damages = [
    held[:middle], b"", held[:-1], held[:-40] + b"?" + held[-39:],
    *(held[:i] + bytes([held[i] ^ 16]) + held[i + 1 :] for i in (0, 40, middle, len(held) - 1)),
]
for case in damages:
    entry.write_bytes(case)
    jax.clear_caches()
    assert jax.jit(f)(x) == want
    assert compiled_programs.unsealed(entry.read_bytes()) is not None, "it was replaced"
entry.unlink()
jax.clear_caches()
assert jax.jit(f)(x) == want and entry.exists()
other = LRUCache(sys.argv[2], max_size=-1)
other.put("a", b"program")
assert other.get("a") == b"program" == (Path(sys.argv[2]) / "a-cache").read_bytes(), "it is not of our folder"
"""


def test_a_damaged_program_is_named_and_compiled_anew(tmp_path):
    command = [sys.executable, "-c", RUN, str(tmp_path / "cache"), str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert sum("differs from what was written" in line and "-cache: " in line for line in lines) >= 4
    assert sum("programs without a checksum" in line for line in lines) == 1
    assert len(lines) <= 9 and "Traceback" not in done.stderr


def test_no_flip_passes():
    draw = random.Random(0)
    program = draw.randbytes(300)
    entry = sealed(program)
    assert unsealed(entry) == program and unsealed(program) is None and unsealed(b"") is None
    refused = 0
    for bit in range(8 * len(entry)):
        flipped = bytearray(entry)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert unsealed(bytes(flipped)) is None
        except ValueError:
            refused += 1
    assert refused == 8 * (len(program) + compiled_programs._SIZE)


@pytest.mark.parametrize("cut", [1, 47, 48, 49, 200])
def test_what_is_cut_off_has_no_checksum(cut):
    assert unsealed(sealed(bytes(range(256)))[:-cut]) is None
