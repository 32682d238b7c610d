"""The steps in their order, and what they make of one record."""

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.quality import (
    classifier,
    decontaminate,
    harm,
    heuristics,
    junk,
    language,
    ledger,
    perplexity,
    pii,
    records,
    repetition,
    spam,
)
from jaxtrain.data.quality.finding import Check, Finding, Step
from jaxtrain.data.quality.ledger import READ, Located, Tally
from jaxtrain.data.quality.records import Part, Path
from jaxtrain.data.quality.settings import Filter

# Contamination is looked for before duplicates, so that the copy that is kept of several is one that stays.
ORDER = (
    "language", "heuristics", "repetition", "junk", "classifier", "perplexity", "pii", "harm", "spam",
    "decontamination", "exact", "near",
)  # fmt: skip
_EVERYWHERE = ("pii", "decontamination")  # steps that look at prompts and rejected answers too
Scorer = Callable[[str], perplexity.Score]  # of the run that --scored_by names
TOO_SLOW = "too_slow"  # the rule of a document that took longer than it may


class Slow(Exception):
    """The steps took longer on a document than they may."""


def active(cfg: Filter, table: decontaminate.Table | None = None, scorer: Scorer | None = None) -> list[Step]:
    """The steps that the flags switch on and that look at one document at a time, in their order."""
    on = cfg.steps
    made = [
        Step("language", lambda _: language.check(cfg.language)) if cfg.language.languages else None,
        Step("heuristics", lambda _: heuristics.check(cfg.heuristics)) if on.heuristics != "off" else None,
        Step("repetition", lambda _: repetition.check(cfg.repetition)) if on.repetition != "off" else None,
        Step("junk", lambda _: junk.check(cfg.junk)) if on.junk != "off" else None,
        Step("classifier", lambda _: classifier.check(cfg.classifier)) if cfg.classifier.classifier else None,
        _perplexity(cfg, scorer) if cfg.perplexity.scored_by else None,
        Step("pii", lambda _: pii.check(cfg.pii), cfg.pii.pii) if cfg.pii.pii != "off" else None,
        Step("harm", lambda _: harm.check(cfg.harm)) if on.harm != "off" else None,
        Step("spam", lambda _: spam.check(cfg.spam)) if on.spam != "off" else None,
        Step("decontamination", lambda _: decontaminate.check(table)) if table else None,
    ]
    return [step for step in made if step]


def _perplexity(cfg: Filter, scorer: Scorer | None) -> Step:
    if scorer is None:
        raise ConfigError("--scored_by: this program has no language model to score with")
    return Step("perplexity", lambda _: perplexity.check(cfg.perplexity, scorer(cfg.perplexity.scored_by)))


def names(cfg: Filter) -> list[str]:
    """The names of all steps that are switched on, in their order."""
    table = decontaminate.Table(None, 0) if cfg.decontaminate.decontaminate else None
    found = [step.name for step in active(cfg, table, scorer=lambda run: lambda text: 0.0)]
    return [*found, *["exact"] * (cfg.steps.exact != "off"), *["near"] * (cfg.near.near != "off")]


class _Clock:
    """Raises Slow inside its blocks once so many seconds have gone since `start`.

    Compiled regular expressions look for signals as they search, so a hopeless one ends too.
    """

    def __init__(self, seconds: float):
        if threading.current_thread() is not threading.main_thread():
            raise Failure(
                "the steps run in a process's main thread, where a slow document can be interrupted"
            )
        self._seconds, self._inside, self._late = seconds, False, False
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, signum: int, frame: Any) -> None:
        self._late = True
        if self._inside:
            raise Slow

    def start(self) -> None:
        """Starts the clock."""
        self._late = False
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def stop(self) -> None:
        """Stops it."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def __enter__(self) -> None:
        self._inside = True
        if self._late:
            self._inside = False
            raise Slow

    def __exit__(self, *error: object) -> None:
        self._inside = False


class Verdict(NamedTuple):
    """What became of a record: the record to keep or None, its texts, and lines for rejected.jsonl."""

    record: Mapping[str, Any] | None
    texts: list[str]
    lines: list[dict[str, Any]]


class Judge:
    """Runs the checks on one record after the other, and counts."""

    def __init__(self, cfg: Filter, steps: Sequence[Step], tally: Tally):
        self._cfg, self._tally, self._steps = cfg, tally, steps
        self._checks: list[Check] = [step.make(cfg) for step in steps]
        self._clock = _Clock(cfg.work.document_seconds)

    def __call__(self, name: str, record: Mapping[str, Any]) -> Verdict:
        """The verdict on the record that is called `name`."""
        tally, began = self._tally, time.perf_counter()
        tally.read += 1
        tally.seen[READ] += 1
        found = records.parts(record, self._cfg.source.text_field)
        size = sum(len(part.text) for part in found)
        tally.chars += size
        tally.lengths[str(size.bit_length())] += 1
        wrong = _unreadable(found, size, self._cfg.source.max_chars)
        tally.seconds[READ] += time.perf_counter() - began
        if wrong:
            return self._dropped(READ, "drop", name, [wrong], record, [])
        self._clock.start()
        try:
            return self._run(name, record, found)
        finally:
            self._clock.stop()

    def _run(self, name: str, record: Mapping[str, Any], found: list[Part]) -> Verdict:
        tally, label = self._tally, record.get("defect")
        label = (label or "clean") if isinstance(label, str) else None
        now, lines = record, []
        for step, check in zip(self._steps, self._checks, strict=True):
            everywhere = step.name in _EVERYWHERE or self._cfg.source.judged == "all"
            looked = found if everywhere else records.judged(found)
            began = time.perf_counter()
            try:
                with self._clock:
                    hits = [(part, one) for part in looked for one in check(part.text)]
            except Slow:
                seconds = self._cfg.work.document_seconds
                return self._dropped(
                    step.name, "drop", name, [(None, Finding(TOO_SLOW, seconds))], record, lines
                )
            except (ConfigError, OSError, MemoryError, KeyboardInterrupt):
                raise
            except Exception as error:
                raise Failure(f"{name}: the step {step.name} failed: {error!r}") from error
            finally:
                tally.seconds[step.name] += time.perf_counter() - began
            tally.seen[step.name] += 1
            tally.label(step.name, label, "reached")
            if step.action == "mask":
                hits = [hit for hit in hits if hit[1].replacement is not None]
            if not hits:
                continue
            tally.label(step.name, label, "found")
            if step.action == "drop":
                tally.label(step.name, label, "right")
                return self._dropped(step.name, "drop", name, hits, record, lines)
            found = _masked(found, hits)
            now = _with(now, found)
            planted = record.get("planted")
            if not (isinstance(planted, str) and planted and any(planted in part.text for part in found)):
                tally.label(step.name, label, "right")
            tally.note(step.name, [one.rule for _, one in hits], "mask")
            lines.append(ledger.entry(name, "mask", step.name, hits, record))
        return Verdict(now, [part.text for part in found], lines)

    def _dropped(
        self, step: str, action: str, name: str, hits: list[Located], record: Any, lines: list
    ) -> Verdict:
        self._tally.note(step, [one.rule for _, one in hits], action)
        return Verdict(None, [], [*lines, ledger.entry(name, action, step, hits, record)])


def _unreadable(found: Sequence[Part], size: int, most: int) -> Located | None:
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


def _masked(found: Sequence[Part], hits: Sequence[Located]) -> list[Part]:
    by_part: dict[Path, list[Finding]] = {}
    for part, one in hits:
        by_part.setdefault(part.path, []).append(one)
    return [
        part._replace(text=records.masked(part.text, by_part[part.path])) if part.path in by_part else part
        for part in found
    ]


def _with(record: Mapping[str, Any], found: Sequence[Part]) -> Mapping[str, Any]:
    for part in found:
        record = records.replaced(record, part.path, part.text)
    return record
