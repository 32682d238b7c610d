"""Synthetic data: questions on a topic, expert answers, reasoning whose answer is checked, conversations, rephrasings.

A unit, numbered from 0, is a topic to generate questions about, or a given conversation. Its rows depend on the
settings, its number and its seed alone, so that a run that stops continues with the same rows.
"""

import collections
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.apps.synthesis import prompts, screening
from jaxtrain.apps.synthesis.prompts import PromptStyle
from jaxtrain.data.messages import Message
from jaxtrain.data.preferences_db import prompt_field
from jaxtrain.data.prompts import Prompt, question
from jaxtrain.inference.llm import (
    CUT_OFF,
    FILTERED,
    LLM,
    REFUSED,
    UNFINISHED,
    Completion,
    Request,
    derive_seed,
)
from jaxtrain.inference.llm_judge import Judge, JudgeCase

SHOWN = 60  # characters of a question that name a row
TRIES = 3  # requests for a reply that stays malformed
WARM = 0.5  # least temperature of a repeated request
_QUESTION, _REPLY, _TURN = range(3)  # what a seed is for


class SynthesisConfig(NamedTuple):
    """Everything that decides the rows."""

    kind: str
    style: PromptStyle
    generator: LLM
    expert: LLM
    seed: int = 0
    topics: tuple[str, ...] = ()
    given: tuple[Prompt, ...] = ()  # instead of topics
    examples: tuple[str, ...] = ()  # questions, of which each request for questions shows `shots`
    shots: int = 0
    per_ask: int = 1  # questions, or rephrasings, of one request
    samples: int = 1  # answers to each question; of reasoning the votes
    turns: int = 1  # questions of a conversation
    agreement: float = 0.5  # least share of the votes that reasoning's answer needs
    answer_field: str = ""  # field of a given record with the answer that reasoning must come to
    temperature: float = 1.0  # of the generator
    answer_temperature: float = 1.0  # of the expert
    max_new: int = 256


class DraftRow(NamedTuple):
    """A row before it is filtered; `fault` is why it is unusable."""

    messages: tuple[Message, ...]
    answer: str
    provenance: dict[str, Any]
    fault: str = ""
    record: Mapping[str, Any] = {}
    metrics: Mapping[str, float] = {}  # further fields of the row
    thought: str = ""  # of the model, before the answer

    def reply(self) -> Message:
        """The message of the answer."""
        return Completion(self.answer, "stop", thought=self.thought).message()


class RowFilter(NamedTuple):
    """The checks that a draft must pass."""

    min_chars: int
    max_chars: int
    language: Callable[[str], str]
    seen: screening.NearDuplicateIndex
    judge: Judge | None
    min_score: float


def drafts(cfg: SynthesisConfig, units: Sequence[int]) -> list[DraftRow]:
    """The drafts of units, in their order."""
    if cfg.kind == "conversation":
        return _conversations(cfg, units)
    if cfg.kind == "augment":
        return _rephrased(cfg, units)
    questions = [_given(cfg, unit) for unit in units] if cfg.given else _questions(cfg, units)
    answered = iter(_answers(cfg, [one for one in questions if not one.fault]))
    return [draft for one in questions for draft in ([one] if one.fault else next(answered))]


def _given(cfg: SynthesisConfig, unit: int) -> DraftRow:
    one = cfg.given[unit]
    return DraftRow(one.messages, one.answer, _provenance(cfg, unit, parents=[one.name]), record=one.record)


def _provenance(cfg: SynthesisConfig, unit: int, **more: Any) -> dict[str, Any]:
    """The provenance of a row: models, prompts, seed, parents."""
    topic = {"topic": topic_of(cfg, unit)} if cfg.topics else {}
    origin = {"kind": cfg.kind, "unit": unit, "seed": cfg.seed, **topic, "generator": cfg.generator.name}
    return {**origin, "expert": cfg.expert.name, "parents": [], "prompts": {}, **more}


def drafts_per_unit(cfg: SynthesisConfig) -> int:
    """The most drafts of a unit."""
    questions = cfg.per_ask if cfg.kind == "augment" or not cfg.given else 1
    return questions * (cfg.samples if cfg.kind == "qa" else 1)


def topic_of(cfg: SynthesisConfig, unit: int) -> str:
    """The topic of a unit; empty where there are none."""
    return cfg.topics[unit % len(cfg.topics)] if cfg.topics else ""


def examples_for(cfg: SynthesisConfig, unit: int) -> list[str]:
    """The few-shot examples in a unit's request for questions."""
    places = np.random.default_rng((cfg.seed, unit)).permutation(len(cfg.examples))[: cfg.shots]
    return [cfg.examples[i] for i in places]


def question_request(cfg: SynthesisConfig, unit: int) -> Request:
    """The request for a unit's questions."""
    request = cfg.style.questions(
        topic_of(cfg, unit), cfg.per_ask, examples_for(cfg, unit), cfg.kind == "reasoning"
    )
    return _with_sampling(cfg, request, unit, _QUESTION)


def _with_sampling(cfg: SynthesisConfig, request: Request, *place: int) -> Request:
    return request._replace(
        seed=derive_seed(cfg.seed, *place), temperature=cfg.temperature, max_new=cfg.max_new
    )


def _questions(cfg: SynthesisConfig, units: Sequence[int]) -> list[DraftRow]:
    """Drafts without an answer; one with a fault for a unit whose reply stays malformed."""
    requests = [question_request(cfg, unit) for unit in units]
    reads = [lambda text, unit=unit: cfg.style.read_questions(topic_of(cfg, unit), text) for unit in units]
    out = []
    for unit, request, texts in zip(
        units, requests, read_replies(cfg.generator, requests, reads), strict=True
    ):
        provenance = _provenance(
            cfg, unit, parents=examples_for(cfg, unit), prompts={"question": prompt_text(request)}
        )
        if isinstance(texts, UnreadReply):
            out.append(DraftRow((), "", provenance, texts.fault("questions")))
            continue
        for text in texts[: cfg.per_ask]:
            out.append(DraftRow(({"role": "user", "content": text},), "", provenance))
    return out


class UnreadReply(NamedTuple):
    """The last of TRIES replies that could not be read."""

    completion: Completion
    max_new: int

    def fault(self, wanted: str) -> str:
        """The reason why there are no `wanted` texts."""
        ending = _unfinished(self.completion, self.max_new)
        return ending or f"malformed: {TRIES} replies are no {wanted}"


def read_replies(
    model: LLM, requests: Sequence[Request], reads: Sequence[Callable[[str], Any | None]]
) -> list[Any]:
    """The parsed reply to each request; an UnreadReply where it stays malformed or cut in TRIES requests."""
    parsed: list[Any] = [None] * len(requests)
    for attempt in range(TRIES):
        missing = [i for i, one in enumerate(parsed) if one is None or isinstance(one, UnreadReply)]
        again = [_repeated(requests[i], attempt) if attempt else requests[i] for i in missing]
        for i, (reply, *_) in zip(missing, model.generate(again) if again else (), strict=True):
            read = reads[i](reply.text) if reply.finish_reason not in UNFINISHED else None
            parsed[i] = UnreadReply(reply, requests[i].max_new) if read is None else read
    return parsed


def _repeated(request: Request, attempt: int) -> Request:
    """The request once more, with another seed, at a temperature of at least WARM."""
    return request._replace(
        seed=derive_seed(request.seed, attempt), temperature=max(request.temperature, WARM)
    )


def prompt_text(request: Request) -> str:
    """The prompt of a request, for provenance."""
    return request.messages[-1]["content"]


def _answers(cfg: SynthesisConfig, questions: Sequence[DraftRow]) -> Iterator[list[DraftRow]]:
    """The answers to each question; of reasoning the one that its samples agree on (`_majority`)."""
    answer_request = cfg.style.reason if cfg.kind == "reasoning" else cfg.style.answer
    requests = []
    for n, one in enumerate(questions):
        request = answer_request(one.messages, one.provenance.get("topic", ""), cfg.expert.chat)
        place = (one.provenance["unit"], _REPLY, _place(questions, n))
        request = _with_sampling(cfg, request, *place)
        requests.append(request._replace(samples=cfg.samples, temperature=cfg.answer_temperature))
    replies_of = cfg.expert.generate(requests) if requests else []
    for one, request, replies in zip(questions, requests, replies_of, strict=True):
        prompts = one.provenance["prompts"] | {"answer": prompt_text(request)}
        one = one._replace(provenance=one.provenance | {"prompts": prompts})
        yield (
            [_majority(cfg, one, replies)]
            if cfg.kind == "reasoning"
            else [_answered(cfg, one, reply) for reply in replies]
        )


def _place(questions: Sequence[DraftRow], n: int) -> int:
    """The number of a question among those of its unit."""
    unit, first = questions[n].provenance["unit"], n
    while first and questions[first - 1].provenance["unit"] == unit:
        first -= 1
    return n - first


def _answered(cfg: SynthesisConfig, one: DraftRow, reply: Completion) -> DraftRow:
    """The draft with a completion as its answer, or its fault."""
    fault = _unfinished(reply, cfg.max_new)
    return one._replace(answer=reply.text.strip(), thought=reply.thought, fault=fault)


def _unfinished(reply: Completion, max_new: int) -> str:
    """Why a completion did not end by itself; empty where it did."""
    if reply.finish_reason == REFUSED:
        return f"refused: {reply.detail or 'the model takes no such prompt, or has no room for it'}"
    if reply.finish_reason == FILTERED:
        return "filtered: the endpoint's content filter ended it"
    if reply.finish_reason == CUT_OFF:
        thinks = " of thought and answer" if reply.thought else ""
        return f"cut: no end in {max_new} tokens{thinks}"
    return ""


def _majority(cfg: SynthesisConfig, one: DraftRow, replies: Sequence[Completion]) -> DraftRow:
    """Self-consistency (arXiv:2203.11171): the first sample that comes to the most frequent answer.

    Samples without an answer vote for nothing, but count. A known answer decides instead of the majority.
    """
    finals = [
        cfg.style.final(reply.text) if reply.finish_reason not in UNFINISHED else None for reply in replies
    ]
    votes = collections.Counter(final for final in finals if final is not None)
    if not votes:
        one = _answered(cfg, one, replies[0])
        return one._replace(fault=one.fault or "malformed: no reasoning ends with an answer")
    best, count = votes.most_common(1)[0]
    share = count / len(replies)
    one = _answered(cfg, one, replies[finals.index(best)])._replace(metrics={"agreement": round(share, 4)})
    if cfg.answer_field:
        known = prompts.normalised_answer(str(one.record.get(cfg.answer_field, "")))
        if known not in votes:
            return one._replace(fault="wrong: no sample comes to the known answer")
        right = votes[known] / len(replies)
        one = _answered(cfg, one, replies[finals.index(known)])
        return one._replace(metrics={"agreement": round(right, 4)})
    return (
        one
        if share >= cfg.agreement
        else one._replace(fault=f"disagreement: below {cfg.agreement:g} of the votes")
    )


def _conversations(cfg: SynthesisConfig, units: Sequence[int]) -> list[DraftRow]:
    """Conversations: user turns by the generator, assistant turns by the expert."""
    dialogs = [
        _given(cfg, unit)._replace(answer="") if cfg.given else DraftRow((), "", _provenance(cfg, unit))
        for unit in units
    ]
    for turn in range(cfg.turns):
        if turn or not cfg.given:
            dialogs = _user_turns(cfg, dialogs, turn)
        live = [i for i, one in enumerate(dialogs) if not one.fault]
        requests = [_answer_request(cfg, dialogs[i], turn) for i in live]
        for i, request, (reply,) in zip(
            live, requests, cfg.expert.generate(requests) if requests else (), strict=True
        ):
            prompts = dialogs[i].provenance["prompts"] | {f"answer {turn}": prompt_text(request)}
            provenance = dialogs[i].provenance | {"prompts": prompts}
            one = _answered(cfg, dialogs[i]._replace(provenance=provenance), reply)
            empty = "" if one.answer else "empty: an assistant's turn says nothing"
            dialogs[i] = one._replace(fault=one.fault or empty)
    return dialogs


def _answer_request(cfg: SynthesisConfig, one: DraftRow, turn: int) -> Request:
    request = cfg.style.answer(one.messages, one.provenance.get("topic", ""), cfg.expert.chat)
    request = _with_sampling(cfg, request, one.provenance["unit"], _REPLY, turn)
    return request._replace(temperature=cfg.answer_temperature)


def _user_turns(cfg: SynthesisConfig, dialogs: Sequence[DraftRow], turn: int) -> list[DraftRow]:
    """The conversations with one more user turn."""
    out = list(dialogs)
    live = [i for i, one in enumerate(dialogs) if not one.fault]
    requests, reads = [], []
    for i in live:
        one = dialogs[i]
        before = (*one.messages, *([one.reply()] if one.answer else []))
        topic = one.provenance.get("topic", "")
        out[i] = one._replace(messages=before, answer="", thought="")
        requests.append(
            _with_sampling(cfg, cfg.style.turn(before, topic), one.provenance["unit"], _TURN, turn)
        )
        reads.append(lambda text, topic="" if turn else topic: cfg.style.read_turn(topic, text))
    for i, request, parsed in zip(live, requests, read_replies(cfg.generator, requests, reads), strict=True):
        prompts = out[i].provenance["prompts"] | {f"question {turn}": prompt_text(request)}
        out[i] = out[i]._replace(provenance=out[i].provenance | {"prompts": prompts})
        if isinstance(parsed, UnreadReply):
            out[i] = out[i]._replace(fault=parsed.fault("turn"))
        else:
            out[i] = out[i]._replace(messages=(*out[i].messages, {"role": "user", "content": parsed}))
    return out


def _rephrased(cfg: SynthesisConfig, units: Sequence[int]) -> list[DraftRow]:
    """Given conversations with their last question in other words; the answer stays."""
    drafts = [_given(cfg, unit) for unit in units]
    requests = [
        _with_sampling(cfg, cfg.style.rephrase(question(one.messages), cfg.per_ask), unit, _QUESTION)
        for unit, one in zip(units, drafts, strict=True)
    ]
    out = []
    parsed = read_replies(cfg.generator, requests, [cfg.style.read_texts] * len(requests))
    for one, request, texts in zip(drafts, requests, parsed, strict=True):
        one = one._replace(provenance=one.provenance | {"prompts": {"question": prompt_text(request)}})
        if isinstance(texts, UnreadReply):
            out.append(one._replace(fault=texts.fault("rephrasings")))
            continue
        for text in texts[: cfg.per_ask]:
            same = text.split() == question(one.messages).split()
            fault = "unchanged: the text itself came back" if same else ""
            out.append(
                one._replace(
                    messages=(*one.messages[:-1], {**one.messages[-1], "content": text}), fault=fault
                )
            )
    return out


def filter_drafts(
    drafts: Sequence[DraftRow], row_filter: RowFilter, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """(rows, rejected rows with their reason, the judge's counts); each draft is in one of them."""
    faults = [one.fault or _fault(one, row_filter) for one in drafts]
    twins = [
        ("", None) if fault else row_filter.seen.twin(_full_text(one))
        for one, fault in zip(drafts, faults, strict=True)
    ]
    faults = [fault or twin[0] for fault, twin in zip(faults, twins, strict=True)]
    scores: dict[int, float | None] = {}
    unjudged: dict[int, str] = {}
    counts: dict[str, float] = {}
    if row_filter.judge:
        live = [i for i, fault in enumerate(faults) if not fault]
        cases = [JudgeCase(drafts[i].messages, drafts[i].answer, drafts[i].record) for i in live]
        judged = row_filter.judge.score(cases, seed)
        scores, counts = dict(zip(live, judged.values, strict=True)), judged.counts
        unjudged = dict(zip(live, judged.faults, strict=True))
    rows, rejected = [], []
    for i, one in enumerate(drafts):
        fault, twin = faults[i], twins[i][1]
        if not fault and row_filter.judge:
            fault = _score_fault(scores[i], row_filter.min_score, unjudged[i])
        if not fault:
            fault, twin = row_filter.seen.twin(_full_text(one))
        row = _row(one, scores.get(i))
        if fault:
            rejected.append({"reason": fault, **({"twin": twin} if twin is not None else {}), **row})
            continue
        add_accepted(row_filter.seen, row)
        rows.append(row)
    return rows, rejected, counts


def _fault(one: DraftRow, row_filter: RowFilter) -> str:
    if not one.answer.strip():
        return "empty: the answer says nothing"
    return screening.length_fault(
        one.answer, row_filter.min_chars, row_filter.max_chars
    ) or row_filter.language(_full_text(one))


def _score_fault(score: float | None, least: float, why_none: str) -> str:
    if score is None:
        return f"not judged: {why_none}"
    return "" if score >= least else f"score: below {least:g}"


def _full_text(one: DraftRow) -> str:
    return "\n".join([*(message["content"] for message in one.messages), one.answer])


def texts(row: Mapping[str, Any]) -> list[str]:
    """The texts of a row, the answer last."""
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    sides = (row["prompt"], row["completion"])
    return [
        text
        for side in sides
        for text in ([side] if isinstance(side, str) else [one["content"] for one in side])
    ]


def add_accepted(seen: screening.NearDuplicateIndex, row: Mapping[str, Any]) -> None:
    """Adds an accepted row to the index of near duplicates."""
    parts = texts(row)
    seen.add("\n".join(parts), parts[-2][:SHOWN])


def _row(one: DraftRow, score: float | None) -> dict[str, Any]:
    """A draft as a record that other stages read."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if one.provenance["kind"] == "conversation":
        row: dict[str, Any] = {"messages": [*one.messages, one.reply()]}
    else:
        completion = [one.reply()] if one.thought else one.answer
        row = {"prompt": prompt_field(list(one.messages)), "completion": completion}
    row |= {"score": round(score, 6)} if score is not None else {}
    return {**row, **one.metrics, "provenance": one.provenance | {"time": now}}
