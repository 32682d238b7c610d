"""The steps in their order, and what they make of one record."""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.filters import (
    classifier,
    decontaminate,
    gibberish,
    harm,
    heuristics,
    language,
    ledger,
    perplexity,
    pii,
    record_texts,
    repetition,
    spam,
)
from jaxtrain.apps.filters.config import Filter
from jaxtrain.apps.filters.ledger import READ, Located, Tally
from jaxtrain.apps.filters.record_texts import Path, RecordText
from jaxtrain.apps.filters.types import Check, FilterStep, Finding
from jaxtrain.config import ConfigError, Failure

# Contamination is looked for before duplicates, so that the copy that is kept of several is one that stays.
ORDER = (
    "language", "heuristics", "repetition", "junk", "classifier", "perplexity", "pii", "harm", "spam",
    "decontamination", "exact", "near",
)  # fmt: skip
_EVERYWHERE = ("pii", "decontamination")  # steps that look at prompts and rejected answers too
Scorer = Callable[[str], perplexity.Score]  # of the run that --scored_by names
TOO_SLOW = "too_slow"  # the rule of a document that took longer than it may


class StepTimeout(Exception):
    """The steps took longer on a document than they may."""


def active(
    cfg: Filter, table: decontaminate.NgramTable | None = None, scorer: Scorer | None = None
) -> list[FilterStep]:
    """The steps that the flags switch on and that look at one document at a time, in their order."""
    on = cfg.steps
    made = [
        FilterStep("language", lambda _: language.check(cfg.language)) if cfg.language.languages else None,
        FilterStep("heuristics", lambda _: heuristics.check(cfg.heuristics))
        if on.heuristics != "off"
        else None,
        FilterStep("repetition", lambda _: repetition.check(cfg.repetition))
        if on.repetition != "off"
        else None,
        FilterStep("junk", lambda _: gibberish.check(cfg.junk)) if on.junk != "off" else None,
        FilterStep("classifier", lambda _: classifier.check(cfg.classifier))
        if cfg.classifier.classifier
        else None,
        _perplexity(cfg, scorer) if cfg.perplexity.scored_by else None,
        FilterStep("pii", lambda _: pii.check(cfg.pii), cfg.pii.pii) if cfg.pii.pii != "off" else None,
        FilterStep("harm", lambda _: harm.check(cfg.harm)) if on.harm != "off" else None,
        FilterStep("spam", lambda _: spam.check(cfg.spam)) if on.spam != "off" else None,
        FilterStep("decontamination", lambda _: decontaminate.check(table)) if table else None,
    ]
    return [step for step in made if step]


def _perplexity(cfg: Filter, scorer: Scorer | None) -> FilterStep:
    if scorer is None:
        raise ConfigError("--scored_by: this program has no language model to score with")
    return FilterStep(
        "perplexity", lambda _: perplexity.check(cfg.perplexity, scorer(cfg.perplexity.scored_by))
    )


def names(cfg: Filter) -> list[str]:
    """The names of all steps that are switched on, in their order."""
    table = decontaminate.NgramTable(None, 0) if cfg.decontaminate.decontaminate else None
    found = [step.name for step in active(cfg, table, scorer=lambda run: lambda text: 0.0)]
    return [*found, *["exact"] * (cfg.steps.exact != "off"), *["near"] * (cfg.near.near != "off")]


class _Clock:
    """A context that raises Slow inside a check that goes on for longer than was left to it, a quarter later at most.

    It ticks, which costs less than a timer a check. Compiled regular expressions look for signals as they search, so a
    hopeless one ends too.
    """

    def __init__(self, seconds: float):
        if threading.current_thread() is not threading.main_thread():
            raise Failure(
                "the steps run in a process's main thread, where a slow document can be interrupted"
            )
        self._tick, self.deadline = seconds / 4, math.inf
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, signum: int, frame: Any) -> None:
        if time.perf_counter() > self.deadline:
            self.deadline = math.inf
            raise StepTimeout

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._tick, self._tick)

    def __exit__(self, *error: object) -> None:
        self.deadline = math.inf
        signal.setitimer(signal.ITIMER_REAL, 0)


class FilterVerdict(NamedTuple):
    """What became of a record: the record to keep or None, its texts, and lines for rejected.jsonl."""

    record: Mapping[str, Any] | None
    texts: list[str]
    lines: list[dict[str, Any]]


@dataclasses.dataclass(slots=True)
class _Document:
    """A record on its way through the steps: as it was read and as it is now, and the seconds that are left to it."""

    name: str
    read: Mapping[str, Any]
    now: Mapping[str, Any] | None  # None: dropped
    parts: list[RecordText]
    judged: list[RecordText]
    left: float
    label: str | None
    lines: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def verdict(self) -> FilterVerdict:
        """What became of it."""
        return FilterVerdict(
            self.now, [] if self.now is None else [part.text for part in self.parts], self.lines
        )


class FilterPipeline:
    """Runs the checks on blocks of records, and counts. A step sees a whole block, while its code is in the cache."""

    def __init__(self, cfg: Filter, steps: Sequence[FilterStep], tally: Tally):
        self._cfg, self._tally, self._steps = cfg, tally, steps
        self._checks: list[Check] = [step.make(cfg) for step in steps]
        self._clock = _Clock(cfg.work.document_seconds)

    def __call__(self, block: Iterable[tuple[str, Mapping[str, Any]]]) -> list[FilterVerdict]:
        """The verdicts on records and what each is called."""
        tally, began = self._tally, time.perf_counter()
        documents = [self._opened(name, record) for name, record in block]
        tally.read += len(documents)
        tally.seen[READ] += len(documents)
        tally.seconds[READ] += time.perf_counter() - began
        left = [one for one in documents if one.now is not None]
        with self._clock:
            for step, check in zip(self._steps, self._checks, strict=True):
                left = self._step(step, check, left)
        return [one.verdict() for one in documents]

    def _opened(self, name: str, record: Mapping[str, Any]) -> _Document:
        tally, source = self._tally, self._cfg.source
        found = record_texts.parts(record, source.text_field)
        size = sum(len(part.text) for part in found)
        tally.chars += size
        tally.lengths[str(size.bit_length())] += 1
        label = record.get("defect")
        label = (label or "clean") if isinstance(label, str) else None
        one = _Document(
            name, record, record, found, self._judged(found), self._cfg.work.document_seconds, label
        )
        if wrong := _unreadable(found, size, source.max_chars):
            self._drop(READ, one, [wrong])
        return one

    def _judged(self, found: list[RecordText]) -> list[RecordText]:
        return found if self._cfg.source.judged == "all" else record_texts.judged(found)

    def _step(self, step: FilterStep, check: Check, block: list[_Document]) -> list[_Document]:
        """The documents of the block that a step leaves."""
        tally, began, everywhere = self._tally, time.perf_counter(), step.name in _EVERYWHERE
        for one in block:
            if hits := self._hits(step, check, one, one.parts if everywhere else one.judged):
                self._act(step, one, hits)
        tally.seconds[step.name] += time.perf_counter() - began
        tally.seen[step.name] += len(block)
        for one in block:
            tally.label(step.name, one.label, "reached")
        return [one for one in block if one.now is not None]

    def _hits(
        self, step: FilterStep, check: Check, one: _Document, looked: Sequence[RecordText]
    ) -> list[Located]:
        """What a check finds in a document; one that takes too long is dropped."""
        clock, began = self._clock, time.perf_counter()
        try:
            clock.deadline = began + one.left
            hits = [(part, finding) for part in looked for finding in check(part.text)]
            clock.deadline = math.inf
        except StepTimeout:
            self._drop(step.name, one, [(None, Finding(TOO_SLOW, self._cfg.work.document_seconds))])
            return []
        except (ConfigError, OSError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise Failure(f"{one.name}: the step {step.name} failed: {error!r}") from error
        one.left -= time.perf_counter() - began
        return hits

    def _act(self, step: FilterStep, one: _Document, hits: list[Located]) -> None:
        """Drops or changes a document in which a step found something."""
        tally = self._tally
        if step.action == "mask":
            hits = [hit for hit in hits if hit[1].replacement is not None]
            if not hits:
                return
        tally.label(step.name, one.label, "found")
        if step.action == "drop":
            tally.label(step.name, one.label, "right")
            self._drop(step.name, one, hits)
            return
        one.parts = _masked(one.parts, hits)
        one.judged = self._judged(one.parts)
        one.now = _with(one.now, one.parts)
        planted = one.read.get("planted")
        if not (isinstance(planted, str) and planted and any(planted in part.text for part in one.parts)):
            tally.label(step.name, one.label, "right")
        tally.note(step.name, [finding.rule for _, finding in hits], "mask")
        one.lines.append(ledger.entry(one.name, "mask", step.name, hits, one.read))

    def _drop(self, step: str, one: _Document, hits: Sequence[Located]) -> None:
        self._tally.note(step, [finding.rule for _, finding in hits], "drop")
        one.now = None
        one.lines.append(ledger.entry(one.name, "drop", step, hits, one.read))


def _unreadable(found: Sequence[RecordText], size: int, most: int) -> Located | None:
    """Why a record cannot be judged at all."""
    if not found:
        return None, Finding("no_text", 0)
    if size > most:
        return None, Finding("too_long", size)
    for part in found:
        if isinstance(part.text, bytes):
            return part, Finding("invalid_utf8", 1)
        if not part.text.isascii():
            try:
                part.text.encode()
            except UnicodeEncodeError as error:
                return part, Finding("half_surrogate_pair", 1, (error.start, error.end))
    if not any(part.text.strip() for part in found):
        return None, Finding("empty", 0)
    return None


def _masked(found: Sequence[RecordText], hits: Sequence[Located]) -> list[RecordText]:
    by_part: dict[Path, list[Finding]] = {}
    for part, one in hits:
        by_part.setdefault(part.path, []).append(one)
    return [
        part._replace(text=record_texts.masked(part.text, by_part[part.path]))
        if part.path in by_part
        else part
        for part in found
    ]


def _with(record: Mapping[str, Any], found: Sequence[RecordText]) -> Mapping[str, Any]:
    for part in found:
        record = record_texts.replaced(record, part.path, part.text)
    return record
