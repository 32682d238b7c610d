"""Who a student learns from, and what that one says. Imported once the flags are checked."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import prompts
from jaxtrain.data.chat import Template
from jaxtrain.data.mlm_fim import Row
from jaxtrain.data.packed_rows import PackedRows
from jaxtrain.data.pipeline import Stream
from jaxtrain.data.prompts import Prompt
from jaxtrain.distillation import topk_cache
from jaxtrain.files import atomic, cache
from jaxtrain.files.progress import bar
from jaxtrain.inference import chat, llm, remote
from jaxtrain.models import transformer
from jaxtrain.ops.divergences import top_k
from jaxtrain.ops.logprobs import logits
from jaxtrain.rl import scoring
from jaxtrain.stages import init_from, sampling, weights
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.stages.load_model import load_model
from jaxtrain.stages.session import Session, pinned_run
from jaxtrain.train import checkpoint, parallel, workdir
from jaxtrain.types import LM, Params

COLUMNS = ("tokens", "targets", "mask", "segments", "positions")
FOLDER = "teacher"  # of the run: what the teacher wrote
ASKED_AT_ONCE = 64  # prompts between two looks of the progress bar


class Teacher(NamedTuple):
    """A model to learn from, whole beside the student."""

    model: LM
    params: Params
    start: InitFrom
    text: str


def student_init(cfg: Any, start: InitFrom) -> tuple[InitFrom, InitFrom | None]:
    """(where the student starts, where the teacher comes from). Raises ConfigError where their words differ.

    A student that starts from nothing takes the teacher's tokenizer.
    """
    if cfg.loss.told():
        if start.tokenizer is None:
            raise ConfigError(
                "--init_from: stored completions bring no tokenizer; name the run that the student starts from"
            )
        return start, None
    origin = init_from.load_run(cfg.loss.teacher, "teacher", causal=True)
    if start.tokenizer is None:
        start = start._replace(tokenizer=origin.tokenizer)
    if start.tokenizer.fingerprint != origin.tokenizer.fingerprint:
        raise ConfigError(
            f"--teacher={cfg.loss.teacher}: its tokenizer is not the student's, so their distributions cannot be "
            f"compared. Distil from its text instead: ./launch/run sample --init_from={cfg.loss.teacher} "
            f"--prompts={cfg.data.data} --out=answers.jsonl, then ./launch/run sft --init_from={cfg.model.init_from} "
            "--data=jsonl:answers.jsonl"
        )
    if origin.arch.max_len and cfg.data.seq_len > origin.arch.max_len:
        raise ConfigError(
            f"--seq_len={cfg.data.seq_len}: the context of --teacher={cfg.loss.teacher} is {origin.arch.max_len}"
        )
    return start, origin


def load(cfg: Any, origin: InitFrom | None, plan: parallel.Plan, path: Path) -> Teacher | None:
    """The teacher's model and parameters; None where it is not a model here."""
    if origin is None:
        return None
    text = pinned_run(path, "teacher", cfg.loss.teacher)
    if not cfg.run.dry_run and plan.primary:
        workdir.record(path, teacher=text)
    model, params, _, origin = load_model(init_from.load_run(text, "teacher"), plan, cfg.model)
    return Teacher(model, params, origin, text)


def expected_at_start(
    start: InitFrom, origin: InitFrom | None, cfg: Any
) -> dict[str, tuple[float, float]] | None:
    """A student that is its teacher has nothing to learn from it."""
    same = origin is not None and start.origins and start.origins == origin.origins
    near = 1e-3 if transformer.execution(cfg.model).dtype == jnp.float32 else 3e-2
    return {"divergence": (0.0, near)} if same else None


def write_completions(
    cfg: Any, teacher: Teacher, template: Template, plan: parallel.Plan, path: Path
) -> tuple[config.Dialogs, list[tuple[str, str]]]:
    """(the data with the teacher's completions of its prompts in place of it, lines about them).

    They are kept in the run's folder, so that a run that goes on reads the same.
    """
    folder, told, files = path / FOLDER, [], {}
    speak = _speaker(cfg, teacher, plan, path, template)
    sides = {
        "data": (cfg.data.data, True, cfg.loss.draws),
        "eval_data": (cfg.data.eval_data or cfg.data.data, False, 1),
    }
    if cfg.loss.on_policy == 1:
        del sides["data"]
    for number, (side, (source, train, draws)) in enumerate(sides.items()):
        file = folder / f"{side}.jsonl"
        if not file.exists():
            asked, lost = scoring.fitting_prompts(
                prompts.read_prompts(source, cfg.data, template, flag=side, train=train),
                cfg,
                template.tokenizer.bos,
            )
            rows = speak(asked, draws, number)
            whole = [row for row in rows if row["ended"] and row["completion"].strip()]
            cut = sum(not row["ended"] for row in rows)
            _write(file, whole, plan)
            told += [("teacher's words", line) for line in lost]
            for count, what in (
                (cut, "without an end"),
                (len(rows) - cut - len(whole), "of white space alone"),
            ):
                if count:
                    told.append(("teacher's words", f"{count:,} completions of {source} {what} left out"))
            if not whole:
                raise config.Failure(
                    f"--teacher: of its {len(rows):,} completions {cut:,} did not end and the others are empty; raise "
                    "--max_new"
                )
        files[side] = f"jsonl:{file}?format=completion"
    files.setdefault("data", files["eval_data"])
    return dataclasses.replace(cfg.data, **files), told


def _speaker(
    cfg: Any, teacher: Teacher, plan: parallel.Plan, path: Path, template: Template
) -> Callable[[list[Prompt], int, int], list[dict[str, Any]]]:
    """(prompts, completions of each, a number of the seed) -> records with what the teacher drew."""
    alone = Session(
        path, plan, teacher.start.arch, teacher.model, None, plan.primary, teacher.start,
        weights.trained_part(teacher.model.axes, config.Lora()),
    )  # fmt: skip

    def speak(asked: list[Prompt], draws: int, number: int) -> list[dict[str, Any]]:
        draw = sampling.token_sampler(
            alone,
            template.end,
            max_new=cfg.samples.max_new,
            temperature=cfg.loss.draw_temperature,
            samples=draws,
        )
        seed = int(np.random.SeedSequence((cfg.run.seed, 3, number)).generate_state(1)[0])
        found: list[sampling.SampledTokens] = []
        with bar("the teacher writes", len(asked), least=2 * sampling.AT_ONCE) as advance:
            for first in range(0, len(asked), sampling.AT_ONCE):
                part = asked[first : first + sampling.AT_ONCE]
                found += draw(teacher.params, (), [one.ids.tolist() for one in part], seed + first)
                advance(len(part))
        pairs = zip([one for one in asked for _ in range(draws)], found, strict=True)
        decode = chat.decoder(template)
        return [
            {"prompt": list(one.messages), "completion": decode(new.ids), "ended": new.ended}
            for one, new in pairs
        ]

    return speak


def teacher_prompts(
    cfg: Any, template: Template, plan: parallel.Plan, path: Path
) -> tuple[config.Dialogs, list[tuple[str, str]]]:
    """(an endpoint's completions of the prompts, as it would store them, in place of the data, lines about them)."""
    if plan.process[1] > 1:
        raise ConfigError(
            f"--teacher={cfg.loss.teacher}: one process asks an endpoint; use ./launch/run alone"
        )
    source = cfg.data.eval_data or cfg.data.data
    sides = {"data": (cfg.data.data, True, cfg.loss.draws), "eval_data": (source, False, 1)}
    files = {side: path / FOLDER / f"{side}.jsonl" for side in sides}
    table = []
    if not all(file.exists() for file in files.values()):
        kept = Path(cfg.data.cache_dir).expanduser() / "requests.sqlite"
        made = remote.open_endpoint(cfg.loss.teacher, "teacher", cfg.endpoint, kept)
        with contextlib.closing(made):
            for side, (text, train, draws) in sides.items():
                found = prompts.read_prompts(text, cfg.data, template, flag=side, train=train)
                _write(files[side], _replies(cfg, made, found, draws), plan)
        spent = made.spent
        cost = (
            f", {cfg.endpoint.cost(spent.tokens_in, spent.tokens_out):.2f} in money"
            if cfg.endpoint.price_out
            else ""
        )
        said = f"{spent.tokens_in:,} tokens read, {spent.tokens_out:,} written, {spent.cached:,} answers from the cache"
        said += f", {spent.refused:,} prompts were refused and left out" if spent.refused else ""
        table.append(("teacher", f"{made.name}: {said}{cost}"))
    reading = {side: f"jsonl:{file}" for side, file in files.items()}
    return dataclasses.replace(cfg.data, **reading), table


def _replies(cfg: Any, made: llm.LLM, asked: list[Prompt], draws: int) -> list[dict[str, Any]]:
    """Stored completions of an endpoint's replies."""
    asks = [
        llm.Request(
            one.messages, draws, llm.derive_seed(cfg.run.seed, 6, i), cfg.loss.draw_temperature, cfg.samples.max_new,
            top_logprobs=remote.MOST_LOGPROBS,
        )
        for i, one in enumerate(asked)
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    with bar("asking the teacher", len(asks), least=20) as advance:
        for first in range(0, len(asks), ASKED_AT_ONCE):
            part = asks[first : first + ASKED_AT_ONCE]
            for ask, replies in zip(part, made.generate(part), strict=True):
                taken = [one for one in replies if one.finish_reason != llm.REFUSED]
                rows += [_stored(made.name, ask, taken)] if taken else []
            advance(len(part))
    return rows


def _stored(model: str, ask: llm.Request, replies: Sequence[llm.Completion]) -> dict[str, Any]:
    """A request with its replies, as a server keeps them."""

    def entry(text: str, logprob: float, data: Sequence[bytes], at: int) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(data[at]) if data else None}

    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": one.text},
            "finish_reason": one.finish_reason,
            "logprobs": {
                "content": [
                    entry(token.token, token.logprob, token.data, 0)
                    | {"top_logprobs": [entry(*top, token.data, 1 + j) for j, top in enumerate(token.top)]}
                    for token in one.logprobs or ()
                ]
            },
        }
        for i, one in enumerate(replies)
    ]
    return {"object": "chat.completion", "model": model, "input": list(ask.messages), "choices": choices}


def _write(file: Path, rows: Sequence[Mapping[str, Any]], plan: parallel.Plan) -> None:
    if not plan.primary:
        return
    file.parent.mkdir(exist_ok=True)
    atomic.write_jsonl(file, rows)


def cache_folder(cfg: Any) -> Path:
    return Path(cfg.data.cache_dir).expanduser() / "teachers"


def cached_topk(cfg: Any, teacher: Teacher, plan: parallel.Plan, rows: PackedRows) -> Sequence[Row]:
    """The teacher's likeliest tokens at every position of packed rows, from the cache where they are there."""
    k, tau, B, T = cfg.loss.teacher_topk, cfg.loss.soft_temperature, cfg.data.batch_size, cfg.data.seq_len
    if k > teacher.start.arch.vocab:
        raise ConfigError(
            f"--teacher_topk={k}: the teacher's vocabulary has {teacher.start.arch.vocab} tokens"
        )
    mark = (
        checkpoint.digest(teacher.params),
        rows.documents.fingerprint,
        T,
        k,
        tau,
        dataclasses.asdict(cfg.model),
    )
    folder = cache_folder(cfg) / cache.digest(1, *mark)

    def look(params: Params, frozen: Params, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        ids, logps = top_k(logits(teacher.model.hidden(params, batch), teacher.model.head(params)), k, tau)
        return {"ids": ids, "logps": logps}

    compiled = plan.rows(look)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        count = len(rows)
        stream = Stream(lambda i: _plain(rows[min(i, count - 1)]), B, plan.process, -(-count // B))
        with bar("what the teacher says", len(stream), least=20) as advance:
            for i in range(len(stream)):
                found = plan.get(compiled(teacher.params, (), plan.put(stream.batch(i))))
                left = count - i * B
                yield found["ids"][:left], found["logps"][:left]
                advance(1)

    cache.build(folder, lambda work: topk_cache.write(work, parts()))
    return topk_cache.TopK(folder, T)


def _plain(row: Row) -> Row:
    return {name: row[name] for name in COLUMNS}
