"""Ask people which of a model's answers is better, on a page or in the terminal, and keep what they say."""

import contextlib
from pathlib import Path

from jaxtrain import flags
from jaxtrain.apps.annotation.config import EXTRA, Collect
from jaxtrain.config import ConfigError
from jaxtrain.files.atomic import check_export


def main(cfg: Collect) -> None:
    """Checks the flags, draws what is missing of the responses, and asks."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    store = Path(cfg.kept.store).expanduser()
    if cfg.kept.export:
        from jaxtrain.data import preferences_db

        out = Path(cfg.kept.export).expanduser()
        check_export(store, out)
        print(f"{preferences_db.export(store, out):,} answers of {store} in {out}")
        return
    if not cfg.asked.models():
        raise ConfigError("--model: name what answers, such as runs/sft")
    if len(cfg.asked.models()) == 1 and not cfg.drawing.temperature:
        raise ConfigError("--temperature=0: one model's responses would all be alike; raise it")
    with contextlib.ExitStack() as opened:
        sock = None
        if cfg.page.ui == "page":
            try:
                from jaxtrain.apps.serve import http
            except ImportError as error:
                raise ConfigError(f"the page needs the package {error.name}; {EXTRA}") from error

            sock = opened.enter_context(http.listen(cfg.page.host, cfg.page.port))
        from jaxtrain.apps.annotation import collect

        ballots = collect.open_db(cfg, store)
        collect.generate_responses(cfg, ballots)
        if sock:
            collect.annotate_on_page(cfg, ballots, sock)
        else:
            collect.annotate_in_terminal(cfg, ballots)


if __name__ == "__main__":
    flags.launch(Collect, main, "./launch/run collect_preferences")
