"""A search for the mesh, batch, remat and microbatches with which a stage is fastest and fits its devices.

Candidates are compiled one at a time, those that a rough model calls fastest first. Most never are: a lower bound of
their memory is above the device's, or one that was compiled says enough. What does not fit does not fit with more rows,
less remat or fewer microbatches either; what fits is not faster with more remat or more microbatches.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.plan.bounds import StageBounds, stage_bounds
from jaxtrain.apps.plan.chips import CHIPS, GIB, interconnect
from jaxtrain.apps.plan.compiler import compile_one
from jaxtrain.apps.plan.report import Fit, fit
from jaxtrain.apps.plan.request import PlanRequest, check, stage_arch
from jaxtrain.apps.plan.topologies import Topology, devices, parse
from jaxtrain.apps.plan.types import CompiledStage
from jaxtrain.config import ConfigError
from jaxtrain.models import quantized_weights
from jaxtrain.models.zoo import Arch
from jaxtrain.stages.step_memory import stored_activations

REMAT = ("none", "dots", "full")  # each keeps less
_MOMENTS = {"adamw": 2, "adam_tf": 2}  # of the optimizers that hold any for sure
_COMPUTED = {"none": 1.0, "dots": 1.05, "full": 4 / 3}  # times the products of a step
MOST = 12  # layouts compiled
LONG = 4096  # tokens of a row that a device of a context axis has at least
TIGHT = 0.8  # of the memory, that the least which a layout needs may take for it to be tried early


class Candidate(NamedTuple):
    """A layout of a stage."""

    data: int
    fsdp: int
    tensor: int
    batch_size: int
    remat: str
    microbatches: int
    context: int = 1

    @property
    def mesh(self) -> dict[str, int]:
        """Axis -> size."""
        return {"data": self.data, "fsdp": self.fsdp, "context": self.context, "tensor": self.tensor}

    @property
    def rows(self) -> int:
        """Rows that a device computes at once."""
        return self.batch_size // (self.data * self.fsdp * self.microbatches)

    @property
    def flags(self) -> str:
        """The flags that say it."""
        mesh = ",".join(f"{axis}:{size}" for axis, size in self.mesh.items() if size > 1) or "data:1"
        parts = f" --microbatches={self.microbatches}" * (self.microbatches > 1)
        return f"--mesh={mesh} --batch_size={self.batch_size} --remat={self.remat}{parts}"

    def applied(self, cfg: Any) -> Any:
        """A stage's config with it."""
        mesh = ",".join(f"{axis}:{size}" for axis, size in self.mesh.items())
        return dataclasses.replace(
            cfg,
            run=dataclasses.replace(cfg.run, mesh=mesh, parallel="mesh"),
            data=dataclasses.replace(cfg.data, batch_size=self.batch_size),
            model=dataclasses.replace(cfg.model, remat=self.remat),
            optim=dataclasses.replace(cfg.optim, microbatches=self.microbatches),
        )


class Trial(NamedTuple):
    """A candidate that was compiled."""

    candidate: Candidate
    stage: CompiledStage
    fit: Fit
    bounds: StageBounds | None  # of one that fits

    @property
    def rate(self) -> float:
        """Tokens a second if nothing overlaps, 0 for one that does not fit."""
        return self.bounds.tokens / self.bounds.serial if self.bounds else 0.0


def candidates(cfg: Any, arch: Arch, topology: Topology, sampling: bool = False) -> list[Candidate]:
    """Layouts whose sizes divide: the batch of the flags, half, twice and four times it, or else a row a device.

    Those that a rough model calls fastest come first, of each mesh one before a second, and those that hardly fit last.
    A stage that only samples has neither remat nor microbatches, and its rows are not split.
    """
    count, own = devices(topology), cfg.data.batch_size
    meshes: list[list[Candidate]] = []
    for tensor, context in itertools.product((1, 2, 4, 8), [1] if sampling else _parts(cfg.data.seq_len)):
        shards = count // (tensor * context)
        if count % (tensor * context) or arch.K % tensor or arch.F % tensor or shards % topology.slices:
            continue
        batches = {B for B in (own // 2, own, 2 * own, 4 * own) if B and B % shards == 0} or {shards}
        for fsdp in (n for n in range(1, shards + 1) if shards % n == 0):
            layouts = [Candidate(shards // fsdp, fsdp, tensor, B, "dots", 1, context) for B in batches]
            if not sampling:
                layouts = [each for layout in layouts for each in _recomputed(layout)]
            meshes.append(layouts)
    tight = TIGHT * CHIPS[topology.kind].usable

    def rank(each: Candidate) -> tuple[bool, float]:
        return not sampling and least_memory(each, cfg, arch) > tight, -promise(each, cfg, arch, topology)

    places = {
        each: (rank(each)[0], rank(each)[1] * 0.98**place)
        for layouts in meshes
        for place, each in enumerate(sorted(layouts, key=rank))
    }
    return sorted(places, key=places.__getitem__)


def _parts(length: int) -> list[int]:
    """Sizes of a context axis that leave a device LONG tokens of a row or more, and two whole parts."""
    return [C for C in (2**n for n in range(9)) if C == 1 or (length >= C * LONG and length % (2 * C) == 0)]


def _recomputed(layout: Candidate) -> Iterator[Candidate]:
    for remat in REMAT[1:]:
        for parts in (1, 2, 4, 8):
            if layout.rows % parts == 0:
                yield layout._replace(remat=remat, microbatches=parts)


def weights(arch: Arch) -> int:
    """Elements of all matrices of a model; norms and biases are left out."""
    block = arch.width * arch.C * (2 * arch.heads + 2 * arch.K)
    block += (3 if arch.gated else 2) * arch.width * arch.all_ff + arch.width * arch.experts
    return arch.layers * block + (1 if arch.tied else 2) * arch.width * arch.vocab


def least_memory(each: Candidate, cfg: Any, arch: Arch) -> float:
    """Bytes that a device needs at least: parameters, gradients, moments, and what the backward pass reads.

    Moments of the optimizers that have two alone, and under adapters the base without gradients; of a row the layers'
    inputs, and with less remat than `full` the results of the products, in two bytes each.
    """
    size, trained = weights(arch), 1 + _MOMENTS.get(cfg.optim.optimizer, 0)
    held = 4.0 * (1 + trained) * size
    if cfg.lora.lora_rank:
        kernels = (
            size - (1 if arch.tied else 2) * arch.width * arch.vocab - arch.layers * arch.width * arch.experts
        )
        held = 4.0 * (size - kernels) + quantized_weights.BYTES.get(cfg.lora.base_weights, 4.0) * kernels
    state = held / (each.fsdp * each.context * each.tensor)
    position = stored_activations(arch, each.remat, each.tensor)
    return state + 2.0 * arch.layers * each.rows * cfg.data.seq_len / each.context * position


def promise(each: Candidate, cfg: Any, arch: Arch, topology: Topology) -> float:
    """Tokens a second by a rough model: products at the peak, weights sent round, activations exchanged."""
    size, T = weights(arch), cfg.data.seq_len
    peaks, links = CHIPS[topology.kind], interconnect(topology)
    tokens = each.batch_size * T
    products = 6.0 * (size - arch.idle) * tokens / devices(topology) * _COMPUTED[each.remat] / peaks.flops
    parts = each.fsdp * each.context  # of the weights, with tensor
    sent = 3 * 2.0 * size / each.tensor * (1 - 1 / parts) * each.microbatches
    sent += 4.0 * size / (parts * each.tensor) * (each.data > 1)
    places = each.rows * each.microbatches * T / each.context
    sent += 8.0 * arch.layers * places * arch.width * 2 * (1 - 1 / each.tensor)
    heads = (
        arch.C * (2 * arch.heads + 2 * arch.K) / each.tensor
    )  # exchanged for time: forward, again, backward
    sent += 3 * 2.0 * arch.layers * places * heads * (1 - 1 / each.context)
    return tokens / (products + sent / links.fast)


def search(
    ordered: Sequence[Candidate],
    compile: Callable[[Candidate], CompiledStage],
    least: Callable[[Candidate], float],
    usable: int,
    say: Callable[[str], None],
    most: int = MOST,
) -> list[Trial]:
    """The candidates that were compiled, the fastest that fit first. `say` gets a line for each, and for what is left.

    `compile` raises ConfigError for a layout that a stage cannot have.
    """
    trials: list[Trial] = []
    left, dropped, small = list(ordered), 0, 0
    while left and len(trials) < most:
        each = left.pop(0)
        if least(each) > usable:
            small += 1
            continue
        try:
            stage = compile(each)
        except ConfigError as error:
            say(f"{each.flags}: {error}")
            continue
        trial = _trial(each, stage)
        trials.append(trial)
        say(f"{len(trials):>3}  {_line(trial)}")
        before = len(left)
        left = [other for other in left if not settled(trial, other)]
        dropped += before - len(left)
    say(
        f"{len(trials)} of {len(ordered)} layouts compiled. {small} need more than {usable / GIB:.2f} GiB for "
        f"state and activations alone;\n{dropped} are settled by one that was compiled; {len(left)} were left out."
    )
    return sorted(trials, key=lambda trial: -trial.rate)


def _trial(candidate: Candidate, stage: CompiledStage) -> Trial:
    space = fit(stage)
    return Trial(candidate, stage, space, stage_bounds(stage) if space.fits else None)


def settled(trial: Trial, other: Candidate) -> bool:
    """Whether a compiled candidate leaves nothing to find out about another one of the same mesh."""
    own = trial.candidate
    if own.mesh != other.mesh:
        return False
    saves = REMAT.index(other.remat) - REMAT.index(own.remat)  # above 0: the other keeps less
    if trial.fit.fits:
        return other.batch_size == own.batch_size and saves >= 0 and other.microbatches >= own.microbatches
    return saves <= 0 and other.rows >= own.rows and other.batch_size >= own.batch_size


def _line(trial: Trial) -> str:
    """A row: GiB, milliseconds, tokens/s, and the flags; without the latter two of one that does not fit."""
    needs = f"{trial.fit.needed / GIB:>7.2f} GiB" if trial.fit.needed else "too much   "
    if trial.bounds is None:
        return f"{needs}  {f'does not fit: {trial.fit.program}':<36}  {trial.candidate.flags}"
    low, high = (1e3 * seconds for seconds in (trial.bounds.least, trial.bounds.serial))
    return f"{needs}  {low:>6,.0f} to {high:>6,.0f} ms  {trial.rate:>9,.0f} tok/s  {trial.candidate.flags}"


def propose(request: PlanRequest, say: Callable[[str], None]) -> list[str]:
    """The layouts with which a request is fastest, as lines; `say` gets one for each that is compiled."""
    topology = parse(request.chip)
    arch = stage_arch(request.cfg)
    ordered = candidates(request.cfg, arch, topology, request.stage == "sample")

    def compiled(each: Candidate) -> CompiledStage:
        wanted = request._replace(cfg=each.applied(request.cfg))
        check(wanted)
        return compile_one(wanted)

    def least(each: Candidate) -> float:
        return 0.0 if request.stage == "sample" else least_memory(each, request.cfg, arch)

    return summary(search(ordered, compiled, least, CHIPS[topology.kind].usable, say))


def summary(trials: Sequence[Trial], shown: int = 5) -> list[str]:
    """The fastest that fit, with their flags."""
    fitting = [trial for trial in trials if trial.bounds is not None]
    if not fitting:
        return ["Nothing that was tried fits: take a larger slice, a shorter --seq_len or a smaller model."]
    rows = ["The fastest that fit, by their tokens/s if nothing overlaps:"]
    for trial in fitting[:shown]:
        mfu = math.floor(100 * trial.bounds.mfu[0])
        gib = trial.fit.needed / GIB
        rows.append(
            f"  {trial.rate:>12,.0f} tokens/s  MFU {mfu:>2} %  {gib:>6.2f} GiB  {trial.candidate.flags}"
        )
    return rows
