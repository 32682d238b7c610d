"""Every paper's experiment, one after the other, and the gallery of their figures and verdicts."""

import dataclasses
import importlib
import pkgutil
from pathlib import Path

from jaxtrain import config, flags, signals
from jaxtrain.apps.papers.config import GalleryFlags
from jaxtrain.apps.papers.verdicts import Paper

# What later ones use runs first; the others follow by name.
ORDER = ("dpo_tabular",)


@dataclasses.dataclass(frozen=True)
class AllPapers:
    gallery: GalleryFlags = config.group(GalleryFlags)


def papers() -> list[Paper]:
    """The experiments, in the order in which they run."""
    import experiments.papers as package

    names = [one.name for one in pkgutil.iter_modules(package.__path__) if one.name != "all"]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    found = {module.PAPER.name: module.PAPER for module in modules if hasattr(module, "PAPER")}
    first = [name for name in ORDER if name in found]
    return [found[name] for name in [*first, *sorted(set(found) - set(first))]]


def chosen(only: str) -> list[Paper]:
    """The experiments that --only names. Raises ConfigError for one that is not there."""
    every = papers()
    names = config.listed(only)
    if unknown := sorted(set(names) - {paper.name for paper in every}):
        there = ", ".join(paper.name for paper in every)
        raise config.ConfigError(
            f"--only={only}: there is no experiment {', '.join(unknown)}; there are {there}"
        )
    return [paper for paper in every if not names or paper.name in names]


def main(cfg: AllPapers) -> None:
    """Runs what is not finished, and writes papers.html after each experiment."""
    from jaxtrain.apps.papers import gallery, runner
    from jaxtrain.files import paths

    options = cfg.gallery
    todo, root = chosen(options.only), paths.absolute(Path(options.workdir))
    with signals.explaining(lambda: f"what is finished is in {root}: the same command goes on"):
        failed = [] if options.render else runner.run(options, todo, root)
    entries = gallery.read(root, papers())
    page = gallery.write_page(root, entries)
    print(f"{', '.join(f'{n} {outcome}' for outcome, n in gallery.counts(entries).items())}; {page}")
    if options.docs:
        print(gallery.write_docs(paths.absolute(Path(options.docs)), entries))
    if failed:
        raise config.Failure(f"{', '.join(failed)} failed; the same command tries again")


if __name__ == "__main__":
    from jaxtrain.files.processes import SAVED_WITHIN

    flags.launch(AllPapers, main, "./launch/run papers.all", grace=SAVED_WITHIN + signals.GRACE)
