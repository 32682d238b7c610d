"""How ./launch/run collect_preferences gets its responses, and asks about them."""

import contextlib
import getpass
import json
import os
import sys
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.annotation.config import Collect
from jaxtrain.apps.annotation.db import AnnotationDB, AnnotationItem
from jaxtrain.config import ConfigError
from jaxtrain.data import chat, preferences_db, prompts
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.files import terminal
from jaxtrain.files.progress import bar
from jaxtrain.inference.llm import LLM, Request, seed_of
from jaxtrain.measures import agreement

BATCH = 32  # prompts whose responses are kept together
_SECOND = 1  # what a seed is for
_KEYS = {"1": [1, 2], "2": [2, 1], "3": [1, 1], "4": [1, 1]}
_HELP = "1 A is better, 2 B is better, 3 tie, 4 both bad"
_MORE = "s skips, u undoes the last answer, q ends; a reason may follow: 1 it is shorter"


def open_db(cfg: Collect, store: Path) -> AnnotationDB:
    """The store, made where there is none. Raises ConfigError where it is of another command."""
    made = AnnotationDB(store, 60 * cfg.page.lease)
    ours = ("asked", "drawing")
    now = config.to_dict(cfg)
    held = json.loads(made.about("config", json.dumps({name: now[name] for name in ours})))
    if changed := config.difference({**now, **held}, cfg):
        raise ConfigError(
            "\n  ".join([f"--store={store} is of another command; name another, or:", *changed])
        )
    return made


def generate_responses(cfg: Collect, ballots: AnnotationDB) -> None:
    """Draws the responses that are missing, and keeps them as they come. Says what was left out."""
    asked = cfg.asked
    reading = config.Dialogs(
        system=asked.system, on_bad_record=asked.on_bad_record, cache_dir=cfg.machine.cache_dir,
        eval_data=asked.data,  # so that nothing is held out
    )  # fmt: skip
    template = chat.load_template("plain", ByteTokenizer())
    found = prompts.read_prompts(
        asked.data, reading, template, limit=asked.prompt_count, flag="data", train=True
    )
    there = ballots.numbers()
    lacking = [(i, one) for i, one in enumerate(found) if i not in there]
    if lacking:
        with contextlib.ExitStack() as stack:
            models = _opened(cfg, ballots, stack)
            with bar("prompts answered", len(lacking), least=BATCH + 1) as advance:
                for first in range(0, len(lacking), BATCH):
                    part = lacking[first : first + BATCH]
                    ballots.add(list(_rows(cfg, models, part)))
                    advance(len(part))
    left = ballots.left_out()
    for why, count in left.items():
        print(f"{count:,} of {len(found):,} prompts left out: {why}", file=sys.stderr)
    if sum(left.values()) == len(found):
        raise ConfigError(
            f"--model={asked.model}: of no prompt are there responses that end and differ: raise --max_new, --tries or "
            f"--temperature, and name another --store or remove {ballots.path}"
        )


def _opened(cfg: Collect, ballots: AnnotationDB, stack: contextlib.ExitStack) -> list[LLM]:
    """The models, at the steps at which the store's first responses were drawn."""
    from jaxtrain.inference import local
    from jaxtrain.stages import init_from

    opened = []
    for text in cfg.asked.models():
        name = text
        if not text.startswith("http"):
            try:
                name = init_from.load_run(text).lineage["origin"]
            except ConfigError as error:
                raise ConfigError(str(error).replace("--init_from=", "--model=", 1)) from error
        name = ballots.about(f"model {text}", name)
        made = local.open_llm(name, "model", cfg.endpoint, cfg.machine, cfg.drawing.max_new)
        stack.callback(made.close)
        opened.append(made._replace(name=text))
    return opened


def _rows(cfg: Collect, models: Sequence[LLM], part: Sequence[tuple[int, Prompt]]) -> Iterator[tuple]:
    """The store's rows of some prompts."""
    drawn = _of_one(cfg, models[0], part) if len(models) == 1 else _of_several(cfg, models, part)
    for (number, one), (found, why) in zip(part, drawn, strict=True):
        twice = seed_of(cfg.drawing.seed, _SECOND, number) < cfg.asked.second * 2**31
        written = [{"text": text, "model": name} for name, text in found]
        yield number, list(one.messages), None if why else written, why, 2 if twice else 1


Drawn = list[tuple[list[tuple[str, str]], str]]  # of each prompt: (model, text) pairs, and why they do not do


def _ask(cfg: Collect, number: int, one: Prompt, samples: int, turn: int) -> Request:
    how = cfg.drawing
    seed = seed_of(how.seed, number, turn)
    return Request(one.messages, samples=samples, seed=seed, temperature=how.temperature, max_new=how.max_new)


def _of_one(cfg: Collect, model: LLM, part: Sequence[tuple[int, Prompt]]) -> Drawn:
    """Responses that end and differ, drawn again until there are enough."""
    wanted = cfg.asked.responses
    found: list[dict[str, None]] = [{} for _ in part]
    ended = [False] * len(part)
    for turn in range(cfg.drawing.tries):
        lacks = [i for i, texts in enumerate(found) if len(texts) < wanted]
        if not lacks:
            break
        replies = model.generate([_ask(cfg, *part[i], wanted, turn) for i in lacks])
        for i, each in zip(lacks, replies, strict=True):
            whole = [reply.text.strip() for reply in each if reply.finish_reason == "stop"]
            ended[i] |= bool(whole)
            found[i].update(dict.fromkeys(filter(None, whole)))
    return [
        (
            [(model.name, text) for text in list(texts)[:wanted]],
            "" if len(texts) >= wanted else "their responses are alike" if any_ended else "no response ends",
        )
        for texts, any_ended in zip(found, ended, strict=True)
    ]


def _of_several(cfg: Collect, models: Sequence[LLM], part: Sequence[tuple[int, Prompt]]) -> Drawn:
    """One response of each model, as it comes: drawing again until they differ would flatter one of them."""
    asks = [[_ask(cfg, *each, 1, turn) for each in part] for turn in range(len(models))]
    replies = [model.generate(each) for model, each in zip(models, asks, strict=True)]
    out = []
    for row in zip(*replies, strict=True):
        found = [
            (model.name, reply.text.strip() if reply.finish_reason == "stop" else "")
            for model, (reply,) in zip(models, row, strict=True)
        ]
        texts = [text for _, text in found]
        why = "their responses are alike" if len(set(texts)) == 1 else ""
        out.append((found, "a response does not end, or is empty" if not all(texts) else why))
    return out


def annotate_on_page(cfg: Collect, ballots: AnnotationDB, sock: Any) -> None:
    """Serves the page until a signal."""
    from jaxtrain.apps.annotation import web
    from jaxtrain.apps.serve import http

    key = cfg.page.key()
    made = web.open_app(ballots, agreement.annotator_agreement, key, cfg.page.reason == "required")

    def ready() -> None:
        table = [
            ("answers", _told(ballots)),
            ("store", str(ballots.path)),
            ("API key", "the page asks for it" if key else "none: this machine alone is served"),
        ]
        print("\n".join(terminal.lines(table)))
        print(f"asking at {http.url(sock)}/, until Ctrl-C or SIGTERM", flush=True)
        if cfg.page.browser and not _open(f"{http.url(sock)}/"):
            print("no browser here: open that address in one, or ask with --ui=terminal", flush=True)

    http.run(web.app(made), sock, None, 5, ready)
    print(f"{_told(ballots)}; the same command goes on")


def _open(address: str) -> bool:
    """Opens a browser with windows; those of the terminal would take it from the server."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    with contextlib.suppress(webbrowser.Error):
        return webbrowser.open(address)
    return False


def _told(ballots: AnnotationDB) -> str:
    far = ballots.progress()
    return f"{far.given:,} of {far.wanted:,}"


def annotate_in_terminal(cfg: Collect, ballots: AnnotationDB) -> None:
    """Asks in the lines of the terminal, or of stdin, until they end."""
    who = cfg.page.annotator or _login()
    print(f"{who}, {_told(ballots)} answers in {ballots.path}\n{_MORE}")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (item := ballots.next(who)) is not None:
            print(f"\n{item_text(item)}")
            if not _answered(ballots, item, who, cfg.page.reason == "required"):
                break
        else:
            print("\nnothing is left for you")
    for one in agreement.annotator_agreement(ballots.labels()):
        value = "–" if one["kappa"] is None else f"{one['kappa']:.2f}"
        print(f"{' and '.join(one['who'])}: kappa {value}, {one['alike']:.0%} alike of {one['count']}")
    print(f"{_told(ballots)} answers; the same command goes on")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError("--annotator: the login has no name; say who answers") from error


def item_text(item: AnnotationItem) -> str:
    """A question as text; a model's control characters are written out, so that they do nothing to the terminal."""
    parts = [f"--- {item.number + 1} ---"]
    parts += [f"{one['role']}: {printable(one['content'])}" for one in item.messages]
    return "\n".join(
        parts + [f"\n[{'ABCDEFGHI'[i]}] {printable(text)}" for i, text in enumerate(item.responses)]
    )


def printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _answered(ballots: AnnotationDB, item: AnnotationItem, who: str, reasoned: bool) -> bool:
    """Asks until there is an answer; False where the annotator ends."""
    count = len(item.responses)
    help = (
        _HELP
        if count == 2
        else f"the numbers from best to worst, such as {'312456789'[:count]}; = between equals: 3=12"
    )
    while True:
        said, _, reason = input(f"{help}: ").strip().partition(" ")
        if said == "q":
            return False
        if said == "u":
            if not ballots.undo(who):
                print("there is no answer to undo")
                continue
            return True
        kind = (
            preferences_db.SKIP
            if said == "s"
            else preferences_db.BOTH_BAD
            if count == 2 and said == "4"
            else preferences_db.CHOSEN
        )
        places = [] if said == "s" else _KEYS.get(said) if count == 2 else parse_ranking(said, count)
        if places is None:
            print(f"{said!r} is no answer; {_MORE}")
            continue
        if reasoned and kind != preferences_db.SKIP:
            ask: Callable[[], str] = lambda: input("why? ").strip()  # noqa: E731
            while not reason.strip():
                reason = ask()
        ballots.vote(who, item.number, kind, places, reason.strip(), item.shown)
        return True


def parse_ranking(said: str, count: int) -> list[int] | None:
    """Ranks of `3=12`: the third and the first are best; None where it does not name each once."""
    places, rank = [0] * count, 0
    for i, c in enumerate(said.replace(" ", "")):
        if c == "=":
            if i == 0 or said[i - 1] == "=":
                return None
            continue
        if c not in "123456789"[:count] or places[int(c) - 1]:
            return None
        rank += said[i - 1] != "=" if i else 1
        places[int(c) - 1] = rank
    return places if all(places) else None
