"""A filter run in this process, and its result read back and checked."""

import json
from collections import Counter

from jaxtrain import flags
from jaxtrain.apps.filters import executors, plan
from jaxtrain.apps.filters import run as filter_run
from jaxtrain.apps.filters.config import Filter
from jaxtrain.data import filtered
from tests.data.corpus import write

QUIET = (
    "--heuristics=off", "--repetition=off", "--junk=off", "--pii=off", "--harm=off", "--spam=off", "--exact=off",
    "--near=off",
)  # fmt: skip


def only(*steps):
    """Flags that switch on these steps alone."""
    return tuple(flag for flag in QUIET if flag.removeprefix("--").partition("=")[0] not in steps)


def config(source, out, *more):
    """The configuration of a filter run in one process."""
    return flags.from_flags(
        Filter,
        [f"--data={source}", f"--out={out}", f"--cache_dir={out.parent / 'cache'}", "--workers=1", *more],
    )


def run(source, out, *more):
    """Filters `source` into `out`; returns (report, kept records, lines of rejected.jsonl), checked."""
    opened = plan.open_run(config(source, out, *more))
    if opened.plan["finished"]:
        filter_run.check_finished(opened)
    else:
        executors.execute(opened)
    return read_result(out)


def read_result(out):
    """(report, kept records, lines of rejected.jsonl) of a finished filter run; nothing is lost or counted twice."""
    report = filtered.read_report(out)
    kept = [
        json.loads(line) for one in report["files"] for line in (out / one["file"]).read_bytes().splitlines()
    ]
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_bytes().splitlines()]
    dropped = [line for line in lines if line["action"] == "drop"]
    assert report["kept"] == len(kept) and report["rejected"] == len(dropped)
    assert report["read"] == len(kept) + len(dropped)
    assert len({line["id"] for line in dropped}) == len(dropped)
    for step, one in report["steps"].items():
        count = Counter(line["action"] for line in lines if line["step"] == step)
        assert (count["drop"], count["mask"]) == (one["dropped"], one["changed"]), step
    assert not (out / "work").exists()
    return report, kept, lines


def source(folder, texts, name="a.jsonl"):
    """Writes texts as records with their number; returns the jsonl: source."""
    return write(folder / name, [{"text": text, "n": n} for n, text in enumerate(texts)])
