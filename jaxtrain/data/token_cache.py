"""Tokenised documents in a cache that several processes write in parts."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.data import token_parts
from jaxtrain.data.bad_records import LISTED, Skips, is_unicode
from jaxtrain.data.held_out import NoneUsable
from jaxtrain.data.sources import Records
from jaxtrain.data.token_parts import PartedIds, PartText, TokenPart
from jaxtrain.data.token_workers import TokenWorkers
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache, processes
from jaxtrain.files.progress import bar

_FORMAT = 1  # of the folder; part of its name
_LEAST_BAR = 50_000  # documents from which on progress is shown


@dataclasses.dataclass(frozen=True)
class Fim:
    """Fill-in-the-middle for a share `rate` of the documents, the same ones for the same seed."""

    rate: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Documents:
    """Documents as BOS … EOS, one after the other in `ids`."""

    ids: np.ndarray | PartedIds  # u16 or u32
    offsets: np.ndarray  # i64[N + 1]: document i is ids[offsets[i]:offsets[i + 1]]
    slack: (
        np.ndarray
    )  # i32[N], UTF-8 bytes of the text less those that `byte_lengths` gives its tokens; mostly 0
    logp: np.ndarray | None  # f64[N], exact log-probability in nats; NaN where unknown
    size: int  # UTF-8 bytes of all texts
    empty: int  # documents that were dropped since they hold nothing but white space
    skipped: int  # records that were dropped since they hold no text
    listed: str  # the file that lists those
    fingerprint: str
    loss_mask: np.ndarray | None = None  # u8, as `ids`: whether an id is in the loss; None: all are

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def pairs(self) -> np.ndarray:
        """i64[N], (input, target) pairs of each document."""
        return np.diff(self.offsets) - 1


def tokenise(
    records: Records,
    tokenizer: Tokenizer,
    field: str,
    policy: str,
    folder: Path,
    fim: Fim | None,
    flag: str = "data",
    workers: int = 1,
) -> Documents:
    """The documents of `records`, tokenised once and cached in `folder`, by `workers` processes (0: one a core).

    A cache of many records has parts, and a run that was stopped goes on with those that are missing. Documents of
    white space alone are dropped and counted. Records without text raise ConfigError, or are counted and listed if
    `policy` is skip. Raises NoneUsable, naming `flag`, where no document is left.
    """
    name = cache.digest(_FORMAT, records.fingerprint, tokenizer.fingerprint, field, policy, fim)
    whole, ends = folder / "tokens" / name, token_parts.bounds(len(records))
    unread = Unread(records, field, policy, fim, ends)
    if len(ends) == 2 or cache.intact(whole):  # that of an earlier release always has one part
        text = functools.partial(next, unread.texts([0]))
        cache.build(whole, lambda work: token_parts.write(work, text()[1], tokenizer))
        paths = [whole]
    else:
        paths = [folder / "tokens" / f"{name}.parts" / f"{k:05d}" for k in range(len(ends) - 1)]
        _fill(paths, unread, tokenizer, workers)
    parts = [token_parts.open_part(path) for path in paths]
    if not any(len(part.slack) for part in parts):
        empty, skipped = (sum(getattr(part, what) for part in parts) for what in ("empty", "skipped"))
        raise NoneUsable(
            f"--{flag}={records.label}: no document left ({empty} empty, {skipped} skipped); check --text_field"
        )

    def rebuild(k: int) -> None:
        token_parts.build(paths[k], next(unread.texts([k]))[1], tokenizer)

    return joined(parts, rebuild, name, _listed(parts))


def joined(
    parts: Sequence[TokenPart], rebuild: Callable[[int], None], name: str, listed: str = ""
) -> Documents:
    """The documents of all parts."""
    logps = [np.full(len(one.slack), np.nan) if one.logp is None else one.logp for one in parts]
    starts = np.cumsum([0, *(one.offsets[-1] for one in parts)])
    offsets = [one.offsets[1:] + start for one, start in zip(parts, starts, strict=False)]
    return Documents(
        ids=PartedIds(parts, rebuild),
        offsets=np.concatenate([[0], *offsets]).astype(np.int64),
        slack=np.concatenate([one.slack for one in parts]),
        logp=np.concatenate(logps) if any(one.logp is not None for one in parts) else None,
        size=sum(one.size for one in parts),
        empty=sum(one.empty for one in parts),
        skipped=sum(one.skipped for one in parts),
        listed=listed,
        fingerprint=name,
    )


def _listed(parts: Sequence[TokenPart]) -> str:
    """The file that lists the skipped records of all parts."""
    if len(parts) == 1:
        return str(parts[0].path / LISTED)
    path = parts[0].path.parent / LISTED
    text = b"".join((one.path / LISTED).read_bytes() for one in parts if one.skipped)
    if not path.exists() or path.read_bytes() != text:
        with cache.full_disk(path):
            cache.write_whole(path, text)
    return str(path)


def _fill(paths: Sequence[Path], unread: "Unread", tokenizer: Tokenizer, workers: int) -> None:
    """Writes the parts that are missing: of several processes of a run that share the folder each begins with its own
    share, and goes on with what the others have not come to from the end.
    """
    for left in paths[0].parent.parent.glob(f".{paths[0].parent.name.removesuffix('.parts')}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)  # a damaged cache of one part
    missing = [k for k, path in enumerate(paths) if not token_parts.there(path)]
    if not missing:
        return
    place, count = processes.place()
    own = [k for k in missing if k % count == place]
    order = [*own, *(k for k in reversed(missing) if k % count != place)]
    total = int(np.diff(unread.ends)[missing].sum())
    with (
        bar(f"tokenising {unread.records.label}"[:60], total, least=_LEAST_BAR) as advance,
        TokenWorkers(tokenizer, workers, advance) as pool,
    ):
        for k, text in unread.texts(order, lambda k: paths[k].is_dir()):
            pool.submit(paths[k], text, int(unread.ends[k + 1] - unread.ends[k]))


@dataclasses.dataclass(frozen=True)
class Unread:
    """The records of a source as parts of texts."""

    records: Records
    field: str
    policy: str
    fim: Fim | None
    ends: np.ndarray  # i64[P + 1], of token_parts.bounds

    def texts(
        self, order: Sequence[int], there: Callable[[int], bool] = lambda k: False
    ) -> Iterator[tuple[int, PartText]]:
        """(number, texts) of parts, without those that are there once they would be read.

        The draws of fill-in-the-middle are those of the documents in order, so that it reads the parts before, too.
        """
        wanted, rng = set(order), np.random.Generator(np.random.Philox(self.fim.seed)) if self.fim else None
        for k in range(max(order) + 1) if self.fim else order:
            if rng is None and there(k):
                continue
            part = self._read(k)
            if rng is not None:
                part = part._replace(draws=rng.random((len(part.texts), 3)))
            if k in wanted and not there(k):
                yield k, part

    def _read(self, k: int) -> PartText:
        first, last = self.ends[k : k + 2].tolist()
        index = np.arange(first, last) if self.records.index is None else self.records.index[first:last]
        skips, full, read = Skips(self.policy), [], 0
        for block in texts(dataclasses.replace(self.records, index=index), self.field, skips):
            read += len(block)
            full += [(text, logp) for text, logp in block if text.strip()]
        return PartText(
            texts=[text for text, _ in full],
            logps=[logp for _, logp in full],
            draws=None,
            fim_rate=self.fim.rate if self.fim else 0.0,
            empty=read - len(full),
            skipped=len(skips),
            listed=skips.content(),
        )


def text_of(record: dict[str, Any], field: str) -> tuple[str, str]:
    """(the text, what is wrong with it or an empty string)."""
    text = record.get(field)
    if isinstance(text, bytes):
        return "", f"field {field!r} is invalid UTF-8"
    if not isinstance(text, str):
        return "", f"field {field!r} is not a string but {type(text).__name__}"
    return (
        (text, "")
        if is_unicode(text)
        else ("", f"field {field!r} holds half a surrogate pair, which is not text")
    )


def texts(
    records: Records, field: str, skips: Skips, seed: int | None = None
) -> Iterator[list[tuple[str, float]]]:
    """Blocks of (text, logp or NaN) of the records that hold text; the others go to `skips`."""
    for start, block in records.blocks(seed):
        good = []
        for i, record in enumerate(block, start):
            text, wrong = text_of(record, field)
            if wrong:
                skips.bad(records.where(i), wrong)
                continue
            logp = record.get("logp")
            good.append((text, float(logp) if isinstance(logp, float) and np.isfinite(logp) else np.nan))
        yield good
