"""Synthetic data: questions on a topic, expert answers, reasoning whose answer is checked, conversations, rephrasings.

The work is units, numbered from 0: a topic to ask questions about, or a given conversation. What a unit brings depends
on the settings, its number and its seed alone, so that a run that stops goes on with the same rows.
"""

import collections
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.apps.synthesis import prompts, screening
from jaxtrain.apps.synthesis.prompts import PromptStyle
from jaxtrain.data.prompts import Prompt, question
from jaxtrain.data.record_formats import Message
from jaxtrain.inference.llm import CUT_OFF, LLM, REFUSED, Completion, Request, derive_seed
from jaxtrain.inference.llm_judge import Judge, JudgeCase

SHOWN = 60  # characters of a question that name a row
TRIES = 3  # times that a malformed reply is asked for
WARM = 0.5  # least temperature at which one is asked for again
KINDS = ("qa", "reasoning", "conversation", "augment")
_QUESTION, _REPLY, _TURN = range(3)  # what a seed is for


class SynthesisConfig(NamedTuple):
    """All that decides what is made."""

    kind: str
    style: PromptStyle
    generator: LLM
    expert: LLM
    seed: int = 0
    topics: tuple[str, ...] = ()
    given: tuple[Prompt, ...] = ()  # instead of topics
    examples: tuple[str, ...] = ()  # questions, of which `shots` are shown with each ask for questions
    shots: int = 0
    per_ask: int = 1  # questions, or rephrasings, of one ask
    samples: int = 1  # answers to each question; of reasoning the votes
    turns: int = 1  # questions of a conversation
    agreement: float = 0.5  # least share of the votes that reasoning's answer needs
    answer_field: str = ""  # field of a given record with the answer that reasoning must come to
    temperature: float = 1.0  # of the generator
    answer_temperature: float = 1.0  # of the expert
    max_new: int = 256


class DraftRow(NamedTuple):
    """A row before it is judged; `fault` is why it is none."""

    messages: tuple[Message, ...]
    answer: str
    provenance: dict[str, Any]
    fault: str = ""
    record: Mapping[str, Any] = {}
    told: Mapping[str, float] = {}


class RowFilter(NamedTuple):
    """What a draft must pass."""

    min_chars: int
    max_chars: int
    language: Callable[[str], str]
    seen: screening.NearDuplicateIndex
    judge: Judge | None
    min_score: float


def drafts(how: SynthesisConfig, units: Sequence[int]) -> list[DraftRow]:
    """What units bring, in their order."""
    if how.kind == "conversation":
        return _conversations(how, units)
    if how.kind == "augment":
        return _rephrased(how, units)
    opened = [_given(how, unit) for unit in units] if how.given else _questions(how, units)
    asked = iter(_answers(how, [one for one in opened if not one.fault]))
    return [draft for one in opened for draft in ([one] if one.fault else next(asked))]


def _given(how: SynthesisConfig, unit: int) -> DraftRow:
    one = how.given[unit]
    return DraftRow(one.messages, one.answer, _provenance(how, unit, parents=[one.name]), record=one.record)


def _provenance(how: SynthesisConfig, unit: int, **more: Any) -> dict[str, Any]:
    """Where a row comes from: models, prompts, seed, parents."""
    topic = {"topic": topic_of(how, unit)} if how.topics else {}
    made = {"kind": how.kind, "unit": unit, "seed": how.seed, **topic, "generator": how.generator.name}
    return {**made, "expert": how.expert.name, "parents": [], "prompts": {}, **more}


def drafts_per_unit(how: SynthesisConfig) -> int:
    """Drafts that a unit brings at most."""
    asked = how.per_ask if how.kind == "augment" or not how.given else 1
    return asked * (how.samples if how.kind == "qa" else 1)


def topic_of(how: SynthesisConfig, unit: int) -> str:
    return how.topics[unit % len(how.topics)] if how.topics else ""


def examples_for(how: SynthesisConfig, unit: int) -> list[str]:
    """The examples that a unit's ask for questions shows."""
    places = np.random.default_rng((how.seed, unit)).permutation(len(how.examples))[: how.shots]
    return [how.examples[i] for i in places]


def question_request(how: SynthesisConfig, unit: int) -> Request:
    ask = how.style.questions(
        topic_of(how, unit), how.per_ask, examples_for(how, unit), how.kind == "reasoning"
    )
    return _drawn(how, ask, unit, _QUESTION)


def _drawn(how: SynthesisConfig, ask: Request, *place: int) -> Request:
    return ask._replace(seed=derive_seed(how.seed, *place), temperature=how.temperature, max_new=how.max_new)


def _questions(how: SynthesisConfig, units: Sequence[int]) -> list[DraftRow]:
    """Drafts without an answer; a unit whose reply stays malformed is one that says so."""
    asks = [question_request(how, unit) for unit in units]
    reads = [lambda text, unit=unit: how.style.read_questions(topic_of(how, unit), text) for unit in units]
    out = []
    for unit, ask, found in zip(units, asks, read_replies(how.generator, asks, reads), strict=True):
        known = _provenance(
            how, unit, parents=examples_for(how, unit), prompts={"question": prompt_text(ask)}
        )
        if found is None:
            out.append(DraftRow((), "", known, f"malformed: {TRIES} replies are no questions"))
        for text in (found or [])[: how.per_ask]:
            out.append(DraftRow(({"role": "user", "content": text},), "", known))
    return out


def read_replies(
    model: LLM, asks: Sequence[Request], reads: Sequence[Callable[[str], Any | None]]
) -> list[Any | None]:
    """What is read of one reply to each ask; a malformed or cut one is asked for again, TRIES times in all."""
    found: list[Any | None] = [None] * len(asks)
    for attempt in range(TRIES):
        missing = [i for i, one in enumerate(found) if one is None]
        again = [_again(asks[i], attempt) if attempt else asks[i] for i in missing]
        for i, replies in zip(missing, model.generate(again) if again else (), strict=True):
            found[i] = (
                reads[i](replies[0].text) if replies[0].finish_reason not in (CUT_OFF, REFUSED) else None
            )
    return found


def _again(ask: Request, attempt: int) -> Request:
    """The ask once more, warm enough for another reply."""
    return ask._replace(seed=derive_seed(ask.seed, attempt), temperature=max(ask.temperature, WARM))


def prompt_text(ask: Request) -> str:
    """The prompt of an ask, for provenance."""
    return ask.messages[-1]["content"]


def _answers(how: SynthesisConfig, opened: Sequence[DraftRow]) -> Iterator[list[DraftRow]]:
    """The answers to each question; of reasoning the one that its samples agree on."""
    write = how.style.reason if how.kind == "reasoning" else how.style.answer
    asks = []
    for n, one in enumerate(opened):
        ask = write(one.messages, one.provenance.get("topic", ""), how.expert.chat)
        place = (one.provenance["unit"], _REPLY, _place(opened, n))
        ask = _drawn(how, ask, *place)
        asks.append(ask._replace(samples=how.samples, temperature=how.answer_temperature))
    told = how.expert.generate(asks) if asks else []
    for one, ask, replies in zip(opened, asks, told, strict=True):
        prompts = one.provenance["prompts"] | {"answer": prompt_text(ask)}
        one = one._replace(provenance=one.provenance | {"prompts": prompts})
        yield (
            [_agreed(how, one, replies)]
            if how.kind == "reasoning"
            else [one._replace(answer=_text(reply), fault=_cut(how, reply)) for reply in replies]
        )


def _place(opened: Sequence[DraftRow], n: int) -> int:
    """The number of a question among those of its unit."""
    unit, first = opened[n].provenance["unit"], n
    while first and opened[first - 1].provenance["unit"] == unit:
        first -= 1
    return n - first


def _text(reply: Completion) -> str:
    return reply.text.strip()


def _cut(how: SynthesisConfig, reply: Completion) -> str:
    if reply.finish_reason == REFUSED:
        return "refused: the model takes no such prompt, or has no room for it"
    return f"cut: no end in {how.max_new} tokens" if reply.finish_reason == CUT_OFF else ""


def _agreed(how: SynthesisConfig, one: DraftRow, replies: Sequence[Completion]) -> DraftRow:
    """Self-consistency (arXiv:2203.11171): the first sample that comes to the most frequent answer.

    Samples without an answer vote for nothing, but count. A known answer decides instead of the majority.
    """
    finals = [
        how.style.final(reply.text) if reply.finish_reason not in (CUT_OFF, REFUSED) else None
        for reply in replies
    ]
    votes = collections.Counter(final for final in finals if final is not None)
    if not votes:
        said = _cut(how, replies[0]) or "malformed: no reasoning ends with an answer"
        return one._replace(answer=_text(replies[0]), fault=said)
    best, count = votes.most_common(1)[0]
    share = count / len(replies)
    one = one._replace(answer=_text(replies[finals.index(best)]), told={"agreement": round(share, 4)})
    if how.answer_field:
        known = prompts.normalised_answer(str(one.record.get(how.answer_field, "")))
        if known not in votes:
            return one._replace(fault="wrong: no sample comes to the known answer")
        right = votes[known] / len(replies)
        return one._replace(answer=_text(replies[finals.index(known)]), told={"agreement": round(right, 4)})
    return (
        one
        if share >= how.agreement
        else one._replace(fault=f"disagreement: below {how.agreement:g} of the votes")
    )


def _conversations(how: SynthesisConfig, units: Sequence[int]) -> list[DraftRow]:
    """Turns of a person, by the generator, and of an assistant, by the expert."""
    talks = [
        _given(how, unit)._replace(answer="") if how.given else DraftRow((), "", _provenance(how, unit))
        for unit in units
    ]
    for turn in range(how.turns):
        if turn or not how.given:
            talks = _person(how, talks, turn)
        live = [i for i, one in enumerate(talks) if not one.fault]
        asks = [_answer_ask(how, talks[i], turn) for i in live]
        for i, ask, (reply,) in zip(live, asks, how.expert.generate(asks) if asks else (), strict=True):
            prompts = talks[i].provenance["prompts"] | {f"answer {turn}": prompt_text(ask)}
            provenance = talks[i].provenance | {"prompts": prompts}
            one = talks[i]._replace(provenance=provenance, answer=_text(reply), fault=_cut(how, reply))
            empty = "" if one.answer else "empty: an assistant's turn says nothing"
            talks[i] = one._replace(fault=one.fault or empty)
    return talks


def _answer_ask(how: SynthesisConfig, one: DraftRow, turn: int) -> Request:
    ask = how.style.answer(one.messages, one.provenance.get("topic", ""), how.expert.chat)
    ask = _drawn(how, ask, one.provenance["unit"], _REPLY, turn)
    return ask._replace(temperature=how.answer_temperature)


def _person(how: SynthesisConfig, talks: Sequence[DraftRow], turn: int) -> list[DraftRow]:
    """The conversations with one more turn of the person."""
    out = list(talks)
    live = [i for i, one in enumerate(talks) if not one.fault]
    asks, reads = [], []
    for i in live:
        one = talks[i]
        before = (*one.messages, *([{"role": "assistant", "content": one.answer}] if one.answer else []))
        topic = one.provenance.get("topic", "")
        out[i] = one._replace(messages=before, answer="")
        asks.append(_drawn(how, how.style.turn(before, topic), one.provenance["unit"], _TURN, turn))
        reads.append(lambda text, topic="" if turn else topic: how.style.read_turn(topic, text))
    for i, ask, found in zip(live, asks, read_replies(how.generator, asks, reads), strict=True):
        prompts = out[i].provenance["prompts"] | {f"question {turn}": prompt_text(ask)}
        out[i] = out[i]._replace(provenance=out[i].provenance | {"prompts": prompts})
        if found is None:
            out[i] = out[i]._replace(fault=f"malformed: {TRIES} replies are no turn")
        else:
            out[i] = out[i]._replace(messages=(*out[i].messages, {"role": "user", "content": found}))
    return out


def _rephrased(how: SynthesisConfig, units: Sequence[int]) -> list[DraftRow]:
    """Given conversations with their last question in other words; the answer stays."""
    opened = [_given(how, unit) for unit in units]
    asks = [
        _drawn(how, how.style.rephrase(question(one.messages), how.per_ask), unit, _QUESTION)
        for unit, one in zip(units, opened, strict=True)
    ]
    out = []
    found = read_replies(how.generator, asks, [how.style.read_texts] * len(asks))
    for one, ask, texts in zip(opened, asks, found, strict=True):
        one = one._replace(provenance=one.provenance | {"prompts": {"question": prompt_text(ask)}})
        if texts is None:
            out.append(one._replace(fault=f"malformed: {TRIES} replies are no rephrasings"))
        for text in (texts or [])[: how.per_ask]:
            same = text.split() == question(one.messages).split()
            fault = "unchanged: the text itself came back" if same else ""
            out.append(
                one._replace(
                    messages=(*one.messages[:-1], {**one.messages[-1], "content": text}), fault=fault
                )
            )
    return out


def filter_drafts(
    made: Sequence[DraftRow], screen: RowFilter, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """(rows, rejected rows with their reason, what the judge counted); each draft is in one of them."""
    faults = [one.fault or _fault(one, screen) for one in made]
    twins = [
        ("", None) if fault else screen.seen.twin(_whole(one))
        for one, fault in zip(made, faults, strict=True)
    ]
    faults = [fault or twin[0] for fault, twin in zip(faults, twins, strict=True)]
    scores: dict[int, float | None] = {}
    told: dict[str, float] = {}
    if screen.judge:
        live = [i for i, fault in enumerate(faults) if not fault]
        cases = [JudgeCase(made[i].messages, made[i].answer, made[i].record) for i in live]
        judged = screen.judge.score(cases, seed)
        scores, told = dict(zip(live, judged.values, strict=True)), judged.told
    rows, rejected = [], []
    for i, one in enumerate(made):
        fault, twin = faults[i], twins[i][1]
        if not fault and screen.judge:
            fault = _scored(scores[i], screen.min_score)
        if not fault:
            fault, twin = screen.seen.twin(_whole(one))
        row = _row(one, scores.get(i))
        if fault:
            rejected.append({"reason": fault, **({"twin": twin} if twin is not None else {}), **row})
            continue
        add_accepted(screen.seen, row)
        rows.append(row)
    return rows, rejected, told


def _fault(one: DraftRow, screen: RowFilter) -> str:
    if not one.answer.strip():
        return "empty: the answer says nothing"
    return screening.length_fault(one.answer, screen.min_chars, screen.max_chars) or screen.language(
        _whole(one)
    )


def _scored(score: float | None, least: float) -> str:
    if score is None:
        return "not judged: no verdict could be read"
    return "" if score >= least else f"score: below {least:g}"


def _whole(one: DraftRow) -> str:
    return "\n".join([*(message["content"] for message in one.messages), one.answer])


def texts(row: Mapping[str, Any]) -> list[str]:
    """The texts of a row, the answer last."""
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    prompt = row["prompt"]
    return [*([prompt] if isinstance(prompt, str) else [one["content"] for one in prompt]), row["completion"]]


def add_accepted(seen: screening.NearDuplicateIndex, row: Mapping[str, Any]) -> None:
    """What `screened` did for a row that is kept."""
    found = texts(row)
    seen.add("\n".join(found), found[-2][:SHOWN])


def _row(one: DraftRow, score: float | None) -> dict[str, Any]:
    """A draft as a record that other stages read: the prompt is text where it is one turn of a user's."""
    alone = len(one.messages) == 1 and one.messages[0]["role"] == "user"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if one.provenance["kind"] == "conversation":
        made: dict[str, Any] = {"messages": [*one.messages, {"role": "assistant", "content": one.answer}]}
    else:
        made = {
            "prompt": one.messages[0]["content"] if alone else list(one.messages),
            "completion": one.answer,
        }
    made |= {"score": round(score, 6)} if score is not None else {}
    return {**made, **one.told, "provenance": one.provenance | {"time": now}}
