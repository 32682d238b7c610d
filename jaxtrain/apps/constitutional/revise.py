"""Critiques and revisions of a policy's completions, each under a random principle (arXiv:2212.08073, section 3).

A unit is a prompt. Its rows depend on the settings, its number and the seed alone, so that work that stops continues
with the same rows. A critique or revision that is empty, truncated or malformed is recorded with a fault, and the next
round starts from the completion before it.
"""

import collections
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from jaxtrain.apps.constitutional.principles import Constitution, ConstitutionPrinciple, PageFormat
from jaxtrain.data.messages import Message
from jaxtrain.data.preferences_db import prompt_field
from jaxtrain.inference.llm import (
    CUT_OFF,
    FILTERED,
    LLM,
    REFUSED,
    Completion,
    Request,
    derive_seed,
    user_messages,
)

RowT = TypeVar("RowT", bound=Mapping[str, Any])
_ANSWER, _PRINCIPLE, _CRITIQUE, _REVISION = range(4)  # what a seed is for
_CONTINUE = (
    "Below is a page that breaks off. Write how its last part, {part}, goes on, and nothing else.\n\n{page}"
)


class Critic(NamedTuple):
    """The model that critiques, revises and compares, with its constitution and sampling parameters."""

    model: LLM
    constitution: Constitution
    pages: bool = True  # it continues pages as a base model; else it is instructed in a chat
    temperature: float = 1.0
    max_new: int = 256


class RevisionConfig(NamedTuple):
    """Everything that decides the rows of critiques and revisions."""

    policy: LLM  # its completions are revised
    critic: Critic
    seed: int = 0
    rounds: int = 4
    critique: bool = True  # revise after a critique; else directly
    temperature: float = 1.0  # of the policy
    max_new: int = 256
    # (prompt, revision) -> whether the revision is well-formed
    is_valid: Callable[[tuple[Message, ...], str], bool] = lambda messages, text: True


def draw_principle(principles: Sequence[ConstitutionPrinciple], *parts: int) -> ConstitutionPrinciple:
    """A uniformly sampled principle; `parts` are its seed."""
    return principles[derive_seed(*parts) % len(principles)]


def page_request(critic: Critic, page: str, part: str) -> Request:
    """The request to continue a page; `part` is the name of its last part, for a chat model."""
    if critic.pages:
        shots = critic.constitution.shots if part in ("Critique", "Revision") else ()
        return Request(user_messages("".join(shots) + page), stop=critic.constitution.format.stop, raw=True)
    whole = "".join([*critic.constitution.shots, page]).lstrip("\n")
    return Request(user_messages(_CONTINUE.format(part=part, page=whole)))


def initial_answers(
    cfg: RevisionConfig, prompts: Sequence[tuple[Message, ...]], units: Sequence[int]
) -> list[Completion]:
    """The policy's completion of each prompt."""
    requests = [
        Request(
            messages, seed=derive_seed(cfg.seed, unit, 0, _ANSWER), temperature=cfg.temperature, max_new=cfg.max_new
        )
        for messages, unit in zip(prompts, units, strict=True)
    ]  # fmt: skip
    return [completions[0] for completions in cfg.policy.generate(requests)]


def revise(
    cfg: RevisionConfig, prompts: Sequence[tuple[Message, ...]], units: Sequence[int]
) -> list[list[dict[str, Any]]]:
    """The rows of each prompt: round 0, its completion, then one a round. A row with a `fault` is not trained on."""
    chains: list[list[dict[str, Any]]] = []
    current: dict[int, str] = {}  # place -> the completion that the next round revises
    for place, (unit, reply) in enumerate(zip(units, initial_answers(cfg, prompts, units), strict=True)):
        fault = fault_of(reply)
        row = {"unit": unit, "round": 0, "revision": reply.text.strip(), "model": cfg.policy.name}
        chains.append([row | {"seed": cfg.seed} | ({"fault": f"response {fault}"} if fault else {})])
        if not fault:
            current[place] = reply.text.strip()
    for round_ in range(1, cfg.rounds + 1):
        places = list(current)
        if not places:
            break
        rows = _revision_round(
            cfg,
            [prompts[i] for i in places],
            [current[i] for i in places],
            [units[i] for i in places],
            round_,
        )
        for place, row in zip(places, rows, strict=True):
            chains[place].append(row)
            if "fault" not in row:
                current[place] = row["revision"]
    return chains


def _revision_round(
    cfg: RevisionConfig,
    prompts: Sequence[tuple[Message, ...]],
    before: Sequence[str],
    units: Sequence[int],
    round_: int,
) -> list[dict[str, Any]]:
    """One row for each completion in `before`: its principle, critique and revision, or a fault."""
    critic, constitution = cfg.critic, cfg.critic.constitution
    form, principles = constitution.format, constitution.revising()
    rows, parts = [], []
    for messages, text, unit in zip(prompts, before, units, strict=True):
        principle = draw_principle(principles, cfg.seed, unit, round_, _PRINCIPLE)
        rows.append({
            "unit": unit, "round": round_, "principle": principle.id, "before": text, "model": cfg.policy.name,
            "critic": critic.model.name, "seed": cfg.seed,
        })  # fmt: skip
        parts.append({
            "conversation": form.conversation(messages, text), "critique_request": principle.critique_request,
            "revision_request": principle.revision_request,
        })  # fmt: skip
    if cfg.critique:
        _complete_part(cfg, rows, parts, "critique", _CRITIQUE, form.critique, form.critique_pattern)
    page = form.revision if cfg.critique else form.direct
    _complete_part(cfg, rows, parts, "revision", _REVISION, page, form.revision_pattern)
    for messages, row in zip(prompts, rows, strict=True):
        if "fault" not in row and not cfg.is_valid(messages, row["revision"]):
            row["fault"] = "revision unparsable"
    return rows


def _complete_part(
    cfg: RevisionConfig,
    rows: list[dict[str, Any]],
    parts: list[dict[str, str]],
    name: str,
    purpose: int,
    page: str,
    pattern: str,
) -> None:
    """Has the critic write a part of each page without a fault; adds it, or its fault, to the row and to `parts`."""
    active = [i for i, row in enumerate(rows) if "fault" not in row]
    requests = [
        page_request(cfg.critic, page.format(**parts[i]), name.capitalize())._replace(
            seed=derive_seed(cfg.seed, rows[i]["unit"], rows[i]["round"], purpose),
            temperature=cfg.critic.temperature, max_new=cfg.critic.max_new,
        )
        for i in active
    ]  # fmt: skip
    replies = cfg.critic.model.generate(requests) if requests else []
    for i, (reply,) in zip(active, replies, strict=True):
        text = reply.text.strip()
        rows[i][name] = parts[i][name] = text
        if fault := fault_of(reply, cfg.critic.constitution.format, pattern):
            rows[i]["fault"] = f"{name} {fault}"


def fault_of(reply: Completion, form: PageFormat | None = None, pattern: str = "") -> str:
    """Why a completion is unusable as an answer, critique or revision; empty where it is usable."""
    text = reply.text.strip()
    if reply.finish_reason == REFUSED and reply.detail:
        return f"refused: {reply.detail}"
    if reply.finish_reason == CUT_OFF:
        return "truncated"
    if reply.finish_reason == FILTERED:
        return "filtered"
    if reply.finish_reason == REFUSED or not text:
        return "empty"
    if form is not None and any(mark in text for mark in marks(form)):
        return "unparsable"
    return "unparsable" if pattern and not re.fullmatch(pattern, text, re.DOTALL) else ""


def marks(form: PageFormat) -> list[str]:
    """The texts that begin the parts of a page: a completion that has one runs on beyond its part."""
    candidates = {form.user.strip(), form.assistant.strip()}
    for page in (form.critique, form.revision):
        candidates |= {line.strip() for line in re.split(r"{\w+}|\n", page)}
    return sorted(text for text in candidates if text.endswith(":"))


def chains_of(rows: Iterable[RowT]) -> dict[int, list[RowT]]:
    """{unit: its rows}, in their order."""
    chains = collections.defaultdict(list)
    for row in rows:
        chains[row["unit"]].append(row)
    return dict(chains)


def training_rows(
    prompt_of: Callable[[int], tuple[Message, ...]], rows: Sequence[dict[str, Any]], keep: str
) -> list[dict[str, Any]]:
    """The SFT records of one prompt's rows: all its revisions, or with `keep` = last the last one."""
    good = [row for row in rows if row["round"] and "fault" not in row]
    good = good[-1:] if keep == "last" else good
    fields = ("round", "principle", "critique", "model", "critic", "seed", "unit")
    return [
        {"prompt": prompt_field(list(prompt_of(row["unit"]))), "completion": row["revision"], "kind": "revision"}
        | {name: row[name] for name in fields if name in row}
        for row in good
    ]  # fmt: skip
