"""What a compiled stage needs of a device and how fast it can be at best, as text."""

import math
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from jaxtrain.apps.plan import advice, hlo_text, topologies
from jaxtrain.apps.plan.bounds import ProgramBounds, StageBounds, stage_bounds
from jaxtrain.apps.plan.chips import CHIPS, GIB, GPU_MOST, GPU_SHARE
from jaxtrain.apps.plan.collectives import Collective
from jaxtrain.apps.plan.types import CompiledProgram, CompiledStage, OutOfMemory
from jaxtrain.files.terminal import number, percent

WIDTH = 100
SHOWN = 6  # collectives
UNSURE = 0.15  # of the memory of a program of a TPU, by which it is off at effort -1


class Fit(NamedTuple):
    """The program that needs most of a device, and what the device has; bytes."""

    program: str
    needed: int  # 0: the compiler does not say
    usable: int
    message: str = ""

    @property
    def fits(self) -> bool:
        return not self.message and self.needed <= self.usable


def fit(stage: CompiledStage) -> Fit:
    """Whether each program of a stage fits its device, with what lies beside it; of several that do not, the worst."""
    peaks = CHIPS[topologies.parse(stage.chip).kind]
    programs = [Fit(each.name, each.needed, peaks.usable) for each in stage.programs]
    programs += [_refused(each, peaks.usable) for each in stage.refused]
    return max(programs, key=lambda each: (not each.fits, each.needed))


def _refused(program: OutOfMemory, usable: int) -> Fit:
    return Fit(
        program.name,
        program.needed + program.beside if program.needed else 0,
        program.available or usable,
        program.message,
    )


def lines(stage: CompiledStage, width: int = 0) -> list[str]:
    """The report on a stage, in lines of at most `width` characters where words allow it; 0: the terminal's."""
    width = min(WIDTH, width or shutil.get_terminal_size((WIDTH, 24)).columns)
    out = [*_wrapped(_heading(stage), width), "", *_memory(stage, width)]
    if stage.programs:
        bounds = stage_bounds(stage)
        out += ["", *_step(stage, bounds, width), "", *_communication(bounds, width)]
        out += [""] + [line for each in _notes(stage, bounds) for line in _wrapped(each, width)]
    return out


def row(stage: CompiledStage) -> str:
    """Cells of a table: GiB of a device, milliseconds of a step between its bounds, MFU between them."""
    most = fit(stage)
    memory = f"{_gib(most.needed)} of {_gib(most.usable)}"
    if not most.fits:
        return f"{memory if most.needed else 'more'}: does not fit | – | –"
    bounds = stage_bounds(stage)
    low, high = (percent(share) for share in bounds.mfu)
    return f"{memory} | {_ms(bounds.least)} to {_ms(bounds.serial)} | {low} to {high}"


def _heading(stage: CompiledStage) -> str:
    mesh = ",".join(f"{axis}:{size}" for axis, size in stage.mesh.items() if size > 1) or "one device"
    effort = "" if not _is_tpu(stage) else " at full effort" if stage.exact else " at effort -1"
    idle = stage.arch.idle if stage.arch else 0
    count = f"{stage.parameters / 1e9:.2f}B parameters"
    count += f", {(stage.parameters - idle) / 1e9:.2f}B without idle experts" * bool(idle)
    return (
        f"{stage.stage} of {stage.model} ({count}) on {stage.chip}: {stage.devices} "
        f"devices, {stage.hosts} {'host' if stage.hosts == 1 else 'hosts'}, mesh {mesh}, {stage.batch_size} rows of "
        f"{stage.seq_len:,} tokens, remat {stage.remat}. Compiled{effort}, and not run: every number is a bound."
    )


def _is_tpu(stage: CompiledStage) -> bool:
    return CHIPS[topologies.parse(stage.chip).kind].torus > 0


def _memory(stage: CompiledStage, width: int) -> list[str]:
    most = fit(stage)
    close = most.fits and _is_tpu(stage) and not stage.exact and most.needed > (1 - UNSURE) * most.usable
    doubt = " That is close for effort -1: see --exact." if close else ""
    out = _wrapped(f"Memory of a device: {_verdict(most)}{doubt}", width)
    held = [f"{kind} {_gib(size)}" for kind, size in stage.held.items() if size]
    out += _wrapped(f"  GiB by kind: {', '.join(held)}", width, 4)
    rows = [("program", "runs a step", "GiB", "arguments", "temporaries", "logits", "other state")]
    for each in stage.programs:
        rows.append(_memory_row(stage, each))
    rows += [_refused_row(each) for each in stage.refused]
    out += _table(rows, width)
    if not most.fits:
        out += ["", "What helps, the cheapest first:"]
        flags = ([] if _is_tpu(stage) else _more_of_a_gpu(most)) + advice.remedies(stage, most.program)
        out += [line for each in flags for line in _wrapped(f"  {each}", width, 4)]
    return out


def _more_of_a_gpu(most: Fit) -> list[str]:
    """The share of a GPU's memory that jax would have to take, where it has that much."""
    share = math.ceil(100 * GPU_SHARE * most.needed / most.usable) / 100
    if not most.needed or share > GPU_MOST:
        return []
    return [
        f"XLA_PYTHON_CLIENT_MEM_FRACTION={share:.2f}: jax takes {percent(GPU_SHARE)} of a GPU's memory by default"
    ]


def _verdict(most: Fit) -> str:
    have = f"{_gib(most.usable)} GiB"
    if most.fits:
        left = most.usable - most.needed
        return f"FITS. At most {_gib(most.needed)} of {have}, in the {most.program}; {_gib(left)} left."
    if not most.needed:
        return f"DOES NOT FIT. The compiler refuses the {most.program}: {most.message.splitlines()[0]}"
    over = most.needed - most.usable
    return f"DOES NOT FIT. The {most.program} needs {_gib(most.needed)} of {have}, {_gib(over)} too many."


def _memory_row(stage: CompiledStage, program: CompiledProgram) -> tuple[str, ...]:
    memory = program.memory
    logits = largest_logits(stage, program)
    return (
        program.name,
        f"{program.runs:.3g}",
        _gib(program.needed),
        _gib(memory.arguments),
        _gib(max(0, memory.peak - memory.arguments)),
        _gib(logits) if logits else "-",
        _gib(program.beside) if program.beside > 0 else "-",
    )


def _refused_row(program: OutOfMemory) -> tuple[str, ...]:
    needed = _gib(program.needed) if program.needed else "too many"
    beside = _gib(program.beside) if program.beside > 0 else "-"
    return program.name, f"{program.runs:.3g}", needed, "-", "-", "-", beside


def largest_logits(stage: CompiledStage, program: CompiledProgram) -> float:
    """Bytes of the largest f32[..., V] that a program holds, 0 where there is none; it is one of the temporaries."""
    if stage.arch is None:
        return 0.0
    vocabulary = -(-stage.arch.vocab // stage.mesh.get("tensor", 1))
    parsed = hlo_text.parse(program.text)
    fused = {each.called("calls") for c in parsed.computations.values() for each in c.instructions.values()}
    sizes = [
        shape.size
        for c in parsed.computations.values()
        if c.name not in fused
        for each in c.instructions.values()
        for shape in each.shapes
        if shape.dtype == "f32" and shape.dims[-1:] == (vocabulary,)
    ]
    return max(sizes, default=0.0)


def _step(stage: CompiledStage, bounds: StageBounds, width: int) -> list[str]:
    chip = CHIPS[topologies.parse(stage.chip).kind]
    found = {kind for each in bounds.programs for kind in each.cost.eight_bits if kind in chip.doubled}
    eight = f" ({2 * chip.flops / 1e12:.0f} of 8 bits)" if found else ""
    out = _wrapped(
        f"A step on a device, at the peaks of {chip.device_kind}, {chip.flops / 1e12:.0f} TFLOP/s{eight} and "
        f"{chip.hbm / 1e9:,.0f} GB/s:",
        width,
    )
    rows = [("program", "TFLOP", "HBM GB", "sent GB", "products ms", "HBM ms", "links ms")]
    out += _table([*rows, *map(_step_row, bounds.programs)], width)
    low, high = bounds.mfu
    own = stage.model_flops / stage.devices
    done = sum(each.cost.flops * each.program.runs for each in bounds.programs)
    sampled = any(each.decodes for each in bounds.programs)
    least = "if all of it overlaps" if bounds.final else f"for the products{' and decode' * sampled} alone"
    text = (
        f"Step: at least {_ms(bounds.least)} ms, {least}; {_ms(bounds.serial)} ms if nothing overlaps. "
        f"{number(bounds.tokens / bounds.serial)} to {number(bounds.tokens / bounds.least)} tokens/s over all "
        f"devices, MFU {percent(low)} to {percent(high)}: {own / 1e12:.1f} TFLOP of the model on a device"
    )
    text += f", of {done / 1e12:.1f} that it computes." if done > own else "."
    out += ["", *_wrapped(text, width)]
    for each in bounds.programs:
        if each.decodes and each.cost.iterations:
            out += _wrapped(_decode(each), width)
    return out


def _step_row(each: ProgramBounds) -> tuple[str, ...]:
    runs, cost = each.program.runs, each.cost
    return (
        each.program.name,
        f"{runs * cost.flops / 1e12:.2f}",
        f"{runs * cost.memory / 1e9:.1f}",
        f"{runs * cost.sent / 1e9:.2f}",
        *(_ms(runs * seconds) for seconds in (each.products, each.memory, each.links + each.network)),
    )


def _decode(each: ProgramBounds) -> str:
    parts = {"products": each.products, "HBM": each.memory, "communication": each.links + each.network}
    most = max(parts, key=lambda name: parts[name])
    slow, fast = (each.program.tokens / seconds for seconds in (each.serial, each.least))
    return (
        f"Decode: {_ms(each.least / each.cost.iterations)} ms a token at least, {number(slow)} to {number(fast)} "
        f"tokens/s over all devices, bound by {most}; counted to the last of {each.cost.iterations:,} tokens."
    )


def _communication(bounds: StageBounds, width: int) -> list[str]:
    merged = merged_collectives(bounds)
    if not merged:
        return ["Nothing is sent between devices."]
    out = _wrapped(f"Most expensive of {len(merged)} collectives, by what a device sends in a step:", width)
    rows = [("GB", "times", "kind", "line", "array")]
    shown = [each for each in merged[:SHOWN] if each.sent > 1e-3 * merged[0].sent]
    rows += [_collective_row(each) for each in shown]
    out += _table(rows, width, left=(2, 3, 4))
    if rest := merged[len(shown) :]:
        out.append(f"  {sum(each.sent for each in rest) / 1e9:.2f} GB in {len(rest)} others.")
    return out


def _collective_row(each: Collective) -> tuple[str, ...]:
    kind = each.kind if each.kind == "collective-permute" else f"{each.kind} of {each.group}"
    array = each.shape if len(each.shape) <= 20 else f"{each.shape[:18]}.."
    times = f"{each.runs:,.0f}" if each.runs >= 1 else f"{each.runs:.2g}"
    times += " loop" * each.in_loop
    return f"{each.sent / 1e9:.2f}", times, kind, each.source or each.op_name[-30:] or "?", array


def merged_collectives(bounds: StageBounds) -> list[Collective]:
    """Collectives of a step, those of one source line, kind and loop together; `sent` and `runs` are of the step."""
    sums: dict[tuple, Collective] = {}
    for program in bounds.programs:
        for each in program.cost.collectives:
            runs = each.runs * program.program.runs
            key = (each.kind, each.group, each.source, each.in_loop, each.source or each.op_name)
            old = sums.get(key)
            sums[key] = each._replace(
                sent=each.sent * runs + (old.sent if old else 0.0),
                crossing=each.crossing * runs + (old.crossing if old else 0.0),
                runs=runs + (old.runs if old else 0.0),
                shape=old.shape if old else each.shape,
            )
    return sorted(sums.values(), key=lambda each: -each.sent)


def _notes(stage: CompiledStage, bounds: StageBounds) -> list[str]:
    notes = []
    if stage.refused:
        names = ", ".join(each.name for each in stage.refused)
        notes.append(f"The step is without what does not fit: {names}.")
    if not bounds.final:
        notes.append(
            "FLOPs are those of a run, and memory within 15 %. Communication and HBM bytes are not: at effort -1 the "
            "TPU's compiler leaves in loops what it takes out of them in a run. Use --exact for them."
        )
    if not _is_tpu(stage):
        notes.append(
            f"jax takes {percent(GPU_SHARE)} of a GPU's memory, which is what is compared: "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 gives it more. cuDNN's workspaces are not counted."
        )
    if crossing := sum(each.crossing for each in merged_collectives(bounds)):
        notes.append(
            f"{crossing / 1e9:.2f} GB of what a device sends goes between hosts or slices, over the network."
        )
    for each in bounds.programs:
        for target, runs in each.cost.unknown.items():
            notes.append(
                f"{each.program.name}: {runs:,.0f} runs of the kernel {target}, whose FLOPs are not known: not counted."
            )
        for what, count in each.cost.unread.items():
            notes.append(f"{each.program.name}: {count} collectives were not read: {what}")
    return notes


def _table(rows: Sequence[Sequence[str]], width: int, left: Sequence[int] = ()) -> list[str]:
    """Aligned columns, numbers to the right; on a narrow terminal each row as a list of `name value`."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    if 2 + sum(widths) + 2 * (len(widths) - 1) <= width:
        return [
            (
                "  " + "  ".join(_aligned(cell, widths[n], n == 0 or n in left) for n, cell in enumerate(row))
            ).rstrip()
            for row in rows
        ]
    names, *values = rows
    out = []
    for row in values:
        pairs = [f"{name} {cell}" for name, cell in zip(names[1:], row[1:], strict=True) if cell != "-"]
        out += _wrapped(f"  {row[0]}: {', '.join(pairs)}", width, 4)
    return out


def _aligned(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def _wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    start = re.match(r" *", text).group()
    return textwrap.wrap(
        text.strip(),
        width,
        initial_indent=start,
        subsequent_indent=" " * (indent or len(start)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _ms(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"
