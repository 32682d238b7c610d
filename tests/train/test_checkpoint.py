"""Checkpoints: exact on every topology, and never silently wrong when files are damaged or lost."""

import functools
import gc
import itertools
import json
import random
import shutil
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxtrain.config import ConfigError
from jaxtrain.files import checksums
from jaxtrain.train import checkpoint
from jaxtrain.train.checkpoint import CheckpointError, Checkpoints, restore_params
from jaxtrain.types import TrainState

# A read that fails leaves Orbax's other reads pending. Python says so when it collects them, and tensorstore's
# threads when they report to the event loop that is gone.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:Exception ignored in. {what}:pytest.PytestUnraisableExceptionWarning")
    for what in ("<coroutine object _read_array_index", "None")
]


@pytest.fixture(autouse=True)
def collect():
    """Pending reads are reported in the test that caused them."""
    yield
    gc.collect()


def mesh(*sizes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(sizes, ("data", "model")[: len(sizes)], axis_types=(AxisType.Auto,) * len(sizes))


def single(device: int = 0):
    return lambda x: SingleDeviceSharding(jax.devices()[device])


def sharded(over: jax.sharding.Mesh, *names: str | None):
    """Matrices are split as named, all else is replicated."""
    return lambda x: NamedSharding(over, PartitionSpec(*names) if x.ndim == 2 else PartitionSpec())


@functools.cache
def maker(tx, width: int, shardings):
    """The jitted function that `make_state` calls, compiled once for each kind of state."""

    def init(seed):
        key = jax.random.key(seed)
        params = {
            "embed": {"table": jax.random.normal(key, (64, width))},
            "norm": {"scale": jax.random.normal(key, (width,), jnp.bfloat16)},
        }
        opt_state = jax.tree.map(lambda x: x + (seed + 1).astype(x.dtype), tx.init(params))
        extra = {"beta": jnp.float32(0.1), "seen": jnp.array([True, False, True])}
        zero = jnp.int32(0)
        return TrainState(seed, params, opt_state, jax.random.key(seed + 5), zero, zero, extra)

    return jax.jit(init, out_shardings=jax.tree.map(shardings, jax.eval_shape(init, jnp.int32(0))))


ADAMW, SGD = optax.adamw(1e-3), optax.sgd(1e-3)
ON_ONE = single()


def make_state(seed: int = 0, tx=ADAMW, width: int = 32, shardings=ON_ONE) -> TrainState:
    """A small state of every kind of leaf: f32, bf16, bool, i32, a key, optax NamedTuples, empty ones."""
    return maker(tx, width, shardings)(jnp.int32(seed))


def abstract(state, place=ON_ONE):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), state)


def bits(tree) -> list[tuple]:
    """Path, type, shape and bytes of every leaf: equal only if the trees are equal to the bit."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    data = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for _, x in flat]
    return [
        (str(path), str(x.dtype), x.shape, np.asarray(d).tobytes())
        for (path, x), d in zip(flat, data, strict=True)
    ]


def save(workdir: Path, *steps: int, keep: int = 5, **make) -> None:
    with Checkpoints(workdir, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step, **make), {"loss": step / 7})


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("tx", [ADAMW, optax.adafactor(1e-3)], ids=["adamw", "adafactor"])
def test_any_topology_restores_any_to_the_bit(tmp_path, tx):
    """Saved sharded over 8 devices, restored on other meshes, and on one device."""
    assert jax.device_count() == 8, "the tests run on 8 virtual devices"
    state = make_state(3, tx, shardings=sharded(mesh(2, 4), "data", "model"))
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(3, state, {"loss": 0.1, "names": ["a", "ü"]})
    places = [
        single(5),
        sharded(mesh(4, 2), "model", "data"),
        sharded(mesh(8)),
    ]
    for place in places:
        restored, meta = Checkpoints(tmp_path, 1).restore(abstract(state, place))
        assert bits(restored) == bits(state)
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        wanted = abstract(state, place)
        for leaf, want in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
            assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
        assert meta == {"loss": 0.1, "names": ["a", "ü"]}
        drawn = [np.asarray(jax.random.bits(key, (4,))) for key in (restored.rng, state.rng)]
        assert (drawn[0] == drawn[1]).all(), "the key goes on drawing the same numbers"


def test_keys_of_another_kind_come_back_as_that_kind(tmp_path):
    state = {"params": {}, "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3)}
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, state, {})
    restored, _ = Checkpoints(tmp_path, 1).restore(abstract(state))
    assert bits(restored) == bits(state) and jax.random.key_impl(restored["keys"]) == "rbg"
    with pytest.raises(ConfigError, match=r"holds keys as key<rbg>"):
        Checkpoints(tmp_path, 1).restore(abstract({**state, "keys": jax.random.split(jax.random.key(1), 3)}))


def test_a_save_holds_the_state_of_its_moment(tmp_path):
    """Training goes on at once and donates the buffers while the save is still writing."""
    state = {"params": {"w": jax.random.normal(jax.random.key(0), (512, 512))}}
    spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, 5) as checkpoints:
        for step in range(1, 4):
            want = bits(state)
            checkpoints.save(step, state, {})
            state = spoil(state)
            checkpoints.wait()
            restored, _ = Checkpoints(tmp_path, 5).restore(abstract(state), step)
            assert bits(restored) == want
            state = {"params": {"w": jax.random.normal(jax.random.key(step), (512, 512))}}


def test_the_newest_are_kept_and_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path, 2) as checkpoints:
        assert checkpoints.steps() == []
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {})
        checkpoints.save(3, make_state(99), {})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    restored, _ = Checkpoints(tmp_path, 2).restore(abstract(make_state()))
    assert bits(restored) == bits(make_state(3))
    restored, _ = Checkpoints(tmp_path, 2).restore(abstract(make_state()), 2)
    assert bits(restored) == bits(make_state(2))


HARMLESS = ("commit_success.txt", "_sharding", checksums.FILE)  # files that a restore does without


@pytest.mark.parametrize("release", ["this", "earlier"])
def test_damage_is_seen_or_harmless(tmp_path, release, capfd):
    """Each file with flipped bits, halved, removed: the right weights, or the step before and a word.

    A checkpoint of an earlier release has no checksums: Orbax reads what is damaged, and prints nothing of it.
    """
    save(tmp_path, 1, 2)
    flips = 1
    if release == "earlier":
        flips = 3
        (tmp_path / "checkpoints" / "2" / "state" / checksums.FILE).unlink()
    right = {step: (bits(make_state(step)), {"loss": step / 7}) for step in (1, 2)}
    wanted, draw, seen = abstract(make_state()), random.Random(0), []
    for file in sorted(f for f in (tmp_path / "checkpoints" / "2").rglob("*") if f.is_file()):
        held = file.read_bytes()
        cases = [b"".join([held[:i], bytes([held[i] ^ 1 << draw.randrange(8)]), held[i + 1 :]])
                 for i in (draw.randrange(len(held)) for _ in range(min(flips, len(held))))]  # fmt: skip
        for case in [*cases, held[: len(held) // 2], b"", None]:
            file.unlink() if case is None else file.write_bytes(case)
            before = files(tmp_path)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                state, meta = Checkpoints(tmp_path, 5).restore(wanted)
            told = [str(w.message) for w in caught if "Falling back" in str(w.message)]
            step = int(state.step)
            assert (bits(state), meta) == right[step], file
            assert step == (1 if told else 2), "falls back exactly when it says so"
            assert all(str(tmp_path / "checkpoints" / "2") in text for text in told)
            assert files(tmp_path) == before, "a failed restore changes nothing on disk"
            if release == "this" and file.parts[-2:-1] != ("2",) and file.name not in HARMLESS:
                assert len(told) == 1 and str(file) in told[0], "each is named before Orbax opens it"
            seen += told
            file.write_bytes(held)
    gc.collect()
    assert "Traceback" not in "".join(capfd.readouterr())
    digests = [text for text in seen if "digest" in text]
    assert release == "this" or digests
    assert all("params/" in text or "opt_state/" in text for text in digests), seen
    assert any("manifest.ocdbt" in text for text in seen) and any("meta" in text for text in seen)


def flip_weights(workdir: Path, step: int) -> None:
    """Flips one bit in the middle of the largest file, which holds the array data."""
    file = max((workdir / "checkpoints" / str(step)).rglob("*"), key=lambda f: f.stat().st_size * f.is_file())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


def test_a_damaged_list_of_checksums_leaves_the_arrays_verified(tmp_path):
    save(tmp_path, 1, 2)
    for text in ("", "{", '{"format": 2}'):
        (tmp_path / "checkpoints" / "2" / "state" / checksums.FILE).write_text(text)
        with pytest.warns(
            UserWarning, match=r"2/state/checksums.json is damaged.*the arrays alone are verified"
        ):
            restored, _ = Checkpoints(tmp_path, 5).restore(abstract(make_state()))
        assert bits(restored) == bits(make_state(2))
    flip_weights(tmp_path, 2)
    with pytest.warns(UserWarning, match="Falling back"), pytest.warns(UserWarning, match="arrays alone"):
        restored, _ = Checkpoints(tmp_path, 5).restore(abstract(make_state()))
    assert bits(restored) == bits(make_state(1))


@pytest.mark.parametrize("seconds", [4_000, -40_000_000])
def test_a_clock_that_jumps_at_every_look_ends_no_save(tmp_path, monkeypatch, seconds):
    """A forward jump of an hour exceeds each timeout of Orbax that is measured by the clock."""
    true, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: true() + seconds * next(looks))
    save(tmp_path, 1, 2)
    assert next(looks) > 10 and Checkpoints(tmp_path, 5).steps() == [1, 2]


def test_without_an_intact_step_it_says_what_to_do(tmp_path):
    save(tmp_path, 1, 2)
    flip_weights(tmp_path, 2)
    checkpoints = Checkpoints(tmp_path, 5)
    with pytest.raises(CheckpointError, match=r"checkpoints/2 is damaged: .*Other steps were not tried"):
        checkpoints.restore(abstract(make_state()), 2)
    flip_weights(tmp_path, 1)
    before = files(tmp_path)
    with (
        pytest.warns(UserWarning, match="checkpoints/2 is damaged.*Falling back"),
        pytest.raises(CheckpointError, match=r"checkpoints/1 is damaged: .*nothing was deleted\. Restore"),
    ):
        checkpoints.restore(abstract(make_state()))
    assert files(tmp_path) == before and checkpoints.steps() == [1, 2]


def test_training_goes_on_behind_a_damaged_step(tmp_path):
    """The damaged step is set aside when its number is needed again, not before, and is never deleted."""
    save(tmp_path, 1, 2, keep=2)
    flip_weights(tmp_path, 2)
    bad = files(tmp_path / "checkpoints" / "2")
    with Checkpoints(tmp_path, 2) as checkpoints:
        with pytest.warns(UserWarning, match="Falling back"):
            state, _ = checkpoints.restore(abstract(make_state()))
        assert int(state.step) == 1 and checkpoints.steps() == [1, 2]
        with pytest.warns(UserWarning, match="kept as 2.aside"):
            checkpoints.save(2, make_state(20), {})
    assert files(tmp_path / "checkpoints" / "2.aside") == bad
    restored, _ = Checkpoints(tmp_path, 2).restore(abstract(make_state()))
    assert bits(restored) == bits(make_state(20))


def test_restore_names_the_first_leaf_that_differs(tmp_path):
    save(tmp_path, 4)
    checkpoints, state = Checkpoints(tmp_path, 1), make_state(4)
    cases = {
        r"holds params/embed/table as float32\[64, 32\], wanted is float32\[64, 16\]": make_state(width=16),
        r"lacks params/bias float32\[2\]": state._replace(params={**state.params, "bias": jnp.zeros(2)}),
        r"holds params/norm/scale, which is not wanted": state._replace(
            params={"embed": state.params["embed"]}
        ),
        r"opt_state": make_state(tx=SGD),
        r"holds skipped as int32\[\], wanted is float32\[\]": state._replace(skipped=jnp.float32(0)),
    }
    for message, other in cases.items():
        with pytest.raises(ConfigError, match=message):
            checkpoints.restore(abstract(other))
    with pytest.raises(ConfigError, match="has no step 7: choose one of 4"):
        checkpoints.restore(abstract(state), 7)
    with pytest.raises(ConfigError, match="has no checkpoint"):
        Checkpoints(tmp_path / "checkpoints", 1).restore(abstract(state))


def test_only_the_parameters_of_another_run(tmp_path):
    save(tmp_path, 1, 2)
    state = make_state(2)
    params, meta = restore_params(tmp_path, abstract(state.params, sharded(mesh(8), "data")))
    assert bits(params) == bits(state.params) and meta == {"loss": 2 / 7}
    params, _ = restore_params(tmp_path, abstract(state.params), 1)
    assert bits(params) == bits(make_state(1).params)
    # The same process goes on with a run of its own: one manager's handlers do not disturb another's.
    save(tmp_path / "own", 1)
    assert Checkpoints(tmp_path / "own", 1).restore(abstract(state))[1] == {"loss": 1 / 7}


@pytest.mark.parametrize(
    ("where", "step", "message"),
    [
        ("nowhere", None, r"--init_from=.*nowhere does not exist"),
        ("empty", None, r"--init_from=.*empty has no checkpoint"),
        ("run", 9, r"--init_from=.*run has no step 9: choose one of 1"),
        ("run", None, r"--init_from=.*run \(step 1\) holds params/embed/table as float32\[64, 32\]"),
    ],
)
def test_another_run_that_does_not_fit_is_a_mistake_of_the_flag(tmp_path, where, step, message):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "run", 1)
    with pytest.raises(ConfigError, match=message):
        restore_params(tmp_path / where, abstract(make_state(width=16).params), step)


def test_damaged_parameters_of_another_run_fall_back(tmp_path):
    save(tmp_path, 1, 2)
    flip_weights(tmp_path, 2)
    with pytest.warns(UserWarning, match="checkpoints/2 is damaged: .*Falling back"):
        params, _ = restore_params(tmp_path, abstract(make_state().params))
    assert bits(params) == bits(make_state(1).params)


def test_meta_must_be_json(tmp_path):
    with Checkpoints(tmp_path, 1) as checkpoints, pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(1, make_state(), {"a": object()})
    assert checkpoints.steps() == []


def test_too_little_space_is_refused_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "HEADROOM", 1e15)
    before = files(tmp_path)
    with Checkpoints(tmp_path, 1) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"step 2 in .* needs [0-9.]+ MB, [0-9.]+ MB are free.*--keep"
        ):
            checkpoints.save(2, make_state(2), {})
        assert checkpoints.steps() == [1]
    assert files(tmp_path) == before


def test_what_a_killed_save_left_is_cleared_by_the_next(tmp_path):
    save(tmp_path, 1)
    left = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", left)
    checkpoints = Checkpoints(tmp_path, 5)
    assert checkpoints.steps() == [1] and int(checkpoints.restore(abstract(make_state()))[0].step) == 1
    assert left.exists(), "reading a run, which may be alive, clears nothing"
    save(tmp_path, 2)
    assert not left.exists() and Checkpoints(tmp_path, 5).steps() == [1, 2]


def test_a_failure_elsewhere_is_not_hidden_by_closing(tmp_path):
    with pytest.raises(KeyError, match="the cause"), Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        raise KeyError("the cause")
    assert checkpoints.steps() == [1], "and the save under way is completed"


def test_what_is_on_disk_is_readable_without_this_project(tmp_path):
    """meta is JSON, and steps are folders named by their number."""
    save(tmp_path, 1)
    held = json.loads((tmp_path / "checkpoints" / "1" / "meta" / "metadata").read_text())
    assert held["meta"] == {"loss": 1 / 7}
    assert held["leaves"]["params/embed/table"][:2] == [[64, 32], "float32"]
