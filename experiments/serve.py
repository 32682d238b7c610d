"""Serve runs over OpenAI's HTTP API, with a page to chat with them, and store completions."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxtrain import flags
from jaxtrain.apps.serve.config import EXTRA, Serve, ServedModelFlags
from jaxtrain.config import ConfigError
from jaxtrain.files.atomic import check_export

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtrain.apps.serve.server import Server
    from jaxtrain.apps.serve.store import CompletionStore
    from jaxtrain.data.chat import Template
    from jaxtrain.stages.init_from import InitFrom


class ServedRun(NamedTuple):
    """A run to serve."""

    name: str  # in requests
    start: "InitFrom"
    template: "Template"
    context: int  # most tokens of prompt and completion


def main(cfg: Serve) -> None:
    """Checks the flags, loads the run, compiles the decoding, and serves until a signal."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    if cfg.kept.export:
        export(Path(cfg.kept.store).expanduser(), Path(cfg.kept.export).expanduser())
        return
    cfg.served.weights_root()
    if not cfg.served.model:
        raise ConfigError("--model: name the run to serve, such as runs/ppo, or hf:DIR")
    try:
        from jaxtrain.apps.serve import http
        from jaxtrain.apps.serve.store import CompletionStore
    except ImportError as error:
        raise ConfigError(f"serving needs the package {error.name}; {EXTRA}") from error

    from jaxtrain.data import chat
    from jaxtrain.stages import init_from
    from jaxtrain.train import host

    runs = []
    for name, model in _models(cfg.served):
        start = init_from.load_run(model, "model", causal=True)
        template = chat.load_template(cfg.served.template, start.tokenizer, otherwise="none")
        runs.append(ServedRun(name, start, template, cfg.served.context_of(model, start.arch.max_len)))
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(http.listen(cfg.http.host, cfg.http.port))
        store = CompletionStore(Path(cfg.kept.store).expanduser()) if cfg.kept.store else None
        if store:
            stack.callback(store.close)
        host.keep_freed_memory()
        server = open_server(cfg, runs, store)

        from jaxtrain.apps.serve import app

        http.run(
            app.app(server),
            sock,
            [one.scheduler for one in server.by_model.values()],
            cfg.http.drain,
            lambda: _print_settings(cfg, runs, http.url(sock)),
            cfg.http.answer_seconds,
        )
    http.leave()


def _print_settings(cfg: Serve, runs: "Sequence[ServedRun]", url: str) -> None:
    from jaxtrain.files import terminal
    from jaxtrain.stages import run_turns

    key = "required" if cfg.http.key() else "none: only programs on this machine are served"
    table = []
    for run in runs:
        label = f" of {run.name}" if len(runs) > 1 else ""
        waiting = f"{cfg.http.waiting} may wait; {run.context:,} tokens of prompt and completion"
        table += [
            (f"template{label}", run.template.name),
            *((f"template{label}", note) for note in run.template.notes),
            *(
                [(f"turns{label}", "trained on single questions: the chat page sends each message alone")]
                if run_turns.single_turn(run.start.lineage)
                else []
            ),
            (f"rows{label}", f"{cfg.served.rows} at once, {waiting}"),
        ]
    table += [
        ("API key", key),
        ("store", cfg.kept.store or "none: requests with store=True are refused"),
        *(
            [("weights", f"loaded from folders below {cfg.served.weights_dir}")]
            if cfg.served.weights_dir
            else []
        ),
        ("chat page", f"{url}/"),
    ]
    print("\n".join(terminal.lines(table)))
    names = " and ".join(run.name for run in runs)
    print(f"serving {names} at {url}/v1, until Ctrl-C or SIGTERM", flush=True)


def export(store: Path, out: Path) -> None:
    """Writes the completions of a store as JSON lines, and prints their number."""
    from jaxtrain.apps.serve import store as completion_store

    check_export(store, out)
    print(f"{completion_store.export(store, out):,} completions of {store} in {out}")


def _models(served: ServedModelFlags) -> list[tuple[str, str]]:
    """(name in requests, run) of each of --model. Raises ConfigError for names that do not tell them apart."""
    whole = Path(served.model).expanduser().exists()  # a folder's name may have commas
    models = [served.model] if whole else [one.strip() for one in served.model.split(",")]
    if not all(models):
        raise ConfigError(f"--model={served.model}: a name before or after a comma is empty")
    names = (
        [one.strip() for one in served.name.split(",")] if served.name and len(models) > 1 else [served.name]
    )
    if not served.name:
        names = [Path(one.removeprefix("hf:")).name for one in models]
    if len(names) != len(models) or not all(names):
        raise ConfigError(
            f"--name={served.name}: give a name for each of the {len(models)} models, joined by commas"
        )
    if len({*names}) < len(names):
        raise ConfigError(
            f"--model={served.model}: two models would have the name {max(names, key=names.count)}; name them with "
            "--name=A,B"
        )
    return [*zip(names, models, strict=True)]


def open_server(cfg: Serve, runs: "Sequence[ServedRun]", store: "CompletionStore | None") -> "Server":
    """The server of the runs: models loaded, every program compiled, a scheduler of each started."""
    from jaxtrain.apps.serve import startup
    from jaxtrain.inference.local import serving_plan
    from jaxtrain.stages.load_model import load_model

    plan, settings = serving_plan(cfg.machine), cfg.machine.model()
    runners = [  # all, before the first thread starts
        startup.open_runner(cfg, run.name, load_model(run.start, plan, settings), run.template, run.context)
        for run in runs
    ]
    return startup.open_server(cfg, runners, store)


if __name__ == "__main__":
    flags.launch(Serve, main, "./launch/run serve")
