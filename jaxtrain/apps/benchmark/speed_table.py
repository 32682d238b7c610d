"""The table of ./launch/run bench, of at most 100 columns, printed row by row as models are measured."""

from collections.abc import Mapping
from typing import Any, NamedTuple

MODEL = 13  # characters of the first column; a longer name has a line of its own above its numbers
GAP = "  "


class SpeedColumn(NamedTuple):
    """A column: the number's name, its heading and unit, by what it is divided, its format, and its width."""

    name: str
    heading: str
    unit: str
    scale: float
    form: str
    width: int


COLUMNS = (
    SpeedColumn("cores", "cores", "", 1, ",.0f", 5),
    SpeedColumn("documents_per_s", "docs/s", "", 1, ",.0f", 8),
    SpeedColumn("megabytes_per_s", "MB/s", "", 1, ",.1f", 6),
    SpeedColumn("tokens_per_s", "tokens/s", "median", 1, ",.0f", 9),
    SpeedColumn("tokens_per_cpu_s", "tokens/s", "of CPU", 1, ",.0f", 10),
    SpeedColumn("first_s", "first", "ids, s", 1, ",.1f", 7),
    SpeedColumn("best_tokens_per_s", "tokens/s", "best", 1, ",.0f", 9),
    SpeedColumn("fixed_tokens_per_s", "tokens/s", "fixed", 1, ",.0f", 9),
    SpeedColumn("speedup", "speedup", "times", 1, ",.2f", 7),
    SpeedColumn("mean_length", "length", "mean", 1, ",.1f", 7),
    SpeedColumn("longest", "length", "longest", 1, ",.0f", 7),
    SpeedColumn("bound", "tokens/s", "bound", 1, ",.0f", 9),
    SpeedColumn("share_of_bound", "share", "of bound", 1, ".1%", 8),
    SpeedColumn("flops_per_s", "GFLOP/s", "median", 1e9, ",.1f", 9),
    SpeedColumn("peak_flops", "GFLOP/s", "peak", 1e9, ",.1f", 9),
    SpeedColumn("mfu", "MFU", "", 1, ".1%", 6),
    SpeedColumn("products_ms", "products", "ms", 1, ",.1f", 8),
    SpeedColumn("reading_ms", "reading", "ms", 1, ",.1f", 8),
    SpeedColumn("peak_memory", "memory", "MiB", 2**20, ",.0f", 7),
    SpeedColumn("memory", "memory", "MiB", 2**20, ",.0f", 7),
    SpeedColumn("scratch_memory", "scratch", "MiB", 2**20, ",.0f", 7),
    SpeedColumn("logits", "logits", "MiB", 2**20, ",.0f", 7),
    SpeedColumn("first_step_s", "first", "step s", 1, ",.1f", 6),
    SpeedColumn("cpu_s", "CPU s", "a step", 1, ",.3f", 7),
)


def head(numbers: Mapping[str, Any]) -> list[str]:
    """The two lines above the first row: headings and units of the columns that these numbers have."""
    columns = _columns(numbers)
    return [_line("model", [f"{each.heading:>{each.width}}" for each in columns]),
            _line("", [f"{each.unit:>{each.width}}" for each in columns])]  # fmt: skip


def row(numbers: Mapping[str, Any]) -> list[str]:
    """A model's row."""
    cells = [f"{numbers[each.name] / each.scale:>{each.width}{each.form}}" for each in _columns(numbers)]
    model = str(numbers["model"])
    return [_line(model, cells)] if len(model) <= MODEL else [model, _line("", cells)]


def _columns(numbers: Mapping[str, Any]) -> list[SpeedColumn]:
    return [each for each in COLUMNS if each.name in numbers]


def _line(first: str, cells: list[str]) -> str:
    return GAP.join([f"{first:<{MODEL}}", *cells]).rstrip()
