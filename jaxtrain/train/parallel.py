"""Where arrays lie and where functions run: the pmap and the mesh plan. No other file names a device.

A plan runs functions of (tree, frozen, batch) whose sums over rows are sums over the global batch. Under `mesh` the
batch is one global array and XLA adds what lies apart; under `pmap` each device has its rows and the function adds
with psum over the axis whose name it is given. State is a plain tree either way, so checkpoints fit both.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.train import device_grid, device_memory, row_layout
from jaxtrain.types import Axes, Batch, Shards

Tree = Any

ROWS = config.ROW_AXES  # a batch is split over all: over data alone it would be computed fsdp times over

# Logical axis -> mesh axis. Every name that a model uses is here: an unknown one would silently be replicated.
RULES: dict[str, tuple[str, ...] | str | None] = {
    "batch": ROWS,
    "lookup": ("data", "expert"),
    "time": "context",
    "act_time": ("context", "tensor"),
    "act_embed": None,
    "embed": ("fsdp", "context"),  # devices that have parts of one row have parts of the parameters, too
    "vocab": "tensor",
    "heads": "tensor",
    "kv": "tensor",
    "head": None,
    "ff": "tensor",
    "experts": "expert",
    "router": None,
    "layers": None,
    "members": None,
    "rank": None,
    "positions": None,
}


class Plan(NamedTuple):
    """How a run uses its devices: functions that compile, place and fetch, the same for both runtimes."""

    name: str
    devices: tuple[Any, ...]  # jax's, of one kind, in the order of the mesh
    shards: int  # parts of a global batch's rows, over all hosts
    context: int  # parts of a row's time
    process: tuple[int, int]  # (index of this host, number of hosts)
    local_rows: Callable[[int], np.ndarray]  # rows of a global batch -> i64[n], those that this host supplies
    init: Callable[..., Tree]  # (f, axes, *args) -> f(*args), born sharded
    abstract: Callable[..., Tree]  # the same as shapes with shardings, nothing computed
    # f(tree, frozen, batch, axis_name=) -> replicated or state-like trees, compiled
    step: Callable[..., Callable]
    rows: Callable[[Callable], Callable]  # f(tree, frozen, batch) -> arrays [B, ...], compiled
    ready: Callable[[Callable], Callable]  # f(tree, frozen) -> a tree of parameters, compiled
    # (f() -> the parameters of a model as it decodes) -> the plan to decode with, see device_memory.decoding_grid
    decoding: Callable[[Callable[[], Tree]], "Plan"]
    # f(tree, state, shared, batch) -> state, compiled; the state's rows stay on their devices between calls, donated
    carry: Callable[[Callable], Callable]
    blocks: int  # parts of the rows, of which a function of `carry` sees one
    fetch: Callable[
        [Tree], Tree
    ]  # a tree of arrays by row, from such a state, to numpy, whole, on every host
    put: Callable[[Mapping[str, np.ndarray]], Batch]  # this host's rows -> the global batch on the devices
    get: Callable[[Tree], Tree]  # to numpy, whole, on every host
    local: Shards | None  # how a mesh runs an attention kernel

    @property
    def platform(self) -> str:
        """The devices' platform: cpu, gpu or tpu."""
        return self.devices[0].platform

    @property
    def device_kind(self) -> str:
        """Their kind, as jax calls it: `TPU v5 lite`, `NVIDIA H100 80GB HBM3`."""
        return self.devices[0].device_kind

    @property
    def compute_capability(self) -> str:
        """A GPU's generation, `9.0` for Hopper; empty on other devices."""
        return getattr(self.devices[0], "compute_capability", "")

    @property
    def primary(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.process[0] == 0

    def one_program(self) -> bool:
        """Whether a function sees all rows of a batch at once; under pmap each device's has its own."""
        return self.name != "pmap" or self.shards == 1

    def check_batch(self, batch_size: int, microbatches: int = 1, length: int = 0) -> None:
        """Raises ConfigError unless a global batch of rows of `length` tokens splits over devices and microbatches."""
        row_layout.require_parts(length, self.context)
        parts = self.shards * microbatches
        if batch_size % parts:
            raise ConfigError(
                f"--batch_size={batch_size} does not split over {self.shards} devices x "
                f"--microbatches={microbatches}: use a multiple of {parts}"
            )


def make(run: config.Run, devices: Sequence[Any] = ()) -> Plan:
    """The plan that the flags name, for these devices, or all there are."""
    sizes = config.parse_mesh(run.mesh)
    sharded = any(sizes.get(axis, 1) != 1 for axis in config.MESH_AXES[1:])
    devices = devices or jax.devices()
    replicated = hosts_of(devices) == 1 and not sharded
    if run.parallel == "pmap" and not replicated:
        raise ConfigError("--parallel=pmap is for one process with a replicated model: use --parallel=mesh")
    grid = device_grid.arrange(sizes or {"data": -1}, devices)
    mesh = _mesh(grid)
    return _pmap(list(mesh.devices.flat)) if replicated and run.parallel != "mesh" else _sharded(mesh)


def _mesh(grid: np.ndarray) -> Mesh:
    return Mesh(grid, config.MESH_AXES, axis_types=(AxisType.Auto,) * grid.ndim)


def hosts_of(devices: Sequence[Any]) -> int:
    """The number of hosts that the devices belong to: those of a described topology are of no running process."""
    return len({device.process_index for device in devices})


def rows_of_host(mesh: Mesh, host: int, rows: int) -> np.ndarray:
    """i64[n], ascending: numbers of the rows of a global batch of `rows` that the devices of a host hold.

    A mesh follows the network of the devices, not the hosts: the rows of a host need not be a block, and two hosts have
    the same ones where the tensor axis spans both.
    """
    held = NamedSharding(mesh, PartitionSpec(ROWS)).devices_indices_map((rows,))
    return np.unique(
        np.concatenate([np.arange(rows)[at] for device, at in held.items() if device.process_index == host])
    )


def partition_spec(mesh: Mesh, names: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """The partition of an array by its logical axis names. A dimension that does not divide stays whole.

    So do the scales of norms, and biases of their width: in shards each use would wait for a gather of a few KB.
    """
    if [name for name in names if name not in ("layers", "members")] == ["embed"]:
        return PartitionSpec(*(None,) * len(names))
    out, used = [], set[str]()
    for name, size in zip(names, shape, strict=True):
        if name is not None and name not in RULES:
            raise KeyError(f"logical axis {name!r} is not in the rules: {', '.join(RULES)}")
        axis, over = RULES[name] if name is not None else None, mesh_axes(name)
        if twice := used.intersection(over):
            raise ValueError(f"axes {names} use mesh axis {', '.join(sorted(twice))} twice")
        used.update(over)
        parts = math.prod(mesh.shape[a] for a in over)
        if size % parts:
            _say_whole(name, size, axis, parts)
            axis = None
        out.append(axis)
    return PartitionSpec(*out)


@functools.cache
def _say_whole(name: str, size: int, axis: Any, parts: int) -> None:
    logging.warning("axis %s of size %d does not divide over %s:%d and stays whole", name, size, axis, parts)


def _shardings(mesh: Mesh, shapes: Tree, axes: Axes) -> Tree:
    """A sharding for each leaf: a leaf whose path ends in a parameter's, with its rank, lies as the parameter does.

    So moments, averages and whatever else mirrors the parameters lie with them; all else is replicated.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        keys = tuple(
            getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None))) for entry in path
        )
        axis_names = next((axes[keys[i:]] for i in range(len(keys)) if keys[i:] in axes), ())
        names = axis_names if len(axis_names) == len(leaf.shape) else (None,) * len(leaf.shape)
        return NamedSharding(mesh, partition_spec(mesh, names, leaf.shape))

    return jax.tree.map_with_path(place, shapes)


def _abstract(mesh: Mesh, fn: Callable[..., Tree], axes: Axes, *args: Tree) -> Tree:
    shapes = jax.eval_shape(fn, *args)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        _shardings(mesh, shapes, axes),
    )


def _get(tree: Tree) -> Tree:
    def whole(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            if x.is_fully_replicated:
                return np.asarray(x.addressable_data(0))
            from jax.experimental import multihost_utils  # only several hosts need it

            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(whole, tree)


def _sharded(mesh: Mesh) -> Plan:
    by_row = NamedSharding(mesh, PartitionSpec(ROWS))
    replicated = NamedSharding(mesh, PartitionSpec())

    @contextlib.contextmanager
    def active() -> Iterator[None]:
        with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(RULES.items())):
            yield

    def init(fn: Callable[..., Tree], axes: Axes, *args: Tree) -> Tree:
        out = jax.tree.map(lambda leaf: leaf.sharding, _abstract(mesh, fn, axes, *args))
        with active():
            return jax.jit(fn, out_shardings=out)(*args)

    def step(f: Callable, donate: bool = True) -> Callable:
        compiled: dict[str, Callable] = {}

        def program(tree: Tree, frozen: Tree, batch: Batch) -> Callable:
            if not compiled:  # the state leaves the step lying as it came
                out = (jax.tree.map(lambda x: x.sharding, tree), replicated) if donate else replicated
                compiled["f"] = jax.jit(f, donate_argnums=(0,) if donate else (), out_shardings=out)
            return compiled["f"]

        return _lowerable(active, program)

    def rows(f: Callable) -> Callable:
        return _within(active, f, out_shardings=by_row)

    shards = math.prod(mesh.shape[axis] for axis in ROWS)
    local_rows = functools.lru_cache(functools.partial(rows_of_host, mesh, jax.process_index()))

    def decoding(fn: Callable[[], Tree]) -> Plan:
        grid = device_memory.decoding_grid(fn, mesh.devices, mesh.axis_names)
        return plan if grid.shape == mesh.devices.shape else _sharded(_mesh(grid))

    plan = Plan(
        name="mesh",
        devices=tuple(mesh.devices.flat),
        shards=shards,
        context=mesh.shape["context"],
        process=(jax.process_index(), hosts_of(mesh.devices.flat)),
        local_rows=local_rows,
        init=init,
        abstract=functools.partial(_abstract, mesh),
        step=step,
        rows=rows,
        ready=functools.partial(_within, active),
        decoding=decoding,
        carry=functools.partial(_carried, active),
        blocks=1,
        fetch=_get,
        put=_put_fn(mesh, local_rows, shards),
        get=_get,
        local=_shards(mesh, shards),
    )
    return plan


def _shards(mesh: Mesh, rows: int) -> Shards:
    context, tensor, expert = (mesh.shape[axis] for axis in ("context", "tensor", "expert"))
    return Shards(_local_fn(mesh), context, rows, tensor, expert, _split_fn(mesh))


def _local_fn(mesh: Mesh) -> Callable[..., Callable]:
    """Shards.run of a mesh."""

    def local(f: Callable, split_time: bool = False) -> Callable:
        rows = PartitionSpec(ROWS, RULES["time"] if split_time else None)

        def run(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
            inside = jax.sharding.get_abstract_mesh()
            here = inside if inside.shape else mesh  # a plan to decode has another
            over = "tensor" if k.shape[2] % here.shape["tensor"] == 0 else None  # as their projection lies
            heads = PartitionSpec(*rows, over)
            return jax.shard_map(
                f, mesh=here, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False
            )(q, k, v, segments)

        return run

    return local


def _split_fn(mesh: Mesh) -> Callable[..., Callable]:
    """Shards.split of a mesh; an axis that does not divide is whole."""

    def split(f: Callable, names: tuple[Tree, ...]) -> Callable:
        def run(*args: Tree) -> Array:
            inside = jax.sharding.get_abstract_mesh()
            here = inside if inside.shape else mesh  # a plan to decode has another

            def spec(x: Array, own: tuple[str | None, ...]) -> PartitionSpec:
                parts = (math.prod(here.shape[axis] for axis in mesh_axes(name)) for name in own)
                fits = (not n % count for n, count in zip(x.shape, parts, strict=True))
                return PartitionSpec(
                    *(RULES[name] if fit and name else None for name, fit in zip(own, fits, strict=True))
                )

            specs = jax.tree.map(spec, args, names)
            return jax.shard_map(f, mesh=here, in_specs=specs, out_specs=specs[0], check_vma=False)(*args)

        return run

    return split


def mesh_axes(name: str | None) -> tuple[str, ...]:
    """The mesh axes that a logical axis is split over."""
    axis = RULES[name] if name is not None else None
    return axis if isinstance(axis, tuple) else (axis,) if axis else ()


def batch_shardings(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, NamedSharding]:
    """Where each column of a batch lies: rows over ROWS, time over context."""
    specs = {}
    for name, axis in row_layout.time_axes(batch).items():
        if axis is not None:
            row_layout.require_parts(batch[name].shape[axis], mesh.shape["context"])
        specs[name] = PartitionSpec(ROWS, *([] if axis is None else [*[None] * (axis - 1), RULES["time"]]))
    return {name: NamedSharding(mesh, spec) for name, spec in specs.items()}


def _put_fn(
    mesh: Mesh, local_rows: Callable[[int], np.ndarray], shards: int
) -> Callable[[Mapping[str, np.ndarray]], Batch]:
    """Plan.put of a mesh over whose `shards` parts rows lie."""
    local_shards = len(local_rows(shards))

    def from_local_rows(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        rows = len(x) // local_shards * shards
        held = local_rows(rows)

        def of_device(at: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = at[0].indices(rows)
            first = np.searchsorted(
                held, start
            )  # both ascend, so that a device's rows are a slice of the host's
            return x[(slice(first, first + stop - start), *at[1:])]

        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, of_device)

    def put(batch: Mapping[str, np.ndarray]) -> Batch:
        shardings = batch_shardings(mesh, batch)
        return {name: from_local_rows(x, shardings[name]) for name, x in batch.items()}

    return put


def _lowerable(active: Callable[[], Any], program: Callable[..., Any]) -> Callable:
    """A function that runs program(*args), a jitted function, inside the mesh; its `lower` takes shapes instead."""

    def run(*args: Tree) -> Tree:
        with active():
            return program(*args)(*args)

    def lower(*args: Tree) -> Any:
        with active():
            return program(*args).lower(*args)

    run.lower = lower
    return run


def _within(active: Callable[[], Any], f: Callable, **how: Any) -> Callable:
    """f compiled, which runs inside the mesh."""
    compiled = jax.jit(f, **how)
    return _lowerable(active, lambda *args: compiled)


def _carried(active: Callable[[], Any], f: Callable) -> Callable:
    """f(tree, state, shared, batch) compiled; a new state lies as XLA finds, and leaves each call lying as it came."""
    compiled: dict[Any, Callable] = {}

    def program(tree: Tree, state: Tree, shared: Tree, batch: Batch) -> Callable:
        out = jax.tree.map(lambda x: x.sharding, state)
        key = tuple(jax.tree.leaves(out))
        if key not in compiled:
            compiled[key] = jax.jit(f, donate_argnums=(1,), out_shardings=out if key else None)
        return compiled[key]

    return _lowerable(active, program)


def _pmap(devices: list[Any]) -> Plan:
    count = len(devices)
    # The mesh that pmap itself makes: on any other one the second step would be compiled anew.
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    by_device = NamedSharding(mesh, PartitionSpec("data"))

    def init(fn: Callable[..., Tree], axes: Axes, *args: Tree) -> Tree:
        return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))(*args)

    def step(f: Callable, donate: bool = True) -> Callable:
        return jax.pmap(
            functools.partial(f, axis_name="data"),
            axis_name="data",
            in_axes=(None, None, 0),
            out_axes=(None, None) if donate else None,
            donate_argnums=(0,) if donate else (),
            devices=devices,
        )

    def rows(f: Callable) -> Callable:
        mapped = jax.pmap(f, in_axes=(None, None, 0), devices=devices)
        merge = jax.jit(lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree))
        return lambda tree, frozen, batch: merge(mapped(tree, frozen, batch))

    def carry(f: Callable) -> Callable:
        return jax.pmap(f, in_axes=(None, 0, None, 0), donate_argnums=(1,), devices=devices)

    def fetch(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: np.array(x).reshape(-1, *x.shape[2:]), tree)

    def put(batch: Mapping[str, np.ndarray]) -> Batch:
        return {
            name: jax.device_put(x.reshape(count, -1, *x.shape[1:]), by_device) for name, x in batch.items()
        }

    plan = Plan(
        name="pmap",
        devices=tuple(devices),
        shards=count,
        context=1,
        process=(0, 1),
        local_rows=np.arange,
        init=init,
        abstract=lambda fn, axes, *args: _abstract(mesh, fn, {}, *args),
        step=step,
        rows=rows,
        ready=lambda f: jax.jit(f, out_shardings=NamedSharding(mesh, PartitionSpec())),
        decoding=lambda fn: plan,
        carry=carry,
        blocks=count,
        fetch=fetch,
        put=put,
        get=_get,
        local=None,
    )
    return plan
