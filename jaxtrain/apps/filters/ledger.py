"""The ledger of a filter run: a line of rejected.jsonl for each drop and change, and counts that add up."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtrain.apps.filters.record_texts import RecordText, path_text
from jaxtrain.apps.filters.types import Finding
from jaxtrain.config import Failure

READ = "read"  # the step that rejects what cannot be read
MAX_FIELDS, OTHER_FIELDS = 200, "other fields"  # of a record, that a report names
LocatedFinding = tuple[RecordText | None, Finding]

# Of a labelled data set (Tinytown's): a measured group -> its steps, and the labels that they are to find.
LABELLED_STEPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "quality": (
        ("heuristics", "repetition", "junk", "classifier", "perplexity"),
        ("shuffled", "boilerplate"),
    ),
    "pii": (("pii",), ("pii",)),
    "spam": (("spam",), ("spam",)),
    "exact": (("exact",), ("duplicate",)),
    "near": (("near",), ("near_duplicate",)),
}


def ledger_line(
    name: str, action: str, step: str, findings: Sequence[LocatedFinding], record: Any, **more: Any
) -> dict[str, Any]:
    """A line of rejected.jsonl: the action on a record, its step and findings, and the record as it was read."""
    listed = [
        {
            "rule": one.rule,
            "score": round(float(one.score), 6),
            "part": path_text(text.path) if text else None,
            "span": list(one.span) if one.span else None,
        }
        | ({"replacement": one.replacement} if action == "mask" else {})
        for text, one in findings
    ]
    first, *rest = listed
    line = {"id": name, "action": action, "step": step, **first, **more}
    return line | ({"others": rest} if rest else {}) | {"record": record}


@dataclass
class Tally:
    """Counts of a shard; they add up to those of the run."""

    read: int = 0
    kept: int = 0
    chars: int = 0
    seen: Counter = field(default_factory=Counter)  # step -> documents that reached it
    dropped: Counter = field(default_factory=Counter)  # step -> documents
    changed: Counter = field(default_factory=Counter)  # step -> documents
    rules: Counter = field(default_factory=Counter)  # step/rule -> documents
    seconds: Counter = field(default_factory=Counter)  # step -> seconds of a core
    lengths: Counter = field(default_factory=Counter)  # power of two of the characters -> documents read
    fields: Counter = field(
        default_factory=Counter
    )  # field of a record -> strings searched for personal data
    unfit: Counter = field(default_factory=Counter)  # step/rule/why it did not act -> documents
    labels: Counter = field(default_factory=Counter)  # step/label/reached or found or right -> documents

    def add(self, other: "Tally") -> None:
        """Adds another shard's counts."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)

    def count(self, step: str, rules: Sequence[str], action: str) -> None:
        """Counts a document that `step` dropped or masked by these rules."""
        (self.dropped if action == "drop" else self.changed)[step] += 1
        self.rules.update({f"{step}/{rule}" for rule in rules})

    def count_fields(self, names: Iterable[str]) -> None:
        """Counts strings that were searched for personal data, by field; beyond 200 fields as "other fields"."""
        for name in names:
            known = name in self.fields or len(self.fields) < MAX_FIELDS
            self.fields[name if known else OTHER_FIELDS] += 1

    def count_label(self, step: str, label: str | None, event: str) -> None:
        """Counts a labelled document: "reached" the step, "found" by it, "right" to be; nothing without a label."""
        if label is not None:
            self.labels[f"{step}/{label}/{event}"] += 1

    def save(self, path: Path) -> None:
        """Writes the counts as JSON."""
        path.write_text(json.dumps(vars(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Tally":
        """The counts that `save` wrote."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{k: Counter(v) if isinstance(v, dict) else v for k, v in saved.items()})

    def check(self) -> None:
        """Raises Failure unless kept + rejected = read."""
        rejected = self.dropped.total()
        if self.kept + rejected != self.read:
            raise Failure(f"{self.kept:,} kept + {rejected:,} rejected are not the {self.read:,} read: a bug")


def step_report(total: Tally, order: Sequence[str]) -> dict[str, Any]:
    """The counts of report.json, in all and by step; documents a second are those of one core."""
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
        if unfit := {
            key.partition("/")[2]: n for key, n in sorted(total.unfit.items()) if key.startswith(f"{step}/")
        }:
            steps[step]["did_not_act"] = unfit
        if step == "pii":
            steps[step]["fields"] = dict(total.fields.most_common())
    return {
        "read": total.read,
        "kept": total.kept,
        "rejected": total.dropped.total(),
        "changed": total.changed.total(),
        "characters": total.chars,
        "lengths": {str(2 ** int(k)): v for k, v in sorted(total.lengths.items(), key=lambda kv: int(kv[0]))},
        "steps": steps,
        "measured": precision_recall(total),
    }


def precision_recall(total: Tally) -> dict[str, dict[str, Any]]:
    """Precision and recall of the steps against the labels; empty without labels.

    Recall is over the labelled documents that reached the step, precision over those that it found. A generated world
    repeats itself by chance, so a duplicate is not judged by its label: its text, as it was read, is compared with the
    kept copy's, word by word. `unlabelled` counts those without the label. Without a label of the kind nothing is
    known of precision and recall: None.
    """
    table: dict[str, Counter] = {}
    for key, count in total.labels.items():
        step, label, event = key.split("/")
        table.setdefault(step, Counter())[label, event] += count
    report = {}
    for name, (steps, labels) in LABELLED_STEPS.items():
        rows = [table[step] for step in steps if step in table]
        if not rows:
            continue
        labelled = max(sum(row[label, "reached"] for label in labels) for row in rows)
        found = sum(count for row in rows for (_, event), count in row.items() if event == "found")
        right = sum(row[label, "right"] for row in rows for label in labels)
        verified = sum(count for row in rows for (_, event), count in row.items() if event == "right")
        true_positives = verified if name in ("exact", "near") else right
        report[name] = {
            "labelled": labelled,
            "found": found,
            "right": true_positives,
            "unlabelled": found - sum(row[label, "found"] for row in rows for label in labels),
            "precision": round(true_positives / found, 4) if found and (labelled or verified) else None,
            "recall": round(right / labelled, 4) if labelled else None,
        }
    return report
