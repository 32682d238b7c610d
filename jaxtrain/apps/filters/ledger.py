"""The books of a filtering: one line for everything dropped or changed, and counts that add up."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtrain.apps.filters.record_texts import RecordText, shown
from jaxtrain.apps.filters.types import Finding
from jaxtrain.config import Failure

READ = "read"  # the step that turns down what cannot be read at all
Located = tuple[RecordText | None, Finding]

# What is measured against the labels of a data set that has them (Tinytown's): the steps, the labels they are to find.
MEASURED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "quality": (
        ("heuristics", "repetition", "junk", "classifier", "perplexity"),
        ("shuffled", "boilerplate"),
    ),
    "pii": (("pii",), ("pii",)),
    "spam": (("spam",), ("spam",)),
    "exact": (("exact",), ("duplicate",)),
    "near": (("near",), ("near_duplicate",)),
}


def entry(
    name: str, action: str, step: str, found: Sequence[Located], record: Any, **more: Any
) -> dict[str, Any]:
    """A line of rejected.jsonl: what was done to a record, by which step, the findings, and the record as it was."""
    listed = [
        {
            "rule": one.rule,
            "score": round(float(one.score), 6),
            "part": shown(part.path) if part else None,
            "span": list(one.span) if one.span else None,
        }
        | ({"replacement": one.replacement} if action == "mask" else {})
        for part, one in found
    ]
    first, *rest = listed
    line = {"id": name, "action": action, "step": step, **first, **more}
    return line | ({"others": rest} if rest else {}) | {"record": record}


@dataclass
class Tally:
    """Counts of a shard, or of all: they add."""

    read: int = 0
    kept: int = 0
    chars: int = 0
    seen: Counter = field(default_factory=Counter)  # step -> documents that reached it
    dropped: Counter = field(default_factory=Counter)  # step -> documents
    changed: Counter = field(default_factory=Counter)  # step -> documents
    rules: Counter = field(default_factory=Counter)  # step/rule -> documents
    seconds: Counter = field(default_factory=Counter)  # step -> seconds of a core
    lengths: Counter = field(default_factory=Counter)  # power of two of the characters -> documents read
    labels: Counter = field(default_factory=Counter)  # step/label/reached or found or right -> documents

    def add(self, other: "Tally") -> None:
        """Adds another shard's counts."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)

    def note(self, step: str, rules: Sequence[str], action: str) -> None:
        """A document that `step` dropped or changed."""
        (self.dropped if action == "drop" else self.changed)[step] += 1
        self.rules.update({f"{step}/{rule}" for rule in rules})

    def label(self, step: str, label: str | None, what: str) -> None:
        """A labelled document that a step saw (reached), or found something in; nothing without labels."""
        if label is not None:
            self.labels[f"{step}/{label}/{what}"] += 1

    def save(self, path: Path) -> None:
        """Writes the counts as JSON."""
        path.write_text(json.dumps(vars(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Tally":
        """The counts that `save` wrote."""
        held = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{k: Counter(v) if isinstance(v, dict) else v for k, v in held.items()})

    def check(self) -> None:
        """Raises Failure unless kept + rejected = read."""
        rejected = self.dropped.total()
        if self.kept + rejected != self.read:
            raise Failure(f"{self.kept:,} kept + {rejected:,} rejected are not the {self.read:,} read: a bug")


def report(total: Tally, order: Sequence[str]) -> dict[str, Any]:
    """The counts by step for report.json: documents a second are those of one core."""
    steps = {}
    for step in (READ, *order):
        seconds, seen = total.seconds[step], total.seen[step]
        steps[step] = {
            "seen": seen,
            "dropped": total.dropped[step],
            "changed": total.changed[step],
            "seconds": round(seconds, 3),
            "documents_per_second": round(seen / seconds) if seconds else None,
            "rules": {
                name.partition("/")[2]: count
                for name, count in sorted(total.rules.items())
                if name.partition("/")[0] == step
            },
        }
    return {
        "read": total.read,
        "kept": total.kept,
        "rejected": total.dropped.total(),
        "changed": total.changed.total(),
        "characters": total.chars,
        "lengths": {str(2 ** int(k)): v for k, v in sorted(total.lengths.items(), key=lambda kv: int(kv[0]))},
        "steps": steps,
        "measured": measured(total),
    }


def measured(total: Tally) -> dict[str, dict[str, Any]]:
    """Precision and recall of steps against the labels, empty without labels.

    Recall is over the labelled documents that reached the step, precision over those that it found. A generated world
    repeats itself by chance, so what is right about a duplicate is not its label: its text, as it was read, is compared
    with the kept copy's, word by word. `unlabelled` says how many have no such label.
    """
    table: dict[str, Counter] = {}
    for key, count in total.labels.items():
        step, label, what = key.split("/")
        table.setdefault(step, Counter())[label, what] += count
    found = {}
    for name, (steps, labels) in MEASURED.items():
        rows = [table[step] for step in steps if step in table]
        if not rows:
            continue
        wanted = max(sum(row[label, "reached"] for label in labels) for row in rows)
        all_found = sum(count for row in rows for (_, what), count in row.items() if what == "found")
        right = sum(row[label, "right"] for row in rows for label in labels)
        verified = sum(count for row in rows for (_, what), count in row.items() if what == "right")
        hits = verified if name in ("exact", "near") else right
        found[name] = {
            "labelled": wanted,
            "found": all_found,
            "right": hits,
            "unlabelled": all_found - sum(row[label, "found"] for row in rows for label in labels),
            "precision": round(hits / all_found, 4) if all_found else None,
            "recall": round(right / wanted, 4) if wanted else None,
        }
    return found
