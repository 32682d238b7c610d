"""Bounds on the time of a training step, from what its compiled programs do and what the chip can do at most.

A program takes at least as long as the slowest of its products, its HBM traffic and its communication, if all overlap,
and about their sum if nothing does. Latencies, and kernels that miss the peak, come on top: these are no predictions.

Compiled at effort -1, a TPU's program moves more bytes than it will in a run (llama3.2-1b on v5e:2x4: HBM 130 GB, at
full effort 45): of it the products alone bound the step from below, and decode by reading weights and cache for each
token.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtrain.apps.plan import program_cost, topologies
from jaxtrain.apps.plan.chips import CHIPS, ChipPeaks, Interconnect, interconnect
from jaxtrain.apps.plan.program_cost import ProgramCost
from jaxtrain.apps.plan.types import CompiledProgram, CompiledStage
from jaxtrain.models.zoo import Arch


class ProgramBounds(NamedTuple):
    """One run of a program on one device: what it does, and the seconds that each part takes at the chip's peak."""

    program: CompiledProgram
    cost: ProgramCost
    products: float
    memory: float
    links: float
    network: float
    final: bool  # False: at this effort of compilation bytes are more than those of a real run

    @property
    def decodes(self) -> bool:
        """Whether it samples, a token after the other."""
        return self.program.name == "decode"

    @property
    def least(self) -> float:
        """Seconds if products, memory and communication all run at once."""
        if self.final:
            return max(self.products, self.memory, self.links, self.network)
        return max(self.products, self.memory * self._sure)

    @property
    def _sure(self) -> float:
        """The share of the HBM traffic that no effort saves: decode reads weights and cache for each token."""
        if not self.decodes or not self.cost.memory:
            return 0.0
        return min(1.0, self.program.memory.arguments * self.cost.iterations / self.cost.memory)

    @property
    def serial(self) -> float:
        """Seconds if they run one after the other."""
        return self.products + self.memory + self.links + self.network


class StageBounds(NamedTuple):
    """A training step on one device; seconds, of all its programs as often as each runs."""

    programs: tuple[ProgramBounds, ...]
    least: float  # if all overlaps
    serial: float  # if nothing does
    tokens: float  # of one step, that the trained model reads, over all devices; of sampling alone, that it samples
    mfu: tuple[float, float]  # model FLOPs by bfloat16's peak: if nothing overlaps, if all does
    final: bool


def stage_bounds(stage: CompiledStage) -> StageBounds:
    """The bounds of a compiled stage. Raises ValueError where it has no program that fits."""
    if not stage.programs:
        raise ValueError(f"{stage.stage} on {stage.chip}: no program fits, there is nothing to bound")
    topology = topologies.parse(stage.chip)
    peaks, links = CHIPS[topology.kind], interconnect(topology)
    final = stage.exact or not peaks.torus  # the GPU's compiler does the same at any effort
    branches = attention_branches(stage.arch)
    programs = tuple(_bounded(program, peaks, links, branches, final) for program in stage.programs)
    least = sum(each.program.runs * each.least for each in programs)
    serial = sum(each.program.runs * each.serial for each in programs)
    least = least or serial  # of programs without a product there is no other bound
    model = stage.model_flops / (stage.devices * peaks.flops)
    most = 2.0 if any(_doubled(each.cost, peaks) for each in programs) else 1.0
    return StageBounds(
        programs, least, serial, _tokens(stage), (model / serial, min(most, model / least)), final
    )


def _tokens(stage: CompiledStage) -> float:
    name = "train step" if any(each.name == "train step" for each in stage.programs) else "decode"
    return sum(each.runs * each.tokens for each in stage.programs if each.name == name)


def _bounded(
    program: CompiledProgram,
    peaks: ChipPeaks,
    links: Interconnect,
    branches: program_cost.Branches,
    final: bool,
) -> ProgramBounds:
    cost = program_cost.cost(program.text, links.domain, branches)
    return ProgramBounds(
        program,
        cost,
        (cost.flops - _doubled(cost, peaks) / 2) / peaks.flops,
        cost.memory / peaks.hbm,
        (cost.sent - cost.crossing) / links.fast,
        cost.crossing / links.network,
        final,
    )


def _doubled(cost: ProgramCost, peaks: ChipPeaks) -> float:
    """FLOPs of products that the chip computes at twice the rate of bfloat16's."""
    return sum(cost.eight_bits.get(kind, 0.0) for kind in peaks.doubled)


def attention_branches(arch: Arch | None) -> program_cost.Branches:
    """How often attention takes each branch that it chooses at run time; of other conditionals, all alike.

    Scanned layers ask whether theirs has a window. On a GPU a batch of packed rows takes the branch after that of rows
    of one document: the packed layout, or what takes any rows where the GPU has none (models/cudnn_attention.py).
    """
    windows = arch.windows() if arch is not None else ()
    share = sum(map(bool, windows)) / len(windows) if windows else 0.5

    def of(op_name: str, branches: Sequence[frozenset[str]]) -> Sequence[float]:
        cudnn = [any(target.startswith("__cudnn$fmha") for target in branch) for branch in branches]
        if cudnn in ([True, False], [True, True, False], [True, True, True]):
            return [0.0, 1.0, 0.0][: len(branches)]
        if len(branches) == 2 and op_name.endswith("attention/cond"):
            return [1 - share, share]
        return program_cost.evenly(op_name, branches)

    return of
