"""Tokenised documents in a memory-mapped cache."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.data import mlm_fim
from jaxtrain.data.bad_records import Skips, is_unicode
from jaxtrain.data.held_out import NoneUsable
from jaxtrain.data.sources import Records
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache
from jaxtrain.files.progress import bar

_FORMAT = 1  # of the folder; part of its name
_RUN = 1 << 22  # characters encoded at once
_LEAST_BAR = 50_000  # documents from which on progress is shown


@dataclasses.dataclass(frozen=True)
class Fim:
    """Fill-in-the-middle for a share `rate` of the documents, the same ones for the same seed."""

    rate: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Documents:
    """Documents as BOS … EOS, one after the other in `ids`."""

    ids: np.ndarray  # u16 or u32, memory-mapped
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
) -> Documents:
    """The documents of `records`, tokenised once and cached in `folder`.

    Documents of white space alone are dropped and counted. Records without text raise ConfigError, or are
    counted and listed if `policy` is skip. Raises NoneUsable, naming `flag`, where no document is left.
    """
    name = cache.digest(_FORMAT, records.fingerprint, tokenizer.fingerprint, field, policy, fim)
    path = cache.build(
        folder / "tokens" / name, lambda work: _fill(work, records, tokenizer, field, policy, fim)
    )
    meta = json.loads((path / "meta.json").read_text())
    if not meta["documents"]:
        raise NoneUsable(
            f"--{flag}={records.label}: no document left ({meta['empty']} empty, {meta['skipped']} skipped); "
            "check --text_field"
        )
    offsets = np.load(path / "offsets.npy")
    ids = np.memmap(path / "ids.bin", np.dtype(meta["dtype"]), "r", shape=(int(offsets[-1]),)).view(
        np.ndarray
    )
    logp = np.load(path / "logp.npy") if (path / "logp.npy").exists() else None
    return Documents(
        ids=ids,
        offsets=offsets,
        slack=np.load(path / "slack.npy"),
        logp=logp,
        size=meta["bytes"],
        empty=meta["empty"],
        skipped=meta["skipped"],
        listed=str(path / "skipped.jsonl"),
        fingerprint=name,
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


def _fill(
    work: Path, records: Records, tokenizer: Tokenizer, field: str, policy: str, fim: Fim | None
) -> None:
    skips = Skips(policy)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    lengths, slack, logps, size, empty = [], [], [], 0, 0
    draws = _draws(fim, len(records)) if fim else itertools.repeat(np.zeros(3))
    with (
        bar(f"tokenising {records.label}"[:60], len(records), least=_LEAST_BAR) as advance,
        (work / "ids.bin").open("wb") as file,
    ):
        for block in texts(records, field, skips):
            advance(len(block))
            full = [(text, logp) for text, logp in block if text.strip()]
            empty += len(block) - len(full)
            parts = [mlm_fim.fim_parts(text, next(draws), fim.rate if fim else 0.0) for text, _ in full]
            encoded = _encode(tokenizer, [part for document in parts for part in document])
            for (text, logp), document in zip(full, parts, strict=True):
                inner = mlm_fim.fim_join([next(encoded) for _ in document], tokenizer.fim)
                ids = np.concatenate([[tokenizer.bos], *inner, [tokenizer.eos]])
                file.write(ids.astype(dtype).tobytes())
                count = len(text.encode())
                size += count
                lengths.append(len(ids))
                slack.append(count - int(tokenizer.byte_lengths[ids].sum()))
                logps.append(logp)
    np.save(work / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
    np.save(work / "slack.npy", np.asarray(slack, np.int32))
    if not np.isnan(logps).all():
        np.save(work / "logp.npy", np.asarray(logps, np.float64))
    skips.save(work)
    meta = {
        "documents": len(lengths),
        "bytes": size,
        "empty": empty,
        "skipped": len(skips),
        "dtype": dtype.name,
    }
    (work / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _encode(tokenizer: Tokenizer, parts: list[str]) -> Iterator[np.ndarray]:
    """The ids of each part, encoded a few megabytes at a time: encodings take many times the memory of their text."""
    run, size = [], 0
    for part in parts:
        run.append(part)
        size += len(part)
        if size > _RUN:
            yield from tokenizer.encode(run)
            run, size = [], 0
    yield from tokenizer.encode(run)


def _draws(fim: Fim, count: int) -> Iterator[np.ndarray]:
    return iter(np.random.Generator(np.random.Philox(fim.seed)).random((count, 3)))
