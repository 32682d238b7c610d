"""The section of a docs page that shows a check's results: Markdown from the JSON, nothing measured here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.apps.benchmark.parts import PARTS
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic
from jaxtrain.files.terminal import number, percent

Results = Mapping[str, Any]
BEGIN, END = "<!-- gpu_check: begin -->", "<!-- gpu_check: end -->"
AIMS = {"pretrain_125m": 0.45, "pretrain_1.3b": 0.55}  # MFU
DECODE_AIMS = {1: 0.6, 32: 0.6}  # batch -> share of the copy rate
GOOD = {"complete", "shortened"}
TORCH = (
    "Plain torch has the same shapes, SDPA and fused AdamW. It trains f32 weights under bfloat16 autocast, as jaxtrain "
    "does, and decodes with bfloat16 weights, a static KV cache and one CUDA graph a step."
)
SHAPE = ("rows", "length", "documents")
GRADIENTS = ("dq", "dk", "dv")


def require_marks(page: Path) -> str:
    """The page's text. Raises ConfigError where it has no marks for the section."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigError(f"--page={page}: it lacks the lines {BEGIN} and {END}; add them, or use --page=")
    return text


def write_page(page: Path, results: Results) -> None:
    """Puts the section between its marks on the page."""
    before, rest = require_marks(page).split(BEGIN)
    atomic.write_text(page, before + section(results) + rest.split(END)[1])


def section(results: Results) -> str:
    """The section with its marks."""
    if not results["parts"]:
        lines = ["No GPU has run it yet."]
    else:
        lines = [line for block in BLOCKS for line in block(results)]
    return "\n".join([BEGIN, "", *lines, "", END])


def records(results: Results, part: str) -> dict[str, Any]:
    """The records of a part, none where it was not measured."""
    return results["parts"].get(part, {}).get("results", {})


def rate(results: Results, name: str, of: str) -> float | None:
    """A number of the device part, None where it is not there."""
    return records(results, "device").get(name, {}).get(of)


def mfu(results: Results, record: Results) -> tuple[float | None, float | None]:
    """Model FLOPs utilisation of (the published peak, the peak measured in the run); None where there is none."""
    peaks = rate(results, "device", "nominal_flops"), rate(results, "matmul", "flops_per_s")
    return tuple(record["flops_per_s"] / peak if peak else None for peak in peaks)


def share_of_copy(results: Results, record: Results) -> float | None:
    """The bytes that a step of decode must read over its time, as a share of the copy's rate."""
    copy = rate(results, "copy", "bytes_per_s")
    return record["bytes_a_step"] / record["step_seconds"]["median"] / copy if copy else None


def best(
    results: Results, part: str, shape: tuple[int, int, int] | None = None
) -> tuple[str, Results] | None:
    """(settings, record) of a pretraining part with the most tokens/s, the sweep's among them; None without any.

    With a shape, (rows, tokens of a row, its documents), among those of it.
    """
    name = part.removeprefix("pretrain_").upper()
    rows = [*records(results, part).items(), *records(results, "sweep").items()]
    rows = [(label, each) for label, each in rows if label.startswith(f"{name} ") and "tokens_per_s" in each]
    rows = [row for row in rows if shape in (None, tuple(row[1][name] for name in SHAPE))]
    return max(rows, key=lambda row: row[1]["tokens_per_s"], default=None)


def reached(value: float | None, aim: float | None) -> str:
    """`45 %: reached` or `45 %: not reached`; empty where there is no aim."""
    if aim is None:
        return ""
    return f"{percent(aim)}: " + (
        "not measured" if value is None else "reached" if value >= aim else "not reached"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, and a blank line; nothing without rows."""
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]


def _device(results: Results) -> Iterator[str]:
    run = results["runs"][-1]
    gpu = (run["gpus"] or [{}])[0]
    kind = rate(results, "device", "kind") or gpu.get("name", "unknown device")
    words = [kind, *(f"driver {gpu['driver_version']}" for _ in [0] if "driver_version" in gpu)]
    versions = run["versions"]
    words += [f"{name} {versions[name]}" for name in ("jax", "jaxlib", "torch", "python") if name in versions]
    git = run["git"] or {}
    commit = (git.get("commit") or "unknown")[:10] + (" with changes" if git.get("dirty") else "")
    yield f"{', '.join(words)}. Started {run['started']}, commit {commit}: `{run['command']}`"
    yield ""
    peak, copy = rate(results, "matmul", "flops_per_s"), rate(results, "copy", "bytes_per_s")
    nominal = rate(results, "device", "nominal_flops")
    if peak:
        published = f" (published: {number(nominal / 1e12)})" if nominal else ""
        yield f"- bf16 products reach {number(peak / 1e12)} TFLOP/s{published}."
    if copy:
        yield f"- A copy moves {number(copy / 1e9)} GB/s, reads and writes both counted."
    yield ""


def _parts(results: Results) -> Iterator[str]:
    yield from table(
        ["part", "outcome", "seconds", "SM clock, power while busy"],
        [
            [
                f"{PARTS[name].about} (`{name}`)",
                part["status"] + (f": {part['note']}" if part["note"] else ""),
                number(part.get("seconds")),
                _load(part.get("load") or {}),
            ]
            for name in PARTS
            if (part := results["parts"].get(name))
        ],
    )


def _load(load: Results) -> str:
    return f"{load['clocks.sm']:.0f} MHz, {load['power.draw']:.0f} W" if load else "–"


def _correctness(results: Results) -> Iterator[str]:
    rows = []
    for case, record in records(results, "attention").items():
        own = record["kernels"][record["auto"]]
        text = own.get("error") or f"output {own['output']:.1e}, gradients {max(map(own.get, GRADIENTS)):.1e}"
        why = f" ({record['reason']})" if record["reason"] else ""
        rows.append([f"attention, {case}: {record['auto']}{why}", text, _verdict(record)])
    for name, record in records(results, "parity").items():
        mean = f"mean {record['mean']:+.1e} ± {record['standard_error']:.0e}"
        rows.append([name, f"{mean}, mean absolute {record['mean_absolute']:.1e} nats", _verdict(record)])
    for record in records(results, "tests").values():
        failed = f", failed: {', '.join(record['failed'])}" if record["failed"] else ""
        rows.append(["tests on the device", f"{record['passed']} passed{failed}", _verdict(record)])
    yield from table(["correctness", "difference from f32, or between the two ways", ""], rows)


def _verdict(record: Results) -> str:
    return "right" if record["good"] else "**wrong**"


def _training(results: Results) -> Iterator[str]:
    rows, aims = [], {top[0]: aim for part, aim in AIMS.items() if (top := best(results, part))}
    for part in ("pretrain_125m", "pretrain_350m", "pretrain_1.3b", "dpo_1.3b", "sweep"):
        task = "DPO" if part == "dpo_1.3b" else "pretrain"
        for label, record in records(results, part).items():
            if label.startswith("batch "):  # the sweep's decode
                continue
            name, shape = f"{task} {label}", f"{record['rows']} x {record['length']}"
            if "error" in record:
                rows.append([name, shape, _cause(record), *[""] * 5])
                continue
            nominal, measured = mfu(results, record)
            aim = aims.get(label) if task == "pretrain" else None
            speed = [number(record["tokens_per_s"]), spread(record["seconds"])]
            shares = [percent(nominal), percent(measured), _memory(record), reached(nominal or measured, aim)]
            rows.append([name, shape, *speed, *shares])
    head = [
        "training",
        "rows x tokens",
        "tokens/s",
        "step, ms (low to high)",
        "MFU",
        "of measured peak",
        "memory",
        "aim",
    ]
    yield from table(head, rows)


def _cause(record: Results) -> str:
    """The first line of an error."""
    return record["error"].partition(" | ")[0]


def spread(seconds: Results) -> str:
    """Median, lowest and highest in ms."""
    median, low, high = (number(1e3 * seconds[name]) for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _memory(record: Results) -> str:
    return f"{record['peak_memory'] / 2**30:.1f} GiB" if record.get("peak_memory") else "–"


def _decode(results: Results) -> Iterator[str]:
    rows = []
    swept = {label: each for label, each in records(results, "sweep").items() if label.startswith("batch ")}
    graphs = {
        f"{label}, loops in CUDA graphs": each for label, each in records(results, "decode_graphs").items()
    }
    for label, record in (records(results, "decode") | swept | graphs).items():
        if "error" in record:
            rows.append([label, _cause(record), "", "", ""])
            continue
        share = share_of_copy(results, record)
        aim = DECODE_AIMS.get(record["rows"]) if label == f"batch {record['rows']}" else None
        rows.append([label, number(record["tokens_per_s"]), spread(record["step_seconds"]), percent(share),
                     reached(share, aim)])  # fmt: skip
    yield from table(
        ["decode, 1.3B", "tokens/s", "step, ms (low to high)", "of the copy's rate", "aim"], rows
    )


def _ppo(results: Results) -> Iterator[str]:
    record = records(results, "ppo").get("iteration")
    if not record:
        return
    seconds = {name: each["median"] for name, each in record["seconds"].items()}
    total = sum(seconds.values())
    rows = [[name, spread(each), percent(each["median"] / total)] for name, each in record["seconds"].items()]
    completions = f"{record['completions']} completions of {record['new']} tokens"
    yield from table([f"PPO iteration, {completions}", "ms (low to high)", "share"], rows)


def _beside_torch(results: Results) -> Iterator[str]:
    rows = []
    for label, record in records(results, "torch_pretrain").items():
        top = best(
            results, f"pretrain_{label.partition(' ')[0].lower()}", (record["rows"], record["length"], 1)
        )
        own = top[1]["tokens_per_s"] if top else None
        rows.append([f"pretrain {label}", *_beside(own, record)])
    for label, record in records(results, "torch_decode").items():
        own = records(results, "decode").get(label, {}).get("tokens_per_s")
        rows.append([f"decode {label}", *_beside(own, record)])
    if rows:
        yield TORCH
        yield ""
    yield from table(["the same work", "jaxtrain, tokens/s", "torch, tokens/s", "jaxtrain / torch"], rows)


def _beside(own: float | None, record: Results) -> list[str]:
    if "error" in record:
        return [number(own), _cause(record), "–"]
    theirs = record["tokens_per_s"]
    return [number(own), number(theirs), number(own / theirs if own else None)]


BLOCKS: tuple[Callable[[Results], Iterator[str]], ...] = (
    _device, _correctness, _training, _decode, _ppo, _beside_torch, _parts,
)  # fmt: skip


def summary(results: Results) -> list[str]:
    """The aims and whether they were reached, and what is wrong, a line each: what a run ends with."""
    lines = []
    for part, aim in AIMS.items():
        top = best(results, part)
        nominal, measured = mfu(results, top[1]) if top else (None, None)
        value = nominal or measured
        lines.append(f"{part}: MFU {percent(value)} (aim {reached(value, aim)})")
    for batch, aim in DECODE_AIMS.items():
        record = records(results, "decode").get(f"batch {batch}", {})
        value = share_of_copy(results, record) if "step_seconds" in record else None
        lines.append(
            f"decode, batch {batch}: {percent(value)} of the copy's rate (aim {reached(value, aim)})"
        )
    return lines + wrong(results)


def wrong(results: Results) -> list[str]:
    """What is not right, a line each: a comparison outside its limits, a test that fails, a part that failed."""
    lines = []
    for part in ("attention", "parity", "tests"):
        bad = [name for name, record in records(results, part).items() if not record["good"]]
        lines += [f"{part}: wrong: {', '.join(bad)}"] if bad else []
    failed = {
        name: part for name, part in results["parts"].items() if part["status"] not in (*GOOD, "left out")
    }
    return lines + [f"{name}: {part['status']}: {part['note']}" for name, part in failed.items()]
