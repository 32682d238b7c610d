"""The run of ./launch/run evaluate: completions of all models, their measures, win rates, and the report."""

import collections
import contextlib
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from jaxtrain import config, worlds
from jaxtrain.apps.evals import lm_eval, report
from jaxtrain.apps.evals.config import REPORT, Evaluate
from jaxtrain.config import ConfigError
from jaxtrain.data import chat, preferences_db
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.messages import BadRecord, Message
from jaxtrain.data.prompts import question, read_prompts
from jaxtrain.data.read_limits import ReadLimits
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.files import atomic
from jaxtrain.files.progress import bar
from jaxtrain.inference import judges
from jaxtrain.inference.llm import LLM, LocalModel, Request, derive_seed, user_messages
from jaxtrain.inference.llm_judge import Judge, JudgePair
from jaxtrain.inference.llm_pool import LLMPool
from jaxtrain.measures import agreement, diversity, style, win_rates
from jaxtrain.measures.win_rates import Match
from jaxtrain.tasks.task_model import LONGEST
from jaxtrain.worlds import WorldPrompt

BATCH = 64  # prompts of a call
FAULTS = 3  # most frequent reasons for no verdict that the report has
_PROMPTS, _TOPICS, _HARM = range(3)  # what a seed is for


class EvalModel(NamedTuple):
    """A model that is compared."""

    text: str  # as --models has it
    label: str
    llm: LLM


class EvalAnswer(NamedTuple):
    """A completion; `ended`: it was not cut by a limit."""

    text: str
    ended: bool
    thought: str = ""  # before it


Prompts = Sequence[tuple[Message, ...]]
Parsed = Sequence[WorldPrompt | None]  # of each prompt, None where no world knows it
Answers = Sequence[Sequence[EvalAnswer]]  # of each model, of each prompt


def run(cfg: Evaluate, out: Path) -> None:
    """Opens the models, evaluates them and writes the report to the folder `out`."""
    started = time.perf_counter()
    with contextlib.closing(LLMPool(cfg.endpoint, cfg.machine)) as pool:
        result = evaluate(cfg, pool)
    result["seconds"] = time.perf_counter() - started
    _write(result, out)
    report.print_tables(result)
    print(f"{out}/report.html, report.json and answers.jsonl, after {result['seconds']:.0f} s")


def evaluate(cfg: Evaluate, pool: LLMPool) -> dict[str, Any]:
    """All that report.json and the page show, but the time."""
    prompts = _read_prompts(cfg)
    questions = [question(messages) for messages in prompts]
    parsed = [worlds.get().parse(text) for text in questions]
    width = max(cfg.drawing.max_new, LONGEST) if cfg.benchmarks.tasks else cfg.drawing.max_new
    wider = {
        cfg.judged.judge: max(width, cfg.judged.judge_max_new)
    }  # one that also judges is opened once, here
    models = [
        EvalModel(text, label, pool.open(text, "models", wider.get(text, width)))
        for text, label in zip(cfg.compared.names(), labels(cfg.compared.names()), strict=True)
    ]
    name = "gold" if cfg.judged.judge == "auto" and all(parsed) else cfg.judged.judge
    quality = dataclasses.replace(cfg.judged, judge="" if name == "auto" else name)
    judge, _ = judges.open_judge(quality, cfg.machine, pool.open)
    reference = _reference(cfg, models)
    answers = _answers(cfg, models, prompts, _PROMPTS)
    result: dict[str, Any] = {
        "models": [{"label": one.label, "name": one.text, "origin": one.llm.name} for one in models],
        "prompts": {"source": cfg.compared.prompts, "count": len(prompts)},
        "drawing": dataclasses.asdict(cfg.drawing),
        "reference": models[reference].label,
        "judge": judge.name if judge else None,
        "counts": _counts(parsed),
        "measures": _measures(cfg, models, reference, prompts, parsed, answers),
        "stances": _stances(cfg, models, questions, parsed, answers),
        "style": _style(cfg, models),
        "contests": _contests(cfg, judge, models, prompts, answers),
        "answers": [
            {
                "prompt": text, "family": one.family if one else "", "answers": [each[i].text for each in answers],
                "thoughts": [each[i].thought for each in answers],
            }
            for i, (text, one) in enumerate(zip(questions, parsed, strict=True))
        ],
    }  # fmt: skip
    result["endpoints"] = {
        one.name: {"changes": one.usage.change_lines(), "refused": one.usage.refused}
        for one in pool.models
        if one.usage.change_lines() or one.usage.refused
    }
    if cfg.benchmarks.tasks:
        result["benchmarks"] = lm_eval.measure(cfg.benchmarks, {one.label: one.llm for one in models})
    return result


def _write(result: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # Until the page is there again, the folder has a part of a report.
    (out / REPORT[-1]).unlink(missing_ok=True)
    names = [one["label"] for one in result["models"]]
    lines = [
        {"prompt": row["prompt"], "answers": dict(zip(names, row["answers"], strict=True))}
        | ({"thoughts": dict(zip(names, row["thoughts"], strict=True))} if any(row["thoughts"]) else {})
        for row in result["answers"]
    ]
    atomic.write_jsonl(out / "answers.jsonl", lines)
    atomic.write_text(
        out / "report.json", config.dumps({name: each for name, each in result.items() if name != "answers"})
    )
    atomic.write_text(out / "report.html", report.page(result))


def _read_prompts(cfg: Evaluate) -> list[tuple[Message, ...]]:
    compared = cfg.compared
    reading = config.dialogs_of(cfg.reading, cfg.machine.cache_dir, system=compared.system)
    template = chat.load_template("plain", ByteTokenizer())
    prompts = read_prompts(compared.prompts, reading, template, limit=compared.prompt_count)
    return [one.messages for one in prompts]


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
    return next((i for i, one in enumerate(models) if one.llm.local and one.llm.chat), 0)


def _answers(
    cfg: Evaluate, models: Sequence[EvalModel], prompts: Prompts, use: int
) -> list[list[EvalAnswer]]:
    """One completion of each model to each prompt, sampled with the same seeds."""
    sampling = cfg.drawing
    requests = [
        Request(
            messages,
            seed=derive_seed(sampling.seed, use, i),
            temperature=sampling.temperature,
            max_new=sampling.max_new,
        )
        for i, messages in enumerate(prompts)
    ]
    answers: list[list[EvalAnswer]] = []
    with bar("answers", len(models) * len(requests), least=BATCH + 1) as advance:
        for one in models:
            mine: list[EvalAnswer] = []
            for first in range(0, len(requests), BATCH):
                part = requests[first : first + BATCH]
                mine += [
                    EvalAnswer(reply.text.strip(), reply.finish_reason == "stop", reply.thought)
                    for (reply,) in one.llm.generate(part)
                ]
                advance(len(part))
            answers.append(mine)
    return answers


def _measures(
    cfg: Evaluate,
    models: Sequence[EvalModel],
    reference: int,
    prompts: Prompts,
    parsed: Parsed,
    answers: Answers,
) -> dict[str, dict[str, Any]]:
    """By label: diversity, share that ended, confidence and its calibration, KL, and the world's measures."""
    by_model = {}
    for one, mine in zip(models, answers, strict=True):
        texts = [each.text for each in mine]
        numbers: dict[str, Any] = {
            "ended": sum(each.ended for each in mine) / len(mine),
            **diversity.diversity_metrics(texts),
        }
        if all(parsed):
            numbers |= {f"world/{name}": value for name, value in worlds.get().measure(parsed, texts).items()}
        logps = _logps(one.llm.local, prompts, mine)
        numbers |= _confidence(logps, parsed, texts)
        if cfg.drawing.temperature == 1 and one is not models[reference]:
            numbers["kl"] = _kl(one.llm.local, models[reference].llm.local, prompts, mine, logps)
        by_model[one.label] = numbers
    return by_model


def _counts(parsed: Parsed) -> dict[str, int]:
    """How many answers of a model the measures that are shares are of."""
    of_world = worlds.get().counts(parsed) if all(parsed) else {}
    return {"ended": len(parsed)} | {f"world/{name}": count for name, count in of_world.items()}


def _logps(
    local: LocalModel | None, prompts: Prompts, answers: Sequence[EvalAnswer]
) -> list[np.ndarray | None]:
    """Log-probabilities of each answer's tokens, f32[t].

    None where the model gives none, the prompt does not fit, or the answer follows a thought, which is not in it.
    """
    if local is None:
        return [None] * len(answers)
    pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for i, (messages, answer) in enumerate(zip(prompts, answers, strict=True)):
        if answer.thought:
            continue
        with contextlib.suppress(BadRecord):
            prompt, (ids,), _ = local.template.encode_completions(messages, [answer.text])
            ids = ids if answer.ended else ids[:-1]
            if len(prompt) and len(ids) and (not local.context or len(prompt) + len(ids) <= local.context):
                pairs[i] = (prompt, ids)
    logps = dict(zip(pairs, local.logps(list(pairs.values())), strict=True))
    return [logps[i][0] if i in logps else None for i in range(len(answers))]


def _confidence(logps: Sequence[np.ndarray | None], parsed: Parsed, texts: Sequence[str]) -> dict[str, Any]:
    """The mean confidence, accuracy and calibration error of answers to a world's prompts.

    The confidence of an answer is the geometric mean of its tokens' probabilities.
    """
    pairs = [
        (math.exp(float(each.mean())), worlds.get().judge(prompt, text).correct)
        for each, prompt, text in zip(logps, parsed, texts, strict=True)
        if each is not None and prompt is not None and not prompt.harmful
    ]
    if not pairs:
        return {}
    confidence, right = np.array(pairs).T
    return {
        "confidence": float(confidence.mean()),
        "right": float(right.mean()),
        "right_of": len(right),
        "calibration_error": agreement.calibration_error(confidence, right),
    }


def _kl(
    mine: LocalModel | None,
    other: LocalModel | None,
    prompts: Prompts,
    answers: Sequence[EvalAnswer],
    logps: Sequence[np.ndarray | None],
) -> float | None:
    """KL(model ‖ reference) in nats an answer, the mean of log p − log q over the model's own answers at temperature 1.

    None where the two have different tokenizers or chat templates.
    """
    if mine is None or other is None:
        return None
    fingerprints = [(one.template.fingerprint, one.template.tokenizer.fingerprint) for one in (mine, other)]
    if fingerprints[0] != fingerprints[1]:
        return None
    theirs = _logps(other, prompts, answers)
    gaps = [
        float((p - q).sum()) for p, q in zip(logps, theirs, strict=True) if p is not None and q is not None
    ]
    return sum(gaps) / len(gaps) if gaps else None


def _stances(
    cfg: Evaluate, models: Sequence[EvalModel], questions: Sequence[str], parsed: Parsed, answers: Answers
) -> dict[str, Any]:
    """How often each model refuses, explains, evades, complies; of harmful prompts apart where all are a world's."""
    if all(parsed):
        groups = {
            "harmful prompts": [i for i, one in enumerate(parsed) if one.harmful],
            "harmless prompts": [i for i, one in enumerate(parsed) if not one.harmful],
        }
    else:
        groups = {"prompts": list(range(len(questions)))}
    shares = {
        name: {
            one.label: style.stance_shares([questions[i] for i in places], [mine[i].text for i in places])
            for one, mine in zip(models, answers, strict=True)
        }
        for name, places in groups.items()
        if places
    }
    result: dict[str, Any] = {
        "groups": shares,
        "counts": {name: len(places) for name, places in groups.items()},
    }
    if cfg.compared.harmful:
        answers_to_harmful = _answers(cfg, models, [user_messages(cfg.compared.harmful)], _HARM)
        result["asked"] = cfg.compared.harmful
        result["said"] = {
            one.label: {"text": mine[0].text, "stance": style.stance(cfg.compared.harmful, mine[0].text)}
            for one, mine in zip(models, answers_to_harmful, strict=True)
        }
    return result


def _style(cfg: Evaluate, models: Sequence[EvalModel]) -> dict[str, Any]:
    """The style of answers to "Explain X" and to "Explain X like I'm 5"."""
    subjects = cfg.compared.subjects()
    if not subjects:
        return {}
    plain, simple = (
        [f"Explain {one}" for one in subjects],
        [f"Explain {one} {cfg.compared.simply}" for one in subjects],
    )
    answers = _answers(cfg, models, [user_messages(one) for one in (*plain, *simple)], _TOPICS)
    by_model = {}
    for one, mine in zip(models, answers, strict=True):
        texts = [each.text for each in mine]
        first, second = texts[: len(subjects)], texts[len(subjects) :]
        by_model[one.label] = {
            "plain": style.style_metrics(first),
            "simply": style.style_metrics(second),
            "said": list(zip(first, second, strict=True)),
        }
    return {"asked": list(zip(plain, simple, strict=True)), "models": by_model}


def _contests(
    cfg: Evaluate, judge: Judge | None, models: Sequence[EvalModel], prompts: Prompts, answers: Answers
) -> dict[str, Any]:
    """Win rates and Elo by the judge and by human annotators, and how far the two agree."""
    contests = {}
    if judge and len(models) > 1:
        matches, faults = _judge_matches(cfg, judge, models, prompts, answers)
        contests[judge.name] = _win_rates(models, matches, cfg.drawing.seed) | {
            "unanswered": sum(faults.values()),
            "faults": dict(faults.most_common(FAULTS)),
        }
    if cfg.judged.people:
        matches, pairs, others = _human_matches(cfg, models)
        contests["people"] = _win_rates(models, matches, cfg.drawing.seed) | {"others": others}
        if judge:
            contests["people"]["agreement"] = _agreement(judge, pairs, cfg.drawing.seed)
    return contests


def _judge_matches(
    cfg: Evaluate, judge: Judge, models: Sequence[EvalModel], prompts: Prompts, answers: Answers
) -> tuple[list[Match], collections.Counter[str]]:
    """(the judge's verdicts, how many pairs have none for which reason)."""
    matches: list[Match] = []
    faults: collections.Counter[str] = collections.Counter()
    for i, j in itertools.combinations(range(len(models)), 2):
        pairs = [
            JudgePair(messages, a.text, b.text)
            for messages, a, b in zip(prompts, answers[i], answers[j], strict=True)
        ]
        judged = judge.compare(pairs, derive_seed(cfg.drawing.seed, i, j))
        matches += [Match(n, i, j, value) for n, value in enumerate(judged.values) if value is not None]
        faults.update(
            fault for value, fault in zip(judged.values, judged.faults, strict=True) if value is None
        )
    return matches, faults


def _win_rates(models: Sequence[EvalModel], matches: Sequence[Match], seed: int) -> dict[str, Any]:
    if not matches:
        return {"rates": [], "elo": {}, "count": 0}
    rates = win_rates.pairwise_win_rates(matches, len(models))
    met = [any(row) for row in rates]
    strengths = win_rates.elo(matches, len(models), seed)
    return {
        "rates": [[each and each._asdict() for each in row] for row in rates],
        "elo": {one.label: each for one, each, there in zip(models, strengths, met, strict=True) if there},
        "count": len(matches),
    }


def _human_matches(
    cfg: Evaluate, models: Sequence[EvalModel]
) -> tuple[list[Match], list[tuple[JudgePair, float]], int]:
    """(matches, each pair with its human preference, rows about other models) of --people."""
    path = Path(cfg.judged.people).expanduser()
    if not path.is_file():
        raise ConfigError(f"--people={path}: no such file")
    places = {name: i for i, one in enumerate(models) for name in (one.text, one.label, one.llm.name)}
    cache_dir, skips = Path(cfg.machine.cache_dir).expanduser(), Skips(cfg.reading.on_bad_record)
    matches, pairs, others = [], [], 0
    try:
        for vote in preferences_db.votes(path, cache_dir, ReadLimits.of(cfg.reading), skips):
            authors = [places.get(name) for name in vote.models]
            if None in authors or len(set(authors)) < 2:
                others += 1
                continue
            messages = user_messages(vote.prompt) if isinstance(vote.prompt, str) else tuple(vote.prompt)
            for a, b in itertools.combinations(range(len(vote.texts)), 2):
                value = 0.5 + 0.5 * float(np.sign(vote.ranks[b] - vote.ranks[a]))
                if authors[a] != authors[b]:
                    matches.append(Match(vote.item, authors[a], authors[b], value))
                    pairs.append((JudgePair(messages, vote.texts[a], vote.texts[b]), value))
    except ConfigError as error:
        raise ConfigError(f"--people: {error}") from error
    if skips:
        print(f"--people: {skips.in_words(cache_dir)}", file=sys.stderr)
    return matches, pairs, others


def _verdict(p_first: float) -> str:
    return "tie" if p_first == 0.5 else "first" if p_first > 0.5 else "second"


def _agreement(judge: Judge, pairs: Sequence[tuple[JudgePair, float]], seed: int) -> dict[str, Any]:
    """How often the judge agrees with the human preferences, and Cohen's kappa."""
    values = judge.compare([pair for pair, _ in pairs], seed).values if pairs else []
    both = [
        (_verdict(value), _verdict(human))
        for value, (_, human) in zip(values, pairs, strict=True)
        if value is not None
    ]
    if not both:
        return {"count": 0, "alike": None, "kappa": None}
    ours, theirs = zip(*both, strict=True)
    alike = sum(a == b for a, b in both) / len(both)
    return {"count": len(both), "alike": alike, "kappa": agreement.cohen_kappa(ours, theirs)}
