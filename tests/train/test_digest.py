"""Digests of arrays: no damage escapes, and they are those of the global array on every sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtrain.config import ConfigError
from jaxtrain.train import digest
from jaxtrain.train.checkpoint import Checkpoints

SHAPE, SIZE = (6, 8, 8), 384
DRAW = np.random.default_rng(18)
WORDS = DRAW.integers(0, 2**32, SIZE, dtype=np.uint32)


def of(array, version: int = digest.VERSION):
    return digest.table({"x": jnp.asarray(array)}, version=version)["x"][2]


def fmix(x: int) -> int:
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def by_hand(words) -> str:
    """The digest of fewer than 2³² words, from the formula."""
    first = second = 0
    for i, word in enumerate(map(int, words)):
        x = fmix(word ^ ((i * 0x9E3779B1 + 0x85EBCA77) % 2**32))
        y = (x ^ ((i + 0x27D4EB2F) % 2**32)) * 0x2C1B3C6D % 2**32
        first, second = first + x, second + (y ^ (y >> 15))
    return f"{first % 2**32:08x}{second % 2**32:08x}"


def flipped(words: np.ndarray, places: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """u32[n, SIZE]: row r has bit bits[r, j] of word places[r, j] flipped, for each j."""
    rows = np.tile(words, (len(places), 1))
    for j in range(places.shape[1]):
        rows[np.arange(len(places)), places[:, j]] ^= np.uint32(1) << bits[:, j].astype(np.uint32)
    return rows


def pairs(count: int) -> np.ndarray:
    """Pairs of different places, i64[count, 2]."""
    first = DRAW.integers(0, SIZE, count)
    return np.stack([first, (first + DRAW.integers(1, SIZE, count)) % SIZE], 1)


def every_single_bit() -> np.ndarray:
    place, bit = np.divmod(np.arange(SIZE * 32), 32)
    return flipped(WORDS, place[:, None], bit[:, None])


def even_flips_of_a_bit(count: int, of_bits: int = 32) -> np.ndarray:
    """Two, four or six flips of one bit: what a sum with odd factors does not see in the highest bit."""
    rows = np.tile(WORDS, (count, 1))
    for row, bit in zip(rows, DRAW.integers(32 - of_bits, 32, count).astype(np.uint32), strict=True):
        row[DRAW.choice(SIZE, DRAW.choice([2, 4, 6]), replace=False)] ^= np.uint32(1) << bit
    return rows


def exchanged(count: int) -> np.ndarray:
    rows, places = np.tile(WORDS, (count, 1)), pairs(count)
    rows[np.arange(count)[:, None], places] = rows[np.arange(count)[:, None], places[:, ::-1]]
    return rows


def moved_blocks(count: int) -> np.ndarray:
    """Two blocks of equal length change places, as where a file's pages are swapped."""
    rows = np.tile(WORDS, (count, 1))
    for row in rows:
        n = DRAW.integers(1, SIZE // 4)
        a, b = sorted(DRAW.choice(SIZE // n, 2, replace=False) * n)
        row[a : a + n], row[b : b + n] = row[b : b + n].copy(), row[a : a + n].copy()
    return rows


def zeroed_tails(count: int) -> np.ndarray:
    """The end is missing, as in a file cut off that reads as zeros."""
    return np.where(np.arange(SIZE) < SIZE - 1 - np.arange(count)[:, None] % (SIZE - 1), WORDS, 0).astype(
        "u4"
    )


@functools.cache
def lanes():
    return jax.jit(jax.vmap(digest._lanes))


@pytest.mark.parametrize(
    "damaged",
    [
        every_single_bit(), even_flips_of_a_bit(4000), even_flips_of_a_bit(1000, of_bits=1),
        flipped(WORDS, pairs(4000), DRAW.integers(0, 32, (4000, 2))), exchanged(4000), moved_blocks(1000),
        zeroed_tails(SIZE - 1), np.tile(WORDS.reshape(SHAPE).swapaxes(1, 2).reshape(-1), (1, 1)),
    ],
    ids=["one bit", "even flips of a bit", "even flips of the sign", "two bits", "exchanges", "blocks", "tails",
         "transposed"],
)  # fmt: skip
def test_no_damage_escapes(damaged):
    """Not even in one of the two lanes more often than 32 random bits would let it."""
    changed = (damaged != WORDS).any(1)
    assert changed.mean() > 0.99
    want = [int(lane) for lane in digest._lanes(jnp.asarray(WORDS.reshape(SHAPE)))]
    got = [np.asarray(lane) for lane in lanes()(damaged[changed].reshape(-1, *SHAPE))]
    assert not ((got[0] == want[0]) & (got[1] == want[1])).any()
    for lane, right in zip(got, want, strict=True):
        assert (lane == right).sum() == 0
        low = (lane & 0xFF) == (right & 0xFF)
        assert low.mean() < 0.01 + 5 / len(low), (
            "the low bits alone are those of a hash, too: 1 of 256 is equal"
        )


def test_it_is_the_formula_for_every_type_and_sharding():
    assert jax.device_count() == 8, "the tests run on 8 virtual devices"
    words = WORDS.reshape(SHAPE)
    want = by_hand(WORDS)
    assert of(words) == want == of(words.view(np.float32)) == of(words.view(np.int32)) == of(WORDS)
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    for spec in (("a", "b"), (None, ("a", "b")), (None, "b", "a")):
        assert of(jax.device_put(words, NamedSharding(mesh, PartitionSpec(*spec)))) == want
    halves = WORDS[:64].astype(np.uint16)
    assert of(halves) == by_hand(halves) == of(halves.view(jnp.bfloat16)) == of(halves.view(np.float16))
    small = WORDS[:64].astype(np.uint8)
    assert of(small) == by_hand(small) == of(small.view(np.int8))
    assert of(WORDS[0]) == by_hand(WORDS[:1]) and of(np.zeros((3, 0), np.float32)) == by_hand([])
    assert of(np.array([True, False])) == by_hand([1, 0]) != of(np.array([False, True]))
    keys = jax.random.split(jax.random.key(3), 4)
    assert of(keys) == by_hand(np.asarray(jax.random.key_data(keys)).ravel())
    assert of(np.float32([0.0])) != of(np.float32([-0.0]))
    assert of(np.float32([np.nan])) == of(np.float32([np.nan]))


def test_places_of_more_elements_than_a_word_counts_differ(monkeypatch):
    assert jax.eval_shape(lambda: digest._places((4, 1 << 15, 1 << 15)))[1] is None
    assert jax.eval_shape(lambda: digest._places((5, 1 << 15, 1 << 15)))[1].shape == (5, 1 << 15, 1 << 15)
    monkeypatch.setattr(digest, "WORD", 1 << 6)  # as if 64 elements were all that a word counts
    for shape in (SHAPE, (3, 32, 2), (2, 65, 3), (100,)):
        low, high = (np.asarray(x).ravel().tolist() for x in digest._places(shape))
        assert len(set(zip(low, high, strict=True))) == len(low), "every place is another"
    digest._lanes.clear_cache()
    rows = np.arange(SIZE, dtype=np.uint32).reshape(SHAPE)
    swapped = rows.copy()
    swapped[[0, 5]] = rows[[5, 0]]
    assert of(rows) != of(swapped), "elements far apart change places"
    digest._lanes.clear_cache()


def test_records_of_version_1_are_verified_by_its_rule(tmp_path, monkeypatch):
    """A checkpoint of an earlier release goes on being restored, and its damage found."""
    want = sum((2 * i + 1) * int(v) for i, v in enumerate(WORDS)) % 2**32
    assert of(WORDS.reshape(SHAPE), 1) == want
    state = {"w": jnp.asarray(WORDS.view(np.int32))}
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    with monkeypatch.context() as earlier:
        earlier.setattr(digest, "VERSION", 1)
        earlier.setattr(digest.table, "__defaults__", ("", 1))
        with Checkpoints(tmp_path, 3) as saved:
            saved.save(1, state, {})
    restored, _ = Checkpoints(tmp_path, 3).restore(abstract)
    assert (np.asarray(restored["w"]) == WORDS.view(np.int32)).all()
    with monkeypatch.context() as later:
        later.setattr(digest, "VERSION", 9)
        with Checkpoints(tmp_path, 3) as saved:
            saved.save(2, state, {})
    with pytest.raises(ConfigError, match=r"\(step 2\) is of a newer release, with digests of version 9"):
        Checkpoints(tmp_path, 3).restore(abstract)


def test_tree_digests_hold_names_shapes_and_types():
    x = jnp.arange(6.0)
    trees = [{"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x.astype(jnp.bfloat16)}, {"a": x, "b": x[:0]}]
    digests = [digest.tree_digest(tree) for tree in trees]
    assert len(set(digests)) == 5 and all(len(one) == 16 for one in digests)
    assert digest.tree_digest({"a": x + 0}) == digests[0]
