"""Filtering: the cost of junk in the corpus, and the share of it that a quality classifier of 500 labels recovers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments.papers import recipes
from experiments.papers.recipes import CorpusFlags
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, on_mean

PAPER = Paper(
    name="filtering",
    title="Junk in the corpus, and a classifier against it",
    source="Brown et al. 2020, arXiv:2005.14165",
    figure="appendix A",
    claim="A corpus that a quality classifier has filtered gives a better model for the same number of "
    "tokens.",
    published="in words, without numbers",
    measured="Models of 1M parameters on a corpus with 30 % junk, on what rules leave of it, on what a hashed "
    "n-gram classifier of 500 labels leaves, and on what an oracle leaves; loss on clean held-out "
    "documents for as many tokens.",
    criterion="The classifier recovers at least 80 % of the oracle's gain over no filter; its AUC is at least "
    ".98. By the mean over seeds.",
)
FILTERS = ("none", "rules", "classifier", "oracle")


@dataclasses.dataclass(frozen=True)
class FilteringFlags(config.Group):
    # fmt: off
    junk: float = config.arg(0.3, "Share of the corpus that is junk: shuffled letters and boilerplate", low=0)
    labels: int = config.arg(500, "Labelled documents that the classifier learns from", low=10)
    # fmt: on

    def check(self):
        if not 0 < self.junk < 1:
            raise config.ConfigError(f"--junk={self.junk}: a share, above 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Filtering:
    trial: PaperTrial = config.group(PaperTrial)
    corpus: CorpusFlags = config.group(CorpusFlags)
    junked: FilteringFlags = config.group(FilteringFlags)


def measure(cfg: Filtering, runs: Any) -> Result:
    """The classifier's AUC, and by filter the documents that remain and the loss on clean ones."""
    from jaxtrain.apps.filters import classifier, gibberish
    from jaxtrain.worlds.tinytown.configs import Pretrain
    from jaxtrain.worlds.tinytown.documents import documents

    settings, junk = cfg.corpus, cfg.junked
    world = Pretrain(documents=settings.documents, junk=junk.junk, originals=1)
    corpus = [*documents(world, runs.seed, 0, settings.documents)]
    clean = [d.text for d in documents(world, runs.seed, 0, settings.held_out, "validation")]
    labelled = [*documents(world, runs.seed + 1_000, 0, junk.labels)]  # documents that are not in the corpus
    model = classifier.train(
        [d.text for d in labelled if not d.defect], [d.text for d in labelled if d.defect], seed=runs.seed
    )
    bad, rules = classifier.classifier_check(model, 0.5), gibberish.check(gibberish.GibberishFilter())
    corpora = {
        "none": [d.text for d in corpus],
        "rules": [d.text for d in corpus if not rules(d.text)],
        "classifier": [d.text for d in corpus if not bad(d.text)],
        "oracle": [d.text for d in corpus if not d.defect],
    }
    dense = model.dense_weights()
    scores = [classifier.bad_probability(d.text, dense, model.bias) for d in corpus]
    trained = recipes.train_on(runs, settings, corpora, clean)
    return {
        "auc": auc(scores, [bool(d.defect) for d in corpus]),
        "documents": {name: len(texts) for name, texts in corpora.items()},
        "loss": {name: recipes.final(runs, run, "eval/loss") for name, run in trained.items()},
    }


def auc(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """The probability that a bad document scores above a good one, a tie counting half (Mann-Whitney)."""
    import numpy as np

    bad = np.array([s for s, t in zip(scores, truth, strict=True) if t])
    good = np.sort([s for s, t in zip(scores, truth, strict=True) if not t])
    below, upto = np.searchsorted(good, bad, "left"), np.searchsorted(good, bad, "right")
    return float((below + upto).mean() / (2 * len(good)))


def gained(result: Result, name: str) -> float:
    """The share of the oracle's gain over no filter that a filter has; 0 where the oracle gains nothing."""
    loss = result["loss"]
    gap = loss["none"] - loss["oracle"]
    return (loss["none"] - loss[name]) / gap if gap > 0 else 0.0


def judge(cfg: Filtering, results: list[Result]) -> list[Check]:
    """The classifier's share of the gain, and its AUC."""
    return [
        on_mean("classifier's share of the oracle's gain, at least .8",
                [gained(result, "classifier") for result in results], low=0.8, digits=2),
        on_mean("AUC at least .98", [result["auc"] for result in results], low=0.98, digits=4),
    ]  # fmt: skip


def draw(cfg: Filtering, results: list[Result], figure: Any) -> None:
    """Bars of the loss on clean documents by filter."""
    axes = figure.subplots()
    for i, name in enumerate(FILTERS):
        values = [result["loss"][name] for result in results]
        axes.bar(i, sum(values) / len(values), 0.6, color=f"C{i}", alpha=0.75)
        axes.plot([i] * len(values), values, "o", color=axes.xaxis.label.get_color())
    low = min(min(result["loss"].values()) for result in results)
    axes.set_xticks(range(len(FILTERS)), ["no filter", *FILTERS[1:]])
    axes.set(ylabel="loss on clean documents, nats a token", ylim=(0.9 * low, None))
    axes.set_title(f"A corpus with {cfg.junked.junk:.0%} junk, by what filters it, for as many tokens")


def main(cfg: Filtering) -> None:
    """Trains on the corpus as it is, as the rules, as the classifier and as an oracle filter it, for equal tokens."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(Filtering, main, "./launch/run papers.filtering")
