"""Collect human preferences between a model's responses, on a page or in the terminal."""

import contextlib
from pathlib import Path

from jaxtrain import flags
from jaxtrain.apps.annotation.config import EXTRA, Collect
from jaxtrain.config import ConfigError
from jaxtrain.files.atomic import check_export


def main(cfg: Collect) -> None:
    """Checks the flags, generates the missing responses, and collects annotations."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    store = Path(cfg.kept.store).expanduser()
    if cfg.kept.export:
        from jaxtrain.data import preferences_db

        out = Path(cfg.kept.export).expanduser()
        check_export(store, out)
        print(f"{preferences_db.export(store, out):,} answers of {store} in {out}")
        return
    if not cfg.asked.models():
        raise ConfigError("--model: name the model whose responses are compared, such as runs/sft")
    cfg.endpoint.require(*cfg.asked.models())
    cfg.machine.require(*cfg.asked.models())
    if len(cfg.asked.models()) == 1 and not cfg.drawing.temperature:
        raise ConfigError("--temperature=0: all responses of one model would be alike; raise it")
    with contextlib.ExitStack() as stack:
        sock = None
        if cfg.page.ui == "page":
            try:
                from jaxtrain.apps.serve import http
            except ImportError as error:
                raise ConfigError(f"the page needs the package {error.name}; {EXTRA}") from error

            sock = stack.enter_context(http.listen(cfg.page.host, cfg.page.port))
        from jaxtrain.apps.annotation import collect
        from jaxtrain.train import watchdog

        db = collect.open_db(cfg, store)
        with watchdog.watch(None, store.parent):  # but no people, who may be away
            collect.generate_responses(cfg, db)
        if sock:
            collect.annotate_on_page(cfg, db, sock)
        else:
            collect.annotate_in_terminal(cfg, db)
    if sock:
        http.leave()


if __name__ == "__main__":
    flags.launch(Collect, main, "./launch/run collect_preferences")
