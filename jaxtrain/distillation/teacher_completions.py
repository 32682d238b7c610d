"""A teacher's completions of the prompts, from its model or its endpoint, as files to train on."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import prompts, source_spec
from jaxtrain.data.chat import Template
from jaxtrain.data.prompts import Prompt
from jaxtrain.distillation.config import DistillConfig
from jaxtrain.distillation.teacher import Teacher
from jaxtrain.files import atomic
from jaxtrain.files.progress import bar
from jaxtrain.generate.batch_sampler import AT_ONCE
from jaxtrain.inference import llm, remote
from jaxtrain.inference.sampler import decoder
from jaxtrain.rl import scoring
from jaxtrain.stages import init_from, sampling, weights
from jaxtrain.stages.session import Session
from jaxtrain.train import multihost, parallel

FOLDER = "teacher"  # of the run, for the teacher's completions
REQUESTS_AT_ONCE = 64  # between two updates of the progress bar

Table = list[tuple[str, str]]
Record = dict[str, Any]


def write_completions(
    cfg: DistillConfig, teacher: Teacher, template: Template, plan: parallel.Plan, path: Path
) -> tuple[config.Dialogs, Table]:
    """(the data with the teacher's completions of its prompts in place of it, lines about them).

    They are stored in the run's folder, so that a run that is resumed reads the same.
    """
    sample = _sample_records(cfg, teacher, plan, path, template)
    eval_data = cfg.data.eval_data or cfg.data.data
    sides = {"data": (cfg.data.data, True, cfg.loss.draws), "eval_data": (eval_data, False, 1)}
    if cfg.loss.on_policy == 1:
        del sides["data"]
    files, table = {}, []
    for number, (side, (source, train, draws)) in enumerate(sides.items()):
        file = path / FOLDER / f"{side}.jsonl"
        if not file.exists():
            fitting, lines = scoring.fitting_prompts(
                prompts.read_prompts(source, cfg.data, template, flag=side, train=train),
                cfg,
                template.tokenizer.bos,
            )
            records = sample(fitting, draws, number)
            usable = [one for one in records if one["ended"] and one["completion"].strip()]
            _write(file, usable, plan)
            lines = (*lines, *_left_out(records, usable, source))
            table += [("teacher's completions", line) for line in lines]
        files[side] = source_spec.of_path("jsonl", file) + "?format=completion"
    files.setdefault("data", files["eval_data"])
    return dataclasses.replace(cfg.data, **files, columns=""), table


def _left_out(records: list[Record], usable: list[Record], source: str) -> Iterator[str]:
    """Lines about the completions that are not usable. Raises Failure where none is."""
    cut = sum(not one["ended"] for one in records)
    if not usable:
        raise config.Failure(
            f"--teacher: of its {len(records):,} completions {cut:,} did not end and the others are empty; raise "
            "--max_new"
        )
    counts = {"without an end": cut, "of white space alone": len(records) - cut - len(usable)}
    for what, count in counts.items():
        if count:
            yield f"{count:,} completions of {source} {what} left out"


def _sample_records(
    cfg: DistillConfig, teacher: Teacher, plan: parallel.Plan, path: Path, template: Template
) -> Callable[[list[Prompt], int, int], list[Record]]:
    """A function (prompts, completions of each, a number of the seed) -> records of the teacher's completions."""
    session = Session(
        path=path,
        plan=plan,
        arch=teacher.start.arch,
        model=teacher.model,
        tx=None,
        primary=plan.primary,
        start=teacher.start,
        trained=weights.trained_part(teacher.model.axes, config.Lora()),
    )

    def records(fitting: list[Prompt], draws: int, number: int) -> list[Record]:
        sample = sampling.token_sampler(
            session,
            init_from.end_ids(teacher.start, template.ends),
            max_new=cfg.samples.max_new,
            temperature=cfg.loss.draw_temperature,
            samples=draws,
        )
        seed = int(np.random.SeedSequence((cfg.run.seed, 3, number)).generate_state(1)[0])
        completions: list[sampling.SampledTokens] = []
        with bar("the teacher's completions", len(fitting), least=2 * AT_ONCE) as advance:
            for first in range(0, len(fitting), AT_ONCE):
                part = fitting[first : first + AT_ONCE]
                completions += sample(teacher.params, (), [one.ids.tolist() for one in part], seed + first)
                advance(len(part))
        by_completion = [prompt for prompt in fitting for _ in range(draws)]
        decode = decoder(template, ())
        return [
            {"prompt": list(prompt.messages), "completion": decode(one.text_ids), "ended": one.ended}
            | ({"chat_template_kwargs": dict(prompt.template_kwargs)} if prompt.template_kwargs else {})
            for prompt, one in zip(by_completion, completions, strict=True)
        ]

    return records


def request_completions(
    cfg: DistillConfig, template: Template, plan: parallel.Plan, path: Path
) -> tuple[config.Dialogs, Table]:
    """(an endpoint's completions of the prompts, with log-probabilities, in place of the data, lines about them)."""
    if plan.process[1] > 1:
        raise ConfigError(
            f"--teacher={cfg.loss.teacher}: one process sends requests to an endpoint; use ./launch/run alone"
        )
    source = cfg.data.eval_data or cfg.data.data
    sides = {"data": (cfg.data.data, True, cfg.loss.draws), "eval_data": (source, False, 1)}
    files = {side: path / FOLDER / f"{side}.jsonl" for side in sides}
    table = []
    if not all(file.exists() for file in files.values()):
        request_cache = Path(cfg.data.cache_dir).expanduser() / "requests.sqlite"
        model = remote.open_endpoint(cfg.loss.teacher, "teacher", cfg.endpoint, request_cache)
        with contextlib.closing(model):
            for side, (text, train, draws) in sides.items():
                read = prompts.read_prompts(text, cfg.data, template, flag=side, train=train)
                _write(files[side], _request_records(cfg, model, read, draws), plan)
        table.append(("teacher", f"{model.name}: {_usage(cfg, model.usage)}"))
    reading = {side: source_spec.of_path("jsonl", file) for side, file in files.items()}
    return dataclasses.replace(cfg.data, **reading, columns=""), table


def _usage(cfg: DistillConfig, usage: llm.Usage) -> str:
    parts = [
        f"{usage.tokens_in:,} tokens read, {usage.tokens_out:,} written, {usage.cached:,} answers from the cache"
    ]
    if usage.refused:
        parts.append(f"{usage.refused:,} prompts were refused and left out")
    parts += usage.change_lines()
    if cfg.endpoint.price_out:
        parts.append(f"{cfg.endpoint.cost(usage.tokens_in, usage.tokens_out):.2f} in money")
    return ", ".join(parts)


def _request_records(cfg: DistillConfig, model: llm.LLM, read: list[Prompt], draws: int) -> list[Record]:
    """An endpoint's completions as records of stored completions. Raises ConfigError for prompts with tools."""
    if with_tools := [prompt.name for prompt in read if prompt.template_kwargs]:
        raise ConfigError(
            f"--teacher={cfg.loss.teacher}: {len(with_tools):,} prompts have tools or other variables of the chat "
            f"template, which an endpoint is not sent, the first {with_tools[0]}; leave them out, or name a run"
        )
    requests = [
        llm.Request(
            prompt.messages,
            samples=draws,
            seed=llm.derive_seed(cfg.run.seed, 6, i),
            temperature=cfg.loss.draw_temperature,
            max_new=cfg.samples.max_new,
            top_logprobs=remote.MAX_LOGPROBS,
        )
        for i, prompt in enumerate(read)
    ]
    records: list[Record] = []
    with bar("requests to the teacher", len(requests), least=20) as advance:
        for first in range(0, len(requests), REQUESTS_AT_ONCE):
            part = requests[first : first + REQUESTS_AT_ONCE]
            for request, completions in zip(part, model.generate(part), strict=True):
                accepted = [one for one in completions if one.finish_reason != llm.REFUSED]
                records += [_stored(model.name, request, accepted)] if accepted else []
            advance(len(part))
    return records


def _stored(model: str, request: llm.Request, completions: Sequence[llm.Completion]) -> Record:
    """A request with its completions, as a server stores them."""

    def entry(text: str, logprob: float, data: Sequence[bytes], at: int) -> Record:
        return {"token": text, "logprob": logprob, "bytes": list(data[at]) if data else None}

    choices = [
        {
            "index": i,
            "message": {**one.message(), "content": one.text},
            "finish_reason": one.finish_reason,
            "logprobs": {
                "content": [
                    entry(token.token, token.logprob, token.data, 0)
                    | {"top_logprobs": [entry(*top, token.data, 1 + j) for j, top in enumerate(token.top)]}
                    for token in one.logprobs or ()
                ]
            },
        }
        for i, one in enumerate(completions)
    ]
    return {"object": "chat.completion", "model": model, "input": list(request.messages), "choices": choices}


def _write(file: Path, records: Sequence[Mapping[str, Any]], plan: parallel.Plan) -> None:
    if plan.primary:
        file.parent.mkdir(exist_ok=True)
        atomic.write_jsonl(file, records)
    multihost.barrier()  # before any host reads it
