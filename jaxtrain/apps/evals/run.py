"""How ./launch/run evaluate asks, measures and tells."""

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from jaxtrain import config
from jaxtrain.apps.evals import lm_eval, report
from jaxtrain.apps.evals.config import Evaluate
from jaxtrain.apps.evals.lm_eval import LONGEST
from jaxtrain.config import ConfigError
from jaxtrain.data import chat, conversations, preferences_db, prompts
from jaxtrain.data.record_formats import BadRecord, Message
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.files import atomic
from jaxtrain.files.progress import bar
from jaxtrain.inference import judges, local
from jaxtrain.inference.llm import LLM, LocalModel, Request, seed_of, user
from jaxtrain.inference.llm_judge import Judge, JudgePair
from jaxtrain.measures import agreement, diversity, style, win_rates
from jaxtrain.measures.win_rates import Match
from jaxtrain.worlds.tinytown import judge as world
from jaxtrain.worlds.tinytown import measures
from jaxtrain.worlds.tinytown.prompts import parse_prompt

BATCH = 64  # prompts asked at once
_PROMPTS, _TOPICS, _HARM = range(3)  # what a seed is for


class EvalModel(NamedTuple):
    text: str  # as --models has it
    label: str
    made: LLM


class EvalAnswer(NamedTuple):
    text: str
    ended: bool


Asked = Sequence[tuple[Message, ...]]


def run(cfg: Evaluate, out: Path) -> None:
    """Opens the models, and leaves the report."""
    began = time.perf_counter()
    asked = _prompts(cfg)
    questions = [conversations.question(each) for each in asked]
    known = [parse_prompt(question) for question in questions]
    with contextlib.ExitStack() as stack:
        opened: dict[str, LLM] = {}

        def open_one(text: str, flag: str, width: int) -> LLM:
            if text not in opened:
                opened[text] = local.open_llm(text, flag, cfg.endpoint, cfg.machine, width)
                stack.callback(opened[text].close)
            return opened[text]

        width = max(cfg.drawing.max_new, LONGEST) if cfg.benchmarks.tasks else cfg.drawing.max_new
        models = [
            EvalModel(text, label, open_one(text, "models", width))
            for text, label in zip(cfg.compared.names(), labels(cfg.compared.names()), strict=True)
        ]
        name = "gold" if cfg.judged.judge == "auto" and all(known) else cfg.judged.judge
        quality = dataclasses.replace(cfg.judged, judge="" if name == "auto" else name)
        judge, _ = judges.open_judge(quality, cfg.machine, open_one)
        reference = _reference(cfg, models)
        answers = _answers(cfg, models, asked, _PROMPTS)
        found: dict[str, Any] = {
            "models": [{"label": one.label, "name": one.text, "origin": one.made.name} for one in models],
            "prompts": {"source": cfg.compared.prompts, "count": len(asked)},
            "drawing": dataclasses.asdict(cfg.drawing),
            "reference": models[reference].label,
            "judge": judge.name if judge else None,
            "measures": _measures(cfg, models, reference, asked, known, answers),
            "stances": _stances(cfg, models, questions, known, answers),
            "style": _style(cfg, models),
            "contests": _contests(cfg, judge, models, asked, answers),
            "answers": [
                {"prompt": question, "family": one.family if one else "", "answers": [each[i].text for each in answers]}
                for i, (question, one) in enumerate(zip(questions, known, strict=True))
            ],
        }  # fmt: skip
        if cfg.benchmarks.tasks:
            found["benchmarks"] = lm_eval.measure(cfg.benchmarks, {one.label: one.made for one in models})
    found["seconds"] = time.perf_counter() - began
    _write(found, out)
    report.print_tables(found)
    print(f"{out}/report.html, report.json and answers.jsonl, after {found['seconds']:.0f} s")


def _write(found: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    names = [one["label"] for one in found["models"]]
    lines = [
        {"prompt": row["prompt"], "answers": dict(zip(names, row["answers"], strict=True))}
        for row in found["answers"]
    ]
    atomic.write_jsonl(out / "answers.jsonl", lines)
    atomic.write_text(
        out / "report.json", config.dumps({name: each for name, each in found.items() if name != "answers"})
    )
    atomic.write_text(out / "report.html", report.page("evaluation", found))


def _prompts(cfg: Evaluate) -> list[tuple[Message, ...]]:
    compared = cfg.compared
    reading = config.Dialogs(
        system=compared.system, on_bad_record=compared.on_bad_record, cache_dir=cfg.machine.cache_dir
    )
    template = chat.load_template("plain", ByteTokenizer())
    found = prompts.read_prompts(compared.prompts, reading, template, limit=compared.prompt_count)
    return [one.messages for one in found]


def labels(names: Sequence[str]) -> list[str]:
    """Short names: the last folder of a run, an endpoint's model; the whole text where two are alike."""
    short = []
    for name in names:
        model = parse_qs(urlsplit(name).query).get("model") if "://" in name else None
        short.append(model[0] if model else Path(name.removeprefix("hf:")).name)
    return [one if short.count(one) == 1 else name for one, name in zip(short, names, strict=True)]


def _reference(cfg: Evaluate, models: Sequence[EvalModel]) -> int:
    if cfg.compared.reference:
        return cfg.compared.names().index(cfg.compared.reference)
    return next((i for i, one in enumerate(models) if one.made.inside and one.made.chat), 0)


def _answers(cfg: Evaluate, models: Sequence[EvalModel], asked: Asked, use: int) -> list[list[EvalAnswer]]:
    """An answer of each model to each prompt, drawn with the same seeds."""
    how = cfg.drawing
    asks = [
        Request(messages, seed=seed_of(how.seed, use, i), temperature=how.temperature, max_new=how.max_new)
        for i, messages in enumerate(asked)
    ]
    found: list[list[EvalAnswer]] = []
    with bar("answers", len(models) * len(asks), least=BATCH + 1) as advance:
        for one in models:
            mine: list[EvalAnswer] = []
            for first in range(0, len(asks), BATCH):
                part = asks[first : first + BATCH]
                mine += [
                    EvalAnswer(reply.text.strip(), reply.finish_reason == "stop")
                    for (reply,) in one.made.generate(part)
                ]
                advance(len(part))
            found.append(mine)
    return found


def _measures(
    cfg: Evaluate,
    models: Sequence[EvalModel],
    reference: int,
    asked: Asked,
    known: Sequence[Any],
    answers: Any,
) -> dict[str, dict[str, Any]]:
    """Numbers of each model: diversity, ends, confidence and its calibration, KL, and Tinytown's judge's."""
    found = {}
    for one, mine in zip(models, answers, strict=True):
        texts = [each.text for each in mine]
        numbers: dict[str, Any] = {
            "ended": sum(each.ended for each in mine) / len(mine),
            **diversity.report(texts),
        }
        if all(known):
            numbers |= {
                f"world/{name}": value for name, value in measures.measure(list(known), texts).items()
            }
        logps = _logps(one.made.inside, asked, mine)
        numbers |= _confidence(logps, known, texts)
        if cfg.drawing.temperature == 1 and one is not models[reference]:
            numbers["kl"] = _kl(one.made.inside, models[reference].made.inside, asked, mine, logps)
        found[one.label] = numbers
    return found


def _logps(inside: LocalModel | None, asked: Asked, answers: Sequence[EvalAnswer]) -> list[np.ndarray | None]:
    """Log-probabilities of each answer's tokens; None where they cannot be had."""
    if inside is None:
        return [None] * len(answers)
    pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for i, (messages, answer) in enumerate(zip(asked, answers, strict=True)):
        with contextlib.suppress(BadRecord):
            prompt, (ids,), _ = inside.template.answers(messages, [answer.text])
            ids = ids if answer.ended else ids[:-1]
            if len(prompt) and len(ids) and (not inside.context or len(prompt) + len(ids) <= inside.context):
                pairs[i] = (prompt, ids)
    told = dict(zip(pairs, inside.logps(list(pairs.values())), strict=True))
    return [told[i][0] if i in told else None for i in range(len(answers))]


def _confidence(
    logps: Sequence[np.ndarray | None], known: Sequence[Any], texts: Sequence[str]
) -> dict[str, Any]:
    """The geometric mean of an answer's token probabilities against whether it is right, where the world knows."""
    pairs = [
        (math.exp(float(each.mean())), world.judge(prompt, text).correct)
        for each, prompt, text in zip(logps, known, texts, strict=True)
        if each is not None and prompt is not None and prompt.family != "harm"
    ]
    if not pairs:
        return {}
    sure, right = np.array(pairs).T
    return {
        "confidence": float(sure.mean()),
        "right": float(right.mean()),
        "calibration_error": agreement.calibration_error(sure, right),
    }


def _kl(
    mine: LocalModel | None,
    other: LocalModel | None,
    asked: Asked,
    answers: Sequence[EvalAnswer],
    logps: Sequence[Any],
) -> float | None:
    """KL(model ‖ reference) in nats an answer, the mean of log p − log q over the model's own answers at temperature 1.

    None where the two do not see the same tokens.
    """
    if mine is None or other is None:
        return None
    marks = [(one.template.fingerprint, one.template.tokenizer.fingerprint) for one in (mine, other)]
    if marks[0] != marks[1]:
        return None
    theirs = _logps(other, asked, answers)
    gaps = [
        float((p - q).sum()) for p, q in zip(logps, theirs, strict=True) if p is not None and q is not None
    ]
    return sum(gaps) / len(gaps) if gaps else None


def _stances(
    cfg: Evaluate, models: Sequence[EvalModel], questions: Sequence[str], known: Sequence[Any], answers: Any
) -> dict[str, Any]:
    """How often each model refuses, explains, evades, complies; to harmful prompts apart, where the world knows."""
    if all(known):
        groups = {
            "harmful prompts": [i for i, one in enumerate(known) if one.family == "harm"],
            "harmless prompts": [i for i, one in enumerate(known) if one.family != "harm"],
        }
    else:
        groups = {"prompts": list(range(len(questions)))}
    shares = {
        name: {
            one.label: style.stances([questions[i] for i in places], [mine[i].text for i in places])
            for one, mine in zip(models, answers, strict=True)
        }
        for name, places in groups.items()
        if places
    }
    found: dict[str, Any] = {
        "groups": shares,
        "counts": {name: len(places) for name, places in groups.items()},
    }
    if cfg.compared.harmful:
        said = _answers(cfg, models, [user(cfg.compared.harmful)], _HARM)
        found["asked"] = cfg.compared.harmful
        found["said"] = {
            one.label: {"text": mine[0].text, "stance": style.stance(cfg.compared.harmful, mine[0].text)}
            for one, mine in zip(models, said, strict=True)
        }
    return found


def _style(cfg: Evaluate, models: Sequence[EvalModel]) -> dict[str, Any]:
    """What changes between "Explain X" and "Explain X like I'm 5"."""
    subjects = cfg.compared.subjects()
    if not subjects:
        return {}
    plain, simple = (
        [f"Explain {one}" for one in subjects],
        [f"Explain {one} {cfg.compared.simply}" for one in subjects],
    )
    said = _answers(cfg, models, [user(one) for one in (*plain, *simple)], _TOPICS)
    found = {}
    for one, mine in zip(models, said, strict=True):
        texts = [each.text for each in mine]
        first, second = texts[: len(subjects)], texts[len(subjects) :]
        found[one.label] = {
            "plain": style.style(first), "simply": style.style(second), "said": list(zip(first, second, strict=True)),
        }  # fmt: skip
    return {"asked": list(zip(plain, simple, strict=True)), "models": found}


def _contests(
    cfg: Evaluate, judge: Judge | None, models: Sequence[EvalModel], asked: Asked, answers: Any
) -> dict[str, Any]:
    """Win rates and strengths by the judge, and by people; and how far the two agree."""
    found = {}
    if judge and len(models) > 1:
        matches, unanswered = _judged(cfg, judge, models, asked, answers)
        found[judge.name] = _table(models, matches, cfg.drawing.seed) | {"unanswered": unanswered}
    if cfg.judged.people:
        matches, pairs, others = _people(cfg, models)
        found["people"] = _table(models, matches, cfg.drawing.seed) | {"others": others}
        if judge:
            found["people"]["agreement"] = _agreement(judge, pairs, cfg.drawing.seed)
    return found


def _judged(
    cfg: Evaluate, judge: Judge, models: Sequence[EvalModel], asked: Asked, answers: Any
) -> tuple[list[Match], int]:
    matches, unanswered = [], 0
    for i, j in itertools.combinations(range(len(models)), 2):
        pairs = [
            JudgePair(messages, a.text, b.text)
            for messages, a, b in zip(asked, answers[i], answers[j], strict=True)
        ]
        values = judge.compare(pairs, seed_of(cfg.drawing.seed, i, j)).values
        unanswered += values.count(None)
        matches += [Match(n, i, j, value) for n, value in enumerate(values) if value is not None]
    return matches, unanswered


def _table(models: Sequence[EvalModel], matches: Sequence[Match], seed: int) -> dict[str, Any]:
    if not matches:
        return {"rates": [], "elo": {}, "count": 0}
    rates = win_rates.between(matches, len(models))
    met = [any(row) for row in rates]
    strengths = win_rates.elo(matches, len(models), seed)
    return {
        "rates": [[each and each._asdict() for each in row] for row in rates],
        "elo": {one.label: each for one, each, there in zip(models, strengths, met, strict=True) if there},
        "count": len(matches),
    }


def _people(
    cfg: Evaluate, models: Sequence[EvalModel]
) -> tuple[list[Match], list[tuple[JudgePair, float]], int]:
    """(matches, each pair with what people said of it, rows about other models)."""
    path = Path(cfg.judged.people).expanduser()
    if not path.is_file():
        raise ConfigError(f"--people={path}: no such file")
    places = {name: i for i, one in enumerate(models) for name in (one.text, one.label, one.made.name)}
    lines = (
        preferences_db.as_lines(path, Path(cfg.machine.cache_dir).expanduser())
        .read_text(encoding="utf-8")
        .splitlines()
    )
    matches, pairs, others = [], [], 0
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            texts = row.get("completions") or [row["response_a"], row["response_b"]]
            ranks = row.get("ranking") or {"a": [1, 2], "b": [2, 1], "tie": [1, 1]}[row["preferred"]]
            wrote = [places.get(name) for name in row["models"]]
            messages = user(row["prompt"]) if isinstance(row["prompt"], str) else tuple(row["prompt"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"--people={path}:{number}: not a row of ./launch/run collect_preferences "
                f"({type(error).__name__}: {error})"
            ) from error
        if None in wrote or len(set(wrote)) < 2:
            others += 1
            continue
        for a, b in itertools.combinations(range(len(texts)), 2):
            value = 0.5 + 0.5 * float(np.sign(ranks[b] - ranks[a]))
            if wrote[a] != wrote[b]:
                matches.append(Match(int(row["item"]), wrote[a], wrote[b], value))
                pairs.append((JudgePair(messages, texts[a], texts[b]), value))
    return matches, pairs, others


def _agreement(judge: Judge, pairs: Sequence[tuple[JudgePair, float]], seed: int) -> dict[str, Any]:
    """How often the judge says of people's pairs what they said."""
    values = judge.compare([pair for pair, _ in pairs], seed).values if pairs else []
    name: Callable[[float], str] = lambda p: "tie" if p == 0.5 else "first" if p > 0.5 else "second"  # noqa: E731
    both = [
        (name(value), name(said)) for value, (_, said) in zip(values, pairs, strict=True) if value is not None
    ]
    if not both:
        return {"count": 0, "alike": None, "kappa": None}
    ours, theirs = zip(*both, strict=True)
    alike = sum(a == b for a, b in both) / len(both)
    return {"count": len(both), "alike": alike, "kappa": agreement.kappa(ours, theirs)}
