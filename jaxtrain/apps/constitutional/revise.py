"""Critiques and revisions of a model's answers under principles drawn anew each round (arXiv:2212.08073, section 3).

A unit is a prompt. What it brings depends on the settings, its number and the seed alone, so that work that stops goes
on with the same rows. A critique or revision that is empty, cut or no page's answer is kept apart with its reason, and
the next round starts from the answer before it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.constitutional.principles import Constitution, ConstitutionPrinciple, PageFormat
from jaxtrain.data.record_formats import Message
from jaxtrain.inference.llm import CUT, LLM, REFUSED, Completion, Request, seed_of, user

_ANSWER, _PRINCIPLE, _CRITIQUE, _REVISION = range(4)  # what a seed is for
_GO_ON = (
    "Below is a page that breaks off. Write how its last part, {part}, goes on, and nothing else.\n\n{page}"
)


class Critic(NamedTuple):
    """A model that critiques, revises and compares, and how it is asked."""

    model: LLM
    constitution: Constitution
    pages: bool = True  # it continues pages; else it is asked in a chat to go on with one
    temperature: float = 1.0
    max_new: int = 256


class RevisionConfig(NamedTuple):
    """All that decides what is made."""

    speaker: LLM  # answers the prompts
    critic: Critic
    seed: int = 0
    rounds: int = 4
    critique: bool = True  # revisions follow a critique; else they are asked for directly
    temperature: float = 1.0  # of the answers
    max_new: int = 256
    legal: Callable[[tuple[Message, ...], str], bool] = lambda messages, text: (
        True
    )  # whether a revision can be read


def draw_principle(principles: Sequence[ConstitutionPrinciple], *parts: int) -> ConstitutionPrinciple:
    """One of the principles, each as likely, decided by `parts`."""
    return principles[seed_of(*parts) % len(principles)]


def page_request(critic: Critic, page: str, part: str) -> Request:
    """Asks for what follows a page; `part` says in a chat what that is."""
    if critic.pages:
        shots = critic.constitution.shots if part in ("Critique", "Revision") else ()
        before = "".join(shots)
        return Request(user(before + page), stop=critic.constitution.format.stop, raw=True)
    return Request(
        user(_GO_ON.format(part=part, page="".join([*critic.constitution.shots, page]).lstrip("\n")))
    )


def initial_answers(
    how: RevisionConfig, asked: Sequence[tuple[Message, ...]], units: Sequence[int]
) -> list[Completion]:
    """The speaker's answer to each prompt."""
    asks = [
        Request(
            one, seed=seed_of(how.seed, unit, 0, _ANSWER), temperature=how.temperature, max_new=how.max_new
        )
        for one, unit in zip(asked, units, strict=True)
    ]
    return [each[0] for each in how.speaker.generate(asks)]


def revise(
    how: RevisionConfig, asked: Sequence[tuple[Message, ...]], units: Sequence[int]
) -> list[list[dict[str, Any]]]:
    """The rows of each prompt: round 0, its answer, then a row a round. A `fault` says why a row is not learnt."""
    found: list[list[dict[str, Any]]] = []
    now: dict[int, str] = {}  # place -> the answer that the next round starts from
    for place, (unit, reply) in enumerate(zip(units, initial_answers(how, asked, units), strict=True)):
        fault = fault_of(reply)
        row = {"unit": unit, "round": 0, "revision": reply.text.strip(), "model": how.speaker.name}
        found.append([row | {"seed": how.seed} | ({"fault": f"response {fault}"} if fault else {})])
        if not fault:
            now[place] = reply.text.strip()
    for round_ in range(1, how.rounds + 1):
        places = list(now)
        if not places:
            break
        told = _round(
            how, [asked[i] for i in places], [now[i] for i in places], [units[i] for i in places], round_
        )
        for place, row in zip(places, told, strict=True):
            found[place].append(row)
            if "fault" not in row:
                now[place] = row["revision"]
    return found


def _round(
    how: RevisionConfig,
    asked: Sequence[tuple[Message, ...]],
    before: Sequence[str],
    units: Sequence[int],
    round_: int,
) -> list[dict[str, Any]]:
    critic, constitution = how.critic, how.critic.constitution
    form, principles = constitution.format, constitution.revising()
    rows, parts = [], []
    for messages, text, unit in zip(asked, before, units, strict=True):
        principle = draw_principle(principles, how.seed, unit, round_, _PRINCIPLE)
        rows.append({
            "unit": unit, "round": round_, "principle": principle.id, "before": text, "model": how.speaker.name,
            "critic": critic.model.name, "seed": how.seed,
        })  # fmt: skip
        parts.append({
            "conversation": form.conversation(messages, text), "critique_request": principle.critique_request,
            "revision_request": principle.revision_request,
        })  # fmt: skip
    if how.critique:
        _asked(how, rows, parts, "critique", "Critique", _CRITIQUE, form.critique, form.critique_pattern)
    page = form.revision if how.critique else form.direct
    _asked(how, rows, parts, "revision", "Revision", _REVISION, page, form.revision_pattern)
    for messages, row in zip(asked, rows, strict=True):
        if "fault" not in row and not how.legal(messages, row["revision"]):
            row["fault"] = "revision unparsable"
    return rows


def _asked(
    how: RevisionConfig,
    rows: list[dict[str, Any]],
    parts: list[dict[str, str]],
    name: str,
    part: str,
    purpose: int,
    page: str,
    pattern: str,
) -> None:
    """Asks for a part of each page that has no fault so far, and notes it in its row."""
    here = [i for i, row in enumerate(rows) if "fault" not in row]
    asks = [
        page_request(how.critic, page.format(**parts[i]), part)._replace(
            seed=seed_of(how.seed, rows[i]["unit"], rows[i]["round"], purpose),
            temperature=how.critic.temperature, max_new=how.critic.max_new,
        )
        for i in here
    ]  # fmt: skip
    replies = how.critic.model.generate(asks) if asks else []
    for i, (reply,) in zip(here, replies, strict=True):
        text = reply.text.strip()
        rows[i][name] = parts[i][name] = text
        if fault := fault_of(reply, how.critic.constitution.format, pattern):
            rows[i]["fault"] = f"{name} {fault}"


def fault_of(reply: Completion, form: PageFormat | None = None, pattern: str = "") -> str:
    """Why a reply is no answer, critique or revision; empty where it is one."""
    text = reply.text.strip()
    if reply.finish_reason == REFUSED or not text:
        return "empty"
    if reply.finish_reason == CUT:
        return "truncated"
    if form is not None and any(mark in text for mark in marks(form)):
        return "unparsable"
    return "unparsable" if pattern and not re.fullmatch(pattern, text, re.DOTALL) else ""


def marks(form: PageFormat) -> list[str]:
    """What parts of a page begin with: a reply that has one goes on beyond its part."""
    pages = (form.critique, form.revision)
    found = {form.user.strip(), form.assistant.strip()}
    found |= {line.strip() for page in pages for line in re.split(r"{\w+}|\n", page)}
    return sorted(one for one in found if one.endswith(":"))


def training_rows(
    asked: Callable[[int], tuple[Message, ...]], rows: Sequence[dict[str, Any]], keep: str
) -> list[dict[str, Any]]:
    """What `sft` learns of one prompt's rows: all its revisions, or with `keep` last the last one."""
    good = [row for row in rows if row["round"] and "fault" not in row]
    good = good[-1:] if keep == "last" else good
    fields = ("round", "principle", "critique", "model", "critic", "seed", "unit")
    return [
        {"prompt": prompt_of(asked(row["unit"])), "completion": row["revision"], "kind": "revision"}
        | {name: row[name] for name in fields if name in row}
        for row in good
    ]


def prompt_of(messages: Sequence[Message]) -> Any:
    """A prompt as a record has it: text where it is one turn of a user's."""
    alone = len(messages) == 1 and messages[0]["role"] == "user"
    return messages[0]["content"] if alone else [dict(one) for one in messages]
