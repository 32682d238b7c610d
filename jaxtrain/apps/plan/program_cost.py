"""What a compiled program does on one device, read from its text: FLOPs, bytes of HBM, bytes sent between devices.

Bodies of loops count as often as they run. Nothing is timed, and nothing of jax is imported.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxtrain.apps.plan import hlo_text
from jaxtrain.apps.plan.collectives import Collective, collective, kind_of
from jaxtrain.apps.plan.flops import custom_target, eight_bits, flops
from jaxtrain.apps.plan.hlo_text import Computation, HloProgram, Instruction
from jaxtrain.apps.plan.loops import trip_count
from jaxtrain.apps.plan.memory_traffic import FUSED, traffic

# (a conditional's op_name, the custom calls in each of its branches) -> how often each is taken, in sum 1
Branches = Callable[[str, Sequence[frozenset[str]]], Sequence[float]]


class ProgramCost(NamedTuple):
    """One run of a program on one device."""

    flops: float
    memory: float  # bytes read from and written to HBM
    collectives: tuple[Collective, ...]
    iterations: (
        int  # of the longest outer loop whose end is not fixed (decode): counted to its end; 0: there is none
    )
    unknown: Mapping[str, float]  # target of a kernel whose FLOPs are not known -> its runs
    unread: Mapping[str, int]  # what of the text was not understood -> how often
    eight_bits: Mapping[str, float]  # type of 8 bits -> FLOPs of products of such operands

    @property
    def sent(self) -> float:
        """Bytes that a device sends."""
        return sum(each.sent * each.runs for each in self.collectives)

    @property
    def crossing(self) -> float:
        """Of them, its share of what goes between hosts of GPUs or slices of a TPU."""
        return sum(each.crossing * each.runs for each in self.collectives)


def evenly(op_name: str, branches: Sequence[frozenset[str]]) -> Sequence[float]:
    """Each branch of a conditional as often as another."""
    return [1 / len(branches)] * len(branches)


def cost(text: str, domain: int = 0, branches: Branches = evenly) -> ProgramCost:
    """The cost of a program. Raises ValueError where the text is no HLO.

    domain: consecutive devices of the mesh that fast links join (the GPUs of a host, the chips of a slice), 0: all.
    """
    program = hlo_text.parse(text)
    sums = _Sums(program, domain or program.devices, branches)
    sums.run(program.computations[program.entry], 1.0, False)
    return ProgramCost(
        sums.flops,
        sums.memory + sum(each.memory * each.runs for each in sums.collectives),
        tuple(sorted(sums.collectives, key=lambda each: -each.sent * each.runs)),
        sums.iterations,
        dict(sums.unknown),
        dict(sums.unread),
        dict(sums.eight_bits),
    )


class _Sums:
    """What is added up on the way through a program."""

    def __init__(self, program: HloProgram, domain: int, branches: Branches):
        self._program, self._domain, self._branches = program, domain, branches
        self.flops = self.memory = 0.0
        self.collectives: list[Collective] = []
        self.iterations = 0
        self.unknown: Counter[str] = Counter()
        self.eight_bits: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self._started = _started(program)

    def run(self, computation: Computation, runs: float, in_loop: bool) -> None:
        """Adds a computation that runs so many times."""
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                self._loop(computation, instruction, runs, in_loop)
            elif instruction.opcode == "conditional":
                self._conditional(instruction, runs, in_loop)
            elif instruction.opcode == "call":
                self.run(self._program.computations[instruction.called("to_apply")], runs, in_loop)
            else:
                self.memory += runs * traffic(self._program, computation, instruction)
                self._compute(computation, instruction, runs, in_loop)

    def _loop(self, computation: Computation, loop: Instruction, runs: float, in_loop: bool) -> None:
        trips = trip_count(self._program, computation, loop)
        if not trips.exact and not in_loop:
            self.iterations = max(self.iterations, trips.count)
        self.run(self._program.computations[loop.called("body")], runs * trips.count, True)

    def _conditional(self, instruction: Instruction, runs: float, in_loop: bool) -> None:
        listed = instruction.attribute(r"branch_computations=\{([^}]*)\}")
        keys = ("false_computation", "true_computation")
        names = (
            [name.strip(" %") for name in listed.split(",")]
            if listed
            else [instruction.called(k) for k in keys]
        )
        shares = self._branches(instruction.op_name, [_custom_calls(self._program, name) for name in names])
        for name, share in zip(names, shares, strict=True):
            self.run(self._program.computations[name], runs * share, in_loop)

    def _compute(
        self,
        computation: Computation,
        instruction: Instruction,
        runs: float,
        in_loop: bool,
        fusion: Instruction | None = None,
    ) -> None:
        """FLOPs and collectives of an instruction, and of what is fused into it."""
        if kind_of(instruction):
            if computation.name in self._started.get(_channel(instruction), {computation.name}):
                self._collective(computation, instruction, runs, in_loop, fusion)
            return
        count = flops(computation, instruction)
        if count is None:
            self.unknown[custom_target(instruction)] += runs
        self.flops += runs * (count or 0.0)
        if count and (kind := eight_bits(computation, instruction)):
            self.eight_bits[kind] += runs * count
        if instruction.opcode in (*FUSED, "call"):
            name = instruction.called("calls") or instruction.called("to_apply")
            inner = self._program.computations[name]
            for each in inner.instructions.values():
                self._compute(inner, each, runs, in_loop, fusion or instruction)

    def _collective(
        self,
        computation: Computation,
        instruction: Instruction,
        runs: float,
        in_loop: bool,
        fusion: Instruction | None,
    ) -> None:
        try:
            each = collective(self._program, computation, instruction, self._domain, runs, in_loop, fusion)
        except ValueError as error:
            self.unread[str(error)] += 1
        else:
            self.collectives.append(each)


def _custom_calls(program: HloProgram, name: str) -> frozenset[str]:
    """Targets of the custom calls in a computation and in those that it calls."""
    found, todo, seen = set(), [name], set()
    while todo:
        computation = program.computations.get(todo.pop())
        if computation is None or computation.name in seen:
            continue
        seen.add(computation.name)
        for each in computation.instructions.values():
            found.add(custom_target(each))
            todo += [each.called(key) for key in ("calls", "to_apply", "body")]
            todo += [
                part.strip(" %") for part in each.attribute(r"branch_computations=\{([^}]*)\}").split(",")
            ]
    return frozenset(found - {""})


def _channel(instruction: Instruction) -> str:
    return instruction.attribute(r"channel_id=(\d+)")


def _started(program: HloProgram) -> dict[str, set[str]]:
    """channel -> computations in which an asynchronous collective starts.

    The TPU's compiler writes such a collective again into each fusion that runs beside it: those are not counted.
    """
    found: dict[str, set[str]] = {}
    for computation in program.computations.values():
        instructions = computation.instructions.values()
        if any(custom_target(each) == "AsyncCollectiveStart" for each in instructions):
            for each in instructions:
                if kind_of(each) and _channel(each):
                    found.setdefault(_channel(each), set()).add(computation.name)
    return found
