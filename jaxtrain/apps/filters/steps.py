"""The filter pipeline: the steps in their order, applied to blocks of records."""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from jaxtrain.apps.filters.ledger import READ, LocatedFinding, Tally
from jaxtrain.apps.filters.record_texts import Path, RecordText
from jaxtrain.apps.filters.types import Check, FilterStep, Finding, Findings
from jaxtrain.config import ConfigError, Failure

# Decontamination comes before the duplicates, so that it does not drop the only copy that they keep.
ORDER = (
    "language", "heuristics", "repetition", "junk", "classifier", "perplexity", "pii", "harm", "spam",
    "decontamination", "exact", "near",
)  # fmt: skip
Scorer = Callable[[str], perplexity.BitsPerByte]  # --scored_by -> the bits a byte of a text by that run
TOO_SLOW = "too_slow"  # rule of a document that exceeded --document_seconds


class StepTimeout(Exception):
    """The steps exceeded --document_seconds on a document."""


def active_steps(
    cfg: Filter, table: decontaminate.NgramTable | None = None, scorer: Scorer | None = None
) -> list[FilterStep]:
    """The active steps that check one document at a time, in their order: all but the duplicates'."""
    on = cfg.steps
    steps = [
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
    return [step for step in steps if step]


def _perplexity(cfg: Filter, scorer: Scorer | None) -> FilterStep:
    if scorer is None:
        raise ConfigError("--scored_by: this program has no language model to score with")
    return FilterStep(
        "perplexity", lambda _: perplexity.check(cfg.perplexity, scorer(cfg.perplexity.scored_by))
    )


def step_names(cfg: Filter) -> list[str]:
    """The names of all active steps, in their order."""
    table = decontaminate.NgramTable(None, 0) if cfg.decontaminate.decontaminate else None
    single = [step.name for step in active_steps(cfg, table, scorer=lambda run: lambda text: 0.0)]
    return [*single, *["exact"] * (cfg.steps.exact != "off"), *["near"] * (cfg.near.near != "off")]


class _Deadline:
    """A context that raises StepTimeout inside a check that runs past its deadline, a quarter of it late at most.

    `time` is the thread's CPU time: a process that waits for a core, or is stopped, loses no document.

    It ticks, which costs less than a timer a check. Compiled regular expressions handle signals as they search, so one
    that backtracks without end is stopped too.
    """

    def __init__(self, seconds: float):
        if threading.current_thread() is not threading.main_thread():
            raise Failure(
                "the steps run in a process's main thread, where a slow document can be interrupted"
            )
        self._interval, self.time = seconds / 4, math.inf
        signal.signal(signal.SIGALRM, self._on_alarm)

    def _on_alarm(self, signum: int, frame: Any) -> None:
        if time.thread_time() > self.time:
            self.time = math.inf
            raise StepTimeout

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._interval, self._interval)

    def __exit__(self, *error: object) -> None:
        self.time = math.inf
        signal.setitimer(signal.ITIMER_REAL, 0)


class FilterVerdict(NamedTuple):
    """The pipeline's result for a record: the record to keep or None, its texts, and its lines of rejected.jsonl."""

    record: Mapping[str, Any] | None
    texts: list[str]
    ledger_lines: list[dict[str, Any]]


@dataclasses.dataclass(slots=True)
class _Document:
    """A record in the pipeline: as it was read, and as the steps so far changed it."""

    id: str
    original: Mapping[str, Any]
    record: Mapping[str, Any] | None  # None: dropped
    texts: list[RecordText]
    judged: list[RecordText]  # those that the steps of --judged check
    seconds_left: float
    label: str | None  # of a labelled data set
    ledger_lines: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def verdict(self) -> FilterVerdict:
        """The verdict on it after the last step."""
        texts = [] if self.record is None else [one.text for one in self.texts]
        return FilterVerdict(self.record, texts, self.ledger_lines)


class FilterPipeline:
    """Runs the checks on blocks of records, and counts. Step by step, so that a check stays in the cache."""

    def __init__(self, cfg: Filter, steps: Sequence[FilterStep], tally: Tally):
        self._cfg, self._tally, self._steps = cfg, tally, steps
        self._checks: list[Check] = [step.build_check(cfg) for step in steps]
        self._deadline = _Deadline(cfg.work.document_seconds)

    def __call__(self, block: Iterable[tuple[str, Mapping[str, Any]]]) -> list[FilterVerdict]:
        """The verdicts on (id, record) pairs."""
        tally, start = self._tally, time.perf_counter()
        documents = [self._open(name, record) for name, record in block]
        tally.read += len(documents)
        tally.seen[READ] += len(documents)
        tally.seconds[READ] += time.perf_counter() - start
        left = [one for one in documents if one.record is not None]
        with self._deadline:
            for step, check in zip(self._steps, self._checks, strict=True):
                left = self._run_step(step, check, left)
        return [one.verdict() for one in documents]

    def _open(self, name: str, record: Mapping[str, Any]) -> _Document:
        tally, source = self._tally, self._cfg.source
        texts = record_texts.find_texts(record, source.text_field)
        size = sum(len(one.text) for one in texts)
        tally.chars += size
        tally.lengths[str(size.bit_length())] += 1
        label = record.get("defect")
        label = (label or "clean") if isinstance(label, str) else None
        document = _Document(
            id=name, original=record, record=record, texts=texts, judged=self._judged(texts),
            seconds_left=self._cfg.work.document_seconds, label=label,
        )  # fmt: skip
        if fault := _read_fault(texts, size, source.max_chars):
            self._drop(READ, document, [fault])
        return document

    def _judged(self, texts: list[RecordText]) -> list[RecordText]:
        return texts if self._cfg.source.judged == "all" else record_texts.targets(texts)

    def _run_step(self, step: FilterStep, check: Check, block: list[_Document]) -> list[_Document]:
        """The documents of a block that pass a step."""
        tally, start = self._tally, time.perf_counter()
        for one in block:
            if findings := self._findings(step, check, one):
                self._act(step, one, findings)
        tally.seconds[step.name] += time.perf_counter() - start
        tally.seen[step.name] += len(block)
        for one in block:
            tally.count_label(step.name, one.label, "reached")
        return [one for one in block if one.record is not None]

    def _findings(self, step: FilterStep, check: Check, document: _Document) -> list[LocatedFinding]:
        """The findings of a check in a document; one that takes too long is dropped."""
        deadline, start = self._deadline, time.thread_time()
        try:
            deadline.time = start + document.seconds_left
            searched = [(text, found) for text, found in self._search(step, check, document) if found]
            deadline.time = math.inf
        except StepTimeout:
            self._drop(step.name, document, [(None, Finding(TOO_SLOW, self._cfg.work.document_seconds))])
            return []
        except (ConfigError, OSError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise Failure(f"{document.id}: the step {step.name} failed: {error!r}") from error
        document.seconds_left -= time.thread_time() - start
        return [(text, finding) for text, found in searched for finding in found]

    def _search(
        self, step: FilterStep, check: Check, document: _Document
    ) -> Iterator[tuple[RecordText, Sequence[Finding]]]:
        """(text, its findings) of the texts that a step reads, counting the rules that do not hold for one."""
        if step.name == "pii":  # every string, those that no other step reads too
            strings = record_texts.find_strings(document.record)
            self._tally.count_fields(record_texts.field_pattern(one.path) for one in strings)
            yield from ((one, pii.field_findings(check, one.field, one.text)) for one in strings)
            return
        unfit: set[tuple[str, str]] = set()
        for one in document.texts if step.name == "decontamination" else document.judged:
            found = check(one.text)
            unfit.update(found.unfit if isinstance(found, Findings) else ())
            yield one, found
        self._tally.unfit.update(f"{step.name}/{rule}/{why}" for rule, why in unfit)

    def _act(self, step: FilterStep, document: _Document, findings: list[LocatedFinding]) -> None:
        """Drops or masks a document with findings, as the step says."""
        tally, label = self._tally, document.label
        if step.action == "mask":
            findings = [one for one in findings if one[1].replacement is not None]
            if not findings:
                return
        tally.count_label(step.name, label, "found")
        if step.action == "drop":
            tally.count_label(step.name, label, "right")
            self._drop(step.name, document, findings)
            return
        document.record = record_texts.replace_strings(document.record, _masked(findings))
        document.texts = record_texts.find_texts(document.record, self._cfg.source.text_field)
        document.judged = self._judged(document.texts)
        planted = document.original.get("planted")
        if not (isinstance(planted, str) and planted and any(planted in one.text for one in document.texts)):
            tally.count_label(step.name, label, "right")
        self._log(step.name, document, findings, "mask")

    def _drop(self, step: str, document: _Document, findings: Sequence[LocatedFinding]) -> None:
        document.record = None
        self._log(step, document, findings, "drop")

    def _log(self, step: str, document: _Document, findings: Sequence[LocatedFinding], action: str) -> None:
        self._tally.count(step, [finding.rule for _, finding in findings], action)
        line = ledger.ledger_line(document.id, action, step, findings, document.original)
        document.ledger_lines.append(line)


def _read_fault(texts: Sequence[RecordText], size: int, max_chars: int) -> LocatedFinding | None:
    """The finding of a record whose texts cannot be checked; None where they can."""
    if not texts:
        return None, Finding("no_text", 0)
    if size > max_chars:
        return None, Finding("too_long", size)
    for one in texts:
        if isinstance(one.text, bytes):
            return one, Finding("invalid_utf8", 1)
        if not one.text.isascii():
            try:
                one.text.encode()
            except UnicodeEncodeError as error:
                return one, Finding("half_surrogate_pair", 1, (error.start, error.end))
    if not any(one.text.strip() for one in texts):
        return None, Finding("empty", 0)
    return None


def _masked(findings: Sequence[LocatedFinding]) -> dict[Path, str]:
    """The masked strings by their paths."""
    by_text: dict[Path, tuple[str, list[Finding]]] = {}
    for text, finding in findings:
        by_text.setdefault(text.path, (text.text, []))[1].append(finding)
    return {path: record_texts.mask_findings(text, found) for path, (text, found) in by_text.items()}
