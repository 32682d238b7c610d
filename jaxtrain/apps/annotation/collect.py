"""./launch/run collect_preferences: generates responses, and collects annotations on a page or in the terminal."""

import contextlib
import getpass
import json
import os
import socket
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxtrain import config
from jaxtrain.apps.annotation.config import Collect
from jaxtrain.apps.annotation.db import AnnotationDB, AnnotationItem, ItemRow
from jaxtrain.config import ConfigError
from jaxtrain.data import chat, preferences_db, prompts
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.files import terminal
from jaxtrain.files.progress import bar
from jaxtrain.inference.llm import LLM, Request, derive_seed
from jaxtrain.measures import agreement

BATCH = 32  # prompts whose responses are stored together
_SECOND = 1  # part of the seed that chooses the prompts for a second annotator
_KEYS = {"1": [1, 2], "2": [2, 1], "3": [1, 1], "4": [1, 1]}
_PAIR_HELP = "1 A is better, 2 B is better, 3 tie, 4 both bad"
_COMMANDS = "s skips, u undoes the last answer, q quits; a reason may follow: 1 it is shorter"


def open_db(cfg: Collect, store: Path) -> AnnotationDB:
    """The database of --store, created if it is missing. Raises ConfigError if it belongs to another command."""
    db = AnnotationDB(store, 60 * cfg.page.lease)
    binding = (
        "asked",
        "drawing",
        "reading",
    )  # groups that must be the same as when the responses were generated
    current = config.to_dict(cfg)
    stored = json.loads(db.setting("config", json.dumps({name: current[name] for name in binding})))
    if changed := config.difference({**current, **stored}, cfg):
        raise ConfigError(
            "\n  ".join([f"--store={store} is of another command; name another, or:", *changed])
        )
    return db


def generate_responses(cfg: Collect, db: AnnotationDB) -> None:
    """Generates and stores the missing responses, batch by batch, and prints how many prompts are left out and why."""
    flags = cfg.asked
    dialogs = config.dialogs_of(
        cfg.reading, cfg.machine.cache_dir, system=flags.system,
        eval_data=flags.data,  # so that nothing is held out
    )  # fmt: skip
    template = chat.load_template("plain", ByteTokenizer())
    read = prompts.read_prompts(
        flags.data, dialogs, template, limit=flags.prompt_count, flag="data", train=True
    )
    stored = db.item_numbers()
    missing = [(i, prompt) for i, prompt in enumerate(read) if i not in stored]
    if missing:
        with contextlib.ExitStack() as stack:
            models = _open_models(cfg, db, stack)
            with bar("prompts answered", len(missing), least=BATCH + 1) as advance:
                for first in range(0, len(missing), BATCH):
                    batch = missing[first : first + BATCH]
                    db.add_items(list(_item_rows(cfg, models, batch)))
                    advance(len(batch))
    left_out = db.left_out()
    for why, count in left_out.items():
        print(f"{count:,} of {len(read):,} prompts left out: {why}", file=sys.stderr)
    if sum(left_out.values()) == len(read):
        raise ConfigError(
            f"--model={flags.model}: no prompt has responses that end and differ: raise --max_new, --tries or "
            f"--temperature, and name another --store or remove {db.path}"
        )


def _open_models(cfg: Collect, db: AnnotationDB, stack: contextlib.ExitStack) -> list[LLM]:
    """The models, at the steps at which the store's first responses were generated."""
    from jaxtrain.inference import local
    from jaxtrain.stages import init_from

    models = []
    for text in cfg.asked.models():
        name = text
        if not text.startswith("http"):
            name = init_from.load_run(text, "model").lineage["origin"]
        name = db.setting(f"model {text}", name)
        model = local.open_llm(name, "model", cfg.endpoint, cfg.machine, cfg.drawing.max_new)
        stack.callback(model.close)
        models.append(model._replace(name=text))
    return models


def _item_rows(cfg: Collect, models: Sequence[LLM], batch: Sequence[tuple[int, Prompt]]) -> Iterator[ItemRow]:
    """The items of numbered prompts, with their responses."""
    generated = _one_model(cfg, models[0], batch) if len(models) == 1 else _several_models(cfg, models, batch)
    for (number, prompt), (pairs, why) in zip(batch, generated, strict=True):
        twice = derive_seed(cfg.drawing.seed, _SECOND, number) < cfg.asked.second * 2**31
        responses = [{"text": text, "model": name} for name, text in pairs]
        yield ItemRow(
            number=number,
            messages=list(prompt.messages),
            responses=None if why else responses,
            why=why,
            wanted=2 if twice else 1,
        )


# Of each prompt: (model, text) pairs, and why it is left out, or an empty string.
Generated = list[tuple[list[tuple[str, str]], str]]


def _request(cfg: Collect, number: int, prompt: Prompt, samples: int, turn: int) -> Request:
    sampling = cfg.drawing
    seed = derive_seed(sampling.seed, number, turn)
    return Request(
        prompt.messages,
        samples=samples,
        seed=seed,
        temperature=sampling.temperature,
        max_new=sampling.max_new,
    )


def _one_model(cfg: Collect, model: LLM, batch: Sequence[tuple[int, Prompt]]) -> Generated:
    """Responses of one model that end and differ, sampled again until there are enough."""
    wanted = cfg.asked.responses
    responses: list[dict[str, None]] = [{} for _ in batch]  # a dict as an ordered set
    ended = [False] * len(batch)
    for turn in range(cfg.drawing.tries):
        missing = [i for i, texts in enumerate(responses) if len(texts) < wanted]
        if not missing:
            break
        generated = model.generate([_request(cfg, *batch[i], wanted, turn) for i in missing])
        for i, completions in zip(missing, generated, strict=True):
            texts = [one.text.strip() for one in completions if one.finish_reason == "stop"]
            ended[i] |= bool(texts)
            responses[i].update(dict.fromkeys(filter(None, texts)))
    return [
        (
            [(model.name, text) for text in list(texts)[:wanted]],
            "" if len(texts) >= wanted else "their responses are alike" if any_ended else "no response ends",
        )
        for texts, any_ended in zip(responses, ended, strict=True)
    ]


def _several_models(cfg: Collect, models: Sequence[LLM], batch: Sequence[tuple[int, Prompt]]) -> Generated:
    """The first response of each model: sampling again until they differ would favour one of the models."""
    generated = [
        model.generate([_request(cfg, *numbered, 1, turn) for numbered in batch])
        for turn, model in enumerate(models)
    ]
    rows = []
    for completions in zip(*generated, strict=True):
        pairs = [
            (model.name, completion.text.strip() if completion.finish_reason == "stop" else "")
            for model, (completion,) in zip(models, completions, strict=True)
        ]
        texts = [text for _, text in pairs]
        why = "their responses are alike" if len(set(texts)) == 1 else ""
        rows.append((pairs, "a response does not end, or is empty" if not all(texts) else why))
    return rows


def annotate_on_page(cfg: Collect, db: AnnotationDB, sock: socket.socket) -> None:
    """Serves the annotation page until a signal."""
    from jaxtrain.apps.annotation import web
    from jaxtrain.apps.serve import http

    key = cfg.page.key()
    annotation_app = web.open_app(db, agreement.annotator_agreement, key, cfg.page.reason == "required")

    def ready() -> None:
        table = [
            ("answers", _progress_text(db)),
            ("store", str(db.path)),
            ("API key", "required on the page" if key else "none: only this machine is served"),
        ]
        print("\n".join(terminal.lines(table)))
        print(f"annotation page at {http.url(sock)}/, until Ctrl-C or SIGTERM", flush=True)
        if cfg.page.browser and not _open_browser(f"{http.url(sock)}/"):
            print("no browser here: open that address in one, or annotate with --ui=terminal", flush=True)

    http.run(web.app(annotation_app), sock, (), 5, ready)
    print(f"{_progress_text(db)} answers; the same command resumes")


def _open_browser(address: str) -> bool:
    """Opens a graphical browser; a text browser would take the terminal from the server. Returns whether it did."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    with contextlib.suppress(webbrowser.Error):
        return webbrowser.open(address)
    return False


def _progress_text(db: AnnotationDB) -> str:
    progress = db.progress()
    return f"{progress.given:,} of {progress.wanted:,}"


def annotate_in_terminal(cfg: Collect, db: AnnotationDB) -> None:
    """Collects annotations from the lines of the terminal, or of stdin, until they end."""
    annotator = cfg.page.annotator or _login()
    print(f"{annotator}, {_progress_text(db)} answers in {db.path}\n{_COMMANDS}")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (item := db.next_item(annotator)) is not None:
            print(f"\n{item_text(item)}")
            if not _annotate(db, item, annotator, cfg.page.reason == "required"):
                break
        else:
            print("\nnothing is left for you")
    for one in agreement.annotator_agreement(db.labels()):
        value = "–" if one["kappa"] is None else f"{one['kappa']:.2f}"
        print(f"{' and '.join(one['who'])}: kappa {value}, {one['alike']:.0%} alike of {one['count']}")
    print(f"{_progress_text(db)} answers; the same command resumes")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError("--annotator: the login has no name; name the annotator") from error


def item_text(item: AnnotationItem) -> str:
    """An item as text for the terminal."""
    parts = [f"--- {item.number + 1} ---"]
    parts += [f"{one['role']}: {printable(one['content'])}" for one in item.messages]
    return "\n".join(
        parts + [f"\n[{'ABCDEFGHI'[i]}] {printable(text)}" for i, text in enumerate(item.responses)]
    )


def printable(text: str) -> str:
    """The text with control characters written out, so that a model's text does nothing to the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _annotate(db: AnnotationDB, item: AnnotationItem, annotator: str, reason_required: bool) -> bool:
    """Reads input until there is a vote, and stores it; False if the annotator quits."""
    count = len(item.responses)
    hint = (
        _PAIR_HELP
        if count == 2
        else f"the numbers from best to worst, such as {'312456789'[:count]}; = between equals: 3=12"
    )
    while True:
        answer, _, reason = input(f"{hint}: ").strip().partition(" ")
        if answer == "q":
            return False
        if answer == "u":
            if not db.undo(annotator):
                print("there is no answer to undo")
                continue
            return True
        kind = (
            preferences_db.SKIP
            if answer == "s"
            else preferences_db.BOTH_BAD
            if count == 2 and answer == "4"
            else preferences_db.CHOSEN
        )
        places = [] if answer == "s" else _KEYS.get(answer) if count == 2 else parse_ranking(answer, count)
        if places is None:
            print(f"{answer!r} is not an answer; {_COMMANDS}")
            continue
        if reason_required and kind != preferences_db.SKIP:
            while not reason.strip():
                reason = input("why? ")
        db.add_vote(annotator, item.number, kind, places, reason.strip(), item.shown)
        return True


def parse_ranking(text: str, count: int) -> list[int] | None:
    """The ranks of responses: of `3=12` the third and the first are best. None if it does not name each once."""
    places, rank = [0] * count, 0
    for i, c in enumerate(text.replace(" ", "")):
        if c == "=":
            if i == 0 or text[i - 1] == "=":
                return None
            continue
        if c not in "123456789"[:count] or places[int(c) - 1]:
            return None
        rank += text[i - 1] != "=" if i else 1
        places[int(c) - 1] = rank
    return places if all(places) else None
