"""Stored completions with their model's log-probabilities of each token, as rows to distil from.

A record is OpenAI's chat.completion object with the conversation of the request, under `input`, `messages` or
`request.messages`. Its tokens are the teacher's; where the student's tokenizer cuts the text at the same bytes, the
student is trained on their distribution, elsewhere on the token as it is.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import Dialogs
from jaxtrain.data import completions_db, dialogs, pipeline, record_formats, source_spec, sources, summary
from jaxtrain.data import held_out as held_out_rows
from jaxtrain.data.bad_records import Skips, is_unicode
from jaxtrain.data.chat import Template
from jaxtrain.data.held_out import NoneUsable
from jaxtrain.data.messages import BadRecord, Message, messages_of, speaks, text_of
from jaxtrain.data.mlm_fim import Row
from jaxtrain.data.pipeline import DataPipeline, LocalRows, Stream
from jaxtrain.data.preferences import alternatives
from jaxtrain.data.record_fields import RecordFields, template_kwargs
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache

MOST = 21  # alternatives of a token: the API gives 20 at most, and the token itself
BLANK = -np.inf
_LARGEST = 1e-6  # of a log-probability: 0 and what rounding adds

_LINES = {
    "length": "{:,} completions cut off by their limit left out",
    "unfinished": "{:,} completions that were filtered or refused left out",
    "bare": "{:,} completions without log-probabilities left out",
    "speaks": "{:,} completions with a thought or a tool call, of which the log-probabilities are not all, left out",
    "torn": "{:,} completions whose tokens are no UTF-8, so that their text is not what was sampled, left out",
    "long": "{:,} conversations that do not fit --seq_len left out",
    "shortened": "{:,} prompts lost their beginning",
    "cut elsewhere": "{:,} tokens are cut elsewhere than the teacher's, and trained on as they are",
    "no logprobs": "{:,} ends or other tokens without the teacher's log-probabilities, trained on as they are",
}


class LogprobRecords(NamedTuple):
    """A completion with its teacher's log-probabilities."""

    prompt: np.ndarray  # i32[p]
    completion: np.ndarray  # i32[n]
    ids: np.ndarray  # i32[n, MOST], the teacher's likeliest tokens, −1 where there are fewer
    logps: np.ndarray  # f32[n, MOST]


def question(record: dict[str, Any]) -> tuple[Message, ...]:
    """The conversation of a record's request. Raises BadRecord where it has none."""
    return messages_of(completions_db.question(record), "input")


class LogprobReader:
    """A reader of stored completions for one tokenizer, which counts what it leaves out."""

    def __init__(self, template: Template, T: int, shorten: bool = True):
        self.template, self._T, self._shorten, self.counts = template, T, shorten, Counter[str]()
        tokenizer = template.tokenizer
        self._sizes = tokenizer.byte_lengths
        self._by_bytes = {piece: i for i, piece in enumerate(tokenizer.pieces) if piece}

    def read(self, record: dict[str, Any]) -> Iterator[LogprobRecords]:
        """Each choice that can be trained on. Raises BadRecord for a record that is no stored completion."""
        choices = record.get("choices")
        if not isinstance(choices, list) or not choices:
            raise BadRecord("no choices: it is not a stored completion")
        messages, variables = question(record), template_kwargs(RecordFields(record))
        for choice in choices:
            if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
                raise BadRecord("no message: a choice of it has none")
            if choice["message"].get("role") != "assistant":
                raise BadRecord("no assistant turn: the message of a choice is not an assistant's")
            self.counts["read"] += 1
            if completions_db.unfinished(choice):
                self.counts["length" if choice.get("finish_reason") == "length" else "unfinished"] += 1
                continue
            content = _tokens(choice.get("logprobs"))
            if not content:
                self.counts["bare"] += 1
                continue
            if speaks(choice["message"]):
                self.counts["speaks"] += 1
                continue
            text = text_of(choice["message"].get("content"), "content of a choice")
            if (row := self._row(messages, text, content, variables)) is not None:
                yield row

    def _row(
        self,
        messages: tuple[Message, ...],
        text: str,
        content: Sequence[Any],
        variables: Mapping[str, Any],
    ) -> LogprobRecords | None:
        spans = self._spans(text, content)
        if spans is None:
            self.counts["torn"] += 1
            return None
        prompt, (completion,), _ = self.template.encode_completions(messages, [text], variables)
        room = self._T - len(completion)
        fitting = prompt if len(prompt) <= room else None
        if fitting is None and self._shorten and room > 0:
            fitting = dialogs.shorten(prompt, room, self.template.tokenizer.bos)
            self.counts["shortened"] += fitting is not None
        if fitting is None:
            self.counts["long"] += 1
            return None
        ids = np.full((len(completion), MOST), -1, np.int32)
        logps = np.full((len(completion), MOST), BLANK, np.float32)
        start = self._lead(completion, text)
        for i, token in enumerate(completion):
            span = (start, start + int(self._sizes[token]))
            start = span[1]
            entry = spans.get(span)
            if entry is None or (span[0] == span[1] and self._id(entry) != token):
                self.counts["no logprobs" if span[0] == span[1] else "cut elsewhere"] += 1
                continue
            likeliest = self._alternatives(entry, int(token))
            if not likeliest:
                self.counts["no logprobs"] += 1
                continue
            ids[i, : len(likeliest)] = list(likeliest)
            logps[i, : len(likeliest)] = list(likeliest.values())
            self.counts["with logprobs"] += 1
        return LogprobRecords(fitting, completion, ids, logps)

    def _lead(self, completion: np.ndarray, text: str) -> int:
        """Where in the answer's bytes the first id begins: a template may put white space in front of it."""
        return len(text.encode()) - int(self._sizes[completion].sum())

    def _spans(self, text: str, content: Sequence[Any]) -> dict[tuple[int, int], Any] | None:
        """The teacher's tokens by the bytes of the text that they are; None where these bytes are no UTF-8.

        Raises BadRecord where they are not its tokens.
        """
        spans, at, spelt = {}, 0, b""
        for entry in content:
            piece = _bytes(entry)
            spelt += piece
            spans[(at, at + len(piece))] = entry
            at += len(piece)
        if spelt.strip() != text.encode().strip():
            if spelt.decode(errors="replace").strip() == text.strip():
                return None
            raise BadRecord("other tokens: those of logprobs.content do not spell the message")
        lead = len(spelt) - len(spelt.lstrip()) - (len(text.encode()) - len(text.encode().lstrip()))
        # A last token without bytes may be the end, which our server includes.
        return {(a - lead, b - lead): e for (a, b), e in spans.items() if b > a or e is content[-1]}

    def _alternatives(self, entry: dict[str, Any], token: int) -> dict[int, float]:
        """{id: log-probability}: the token that stands there, then the others that the student has too."""
        logps = {token: float(entry["logprob"])}
        for other in entry.get("top_logprobs") or ():
            i = self._id(other)
            if i is not None and len(logps) < MOST:
                logps.setdefault(i, float(other["logprob"]))
        # OpenAI writes −9999 for tokens that are too unlikely.
        return {i: logp for i, logp in logps.items() if logp > -1e3}

    def _id(self, entry: dict[str, Any]) -> int | None:
        """The student's token with its bytes, or, as a special one has none, with its name."""
        piece = _bytes(entry)
        return (
            self._by_bytes.get(piece) if piece else self.template.tokenizer.specials.get(entry.get("token"))
        )


def _tokens(logprobs: Any) -> Sequence[dict[str, Any]]:
    """The tokens of a choice's logprobs, none where these are null. Raises BadRecord where they are no tokens."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else logprobs
    if content is None:
        return ()
    if not isinstance(logprobs, dict) or not isinstance(content, list):
        raise BadRecord("no log-probability: logprobs is not an object whose content is a list")
    for entry in content:
        others = entry.get("top_logprobs") if isinstance(entry, dict) else None
        if not all(
            map(_is_token, (entry, *(others if isinstance(others, list) else [others] * bool(others))))
        ):
            raise BadRecord(
                "no log-probability: a token of logprobs.content, or one of its top_logprobs, is no object with token "
                "(a text), logprob (a number of at most 0) and bytes (a list of them, or null)"
            )
    return content


def _is_token(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    token, logprob, values = value.get("token", ""), value.get("logprob"), value.get("bytes")
    return (
        isinstance(token, str)
        and is_unicode(token)
        and (isinstance(logprob, float) or (type(logprob) is int and abs(logprob) < 1 << 53))
        and logprob <= _LARGEST
        and (
            values is None
            or (isinstance(values, list) and all(type(b) is int and 0 <= b < 256 for b in values))
        )
    )


def _bytes(entry: dict[str, Any]) -> bytes:
    values = entry.get("bytes")
    return bytes(values) if values is not None else str(entry.get("token", "")).encode()


class _Rows:
    """Rows of one completion each, by number."""

    def __init__(self, records: Sequence[LogprobRecords], T: int, pad: int):
        self._records, self._T, self._pad = records, T, pad

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, r: int) -> Row:
        one, T = self._records[int(r)], self._T
        row = alternatives([(one.prompt, one.completion)], 1, T, self._pad)
        row = {name: x[0] for name, x in row.items() if name != "length"}
        first = len(one.prompt) - 1
        row["teacher_ids"] = np.full((T, MOST), -1, np.int32)
        row["teacher_logps"] = np.full((T, MOST), BLANK, np.float32)
        row["teacher_ids"][first : first + len(one.ids)] = one.ids
        row["teacher_logps"][first : first + len(one.ids)] = one.logps
        return row


def prepare(
    cfg: Dialogs, *, seed: int, tokenizer: Tokenizer, template: Template, local_rows: LocalRows = np.arange
) -> DataPipeline:
    """The training and held-out streams of stored completions, a completion a row.

    A batch has tokens, targets, segments, positions i32[B, T], mask f32[B, T], teacher_ids i32[B, T, k] and
    teacher_logps f32[B, T, k]. Raises ConfigError for whatever is wrong with the data.
    """
    source_spec.check(cfg)
    train, held_out = pipeline.open_sources(cfg, None)
    make = functools.partial(_read, cfg=cfg, template=template)
    sides = held_out_rows.rows_of(cfg, train, held_out, make)
    sets = [[_Rows(records, cfg.seq_len, tokenizer.pad) for records, _ in side] for side in sides]
    endless, _ = pipeline.mixed_rows(sets[0], train, seed, cfg.batch_size)
    blank = {name: np.zeros_like(x) for name, x in sets[0][0][0].items()}
    lines = [
        (f"{name} {records.label}", line)
        for name, opened, read in zip(("train", "held out"), (train, held_out), sides, strict=True)
        for (_, records), (_, about) in zip(opened, read, strict=True)
        for line in about
    ]
    sizes = [len(one) for one in sets[0]]
    return DataPipeline(
        tokenizer=dialogs.with_template(tokenizer, template),
        train=Stream(lambda i: endless[i], cfg.batch_size, local_rows),
        eval=pipeline.held_out_stream(sets[1], blank, lambda i, row: row, cfg.batch_size, local_rows),
        table=[*dialogs.about_template(template), *lines, *summary.mix(cfg, train, sizes, held_out)],
        fingerprints=dialogs.fingerprints(
            template,
            *([cache.digest("stored", records.fingerprint) for _, records in opened] for opened in (train, held_out)),
        ),
    )  # fmt: skip


def _read(
    flag: str, source: DataSource, records: Records, cfg: Dialogs, template: Template
) -> tuple[list[LogprobRecords], list[str]]:
    """(the records that can be trained on, lines about them and the others)."""
    reader = LogprobReader(template, cfg.seq_len, cfg.too_long == "cut")
    skips, usable = Skips(cfg.on_bad_record), []
    for start, block in records.blocks():
        for i, record in enumerate(block, start):
            before = reader.counts.copy()
            where = functools.partial(records.where, i)
            rows = record_formats.attempt(lambda record=record: [*reader.read(record)], skips, where)
            if rows is record_formats.BAD:
                reader.counts = before
            else:
                usable += rows
    counts = reader.counts
    if not usable:
        raise NoneUsable(
            f"--{flag}={source.label}: no completion with log-probabilities among {counts['read']:,} "
            f"({'; '.join(line for line in _left_out(counts)) or 'it is empty'}): store them with logprobs=True and "
            "top_logprobs=20, or train on the texts with ./launch/run sft"
        )
    skipped = [skips.in_words(sources.cache_dir(cfg))] if skips else []
    return usable, [*_about(usable, counts), *summary.of_files(records), *skipped]


def _about(usable: Sequence[LogprobRecords], counts: Counter[str]) -> Iterator[str]:
    tokens = sum(len(one.completion) for one in usable)
    yield (
        f"{len(usable):,} of {counts['read']:,} stored completions, {tokens:,} tokens, of "
        f"{counts['with logprobs']:,} the teacher's distribution"
    )
    yield from _left_out(counts)


def _left_out(counts: Counter[str]) -> Iterator[str]:
    yield from (line.format(counts[name]) for name, line in _LINES.items() if counts[name])
