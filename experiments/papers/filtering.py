"""Filtering: the cost of junk in the corpus, and the share of it that a quality classifier of 500 labels recovers."""

import dataclasses

from experiments.papers.arms import CorpusTrial
from jaxtrain import config, flags


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
    trial: CorpusTrial = config.group(CorpusTrial)
    junked: FilteringFlags = config.group(FilteringFlags)


def main(cfg: Filtering) -> None:
    """Trains on the corpus as it is, as the rules, as the classifier and as an oracle filter it, for equal tokens."""
    from experiments.papers import arms
    from jaxtrain.apps.filters import classifier, gibberish
    from jaxtrain.worlds.tinytown.configs import Pretrain
    from jaxtrain.worlds.tinytown.documents import documents

    trial = cfg.trial
    folder = arms.folder_of(trial, "papers-filtering")
    world = Pretrain(documents=trial.documents, junk=cfg.junked.junk, originals=1)
    corpus = list(documents(world, trial.seed, 0, trial.documents))
    clean = [d.text for d in documents(world, trial.seed, 0, trial.held_out, "validation")]
    # Labels are of documents that are not in the corpus.
    labelled = list(documents(world, trial.seed + 1, 0, cfg.junked.labels))
    model = classifier.train(
        [d.text for d in labelled if not d.defect], [d.text for d in labelled if d.defect], seed=trial.seed
    )
    classifier.save(model, folder / "classifier.npz")
    by_classifier = classifier.classifier_check(model, 0.5)
    by_rules = gibberish.check(gibberish.GibberishFilter())
    dense = model.dense_weights()
    scores = [classifier.bad_probability(d.text, dense, model.bias) for d in corpus]
    truth = [bool(d.defect) for d in corpus]
    corpora = {
        "none": [d.text for d in corpus],
        "rules": [d.text for d in corpus if not by_rules(d.text)],
        "classifier": [d.text for d in corpus if not by_classifier(d.text)],
        "oracle": [d.text for d in corpus if not d.defect],
    }
    runs = arms.train(trial, folder, corpora, clean)
    loss = {name: arms.clean_loss(run) for name, run in runs.items()}
    title = "Training on a corpus with junk, as filters leave it"
    arms.write_result(folder, title, runs, *report(cfg, corpora, loss, auc(scores, truth)))


def auc(scores: list[float], truth: list[bool]) -> float:
    """The probability that a bad document scores above a good one, a tie counting half (Mann-Whitney)."""
    import numpy as np

    bad = np.array([s for s, t in zip(scores, truth, strict=True) if t])
    good = np.sort([s for s, t in zip(scores, truth, strict=True) if not t])
    below, upto = np.searchsorted(good, bad, "left"), np.searchsorted(good, bad, "right")
    return float((below + upto).mean() / (2 * len(good)))


def report(cfg: Filtering, corpora: dict, loss: dict, area: float) -> tuple[dict, list[tuple[str, str]]]:
    """(result, table): the losses, and the share of the oracle's gain that each filter has."""
    from experiments.papers.arms import verdict

    gap = loss["none"][0] - loss["oracle"][0]
    gained = (
        {name: (loss["none"][0] - loss[name][0]) / gap for name in ("rules", "classifier")} if gap else {}
    )
    passed = {"auc": area >= 0.98, "gain": gap > 0 and gained["classifier"] >= 0.8}
    table = [
        (
            f"on {name}",
            f"clean loss {loss[name][0]:.4f} nats a token, {loss[name][1]:.4f} bits a byte; "
            f"{len(corpora[name]):,} documents"
            + (f"; {gained[name]:.0%} of the oracle's gain" if name in gained else ""),
        )
        for name in corpora
    ]
    table += [
        (
            "junk costs",
            f"{gap:.4f} nats a token at equal tokens, {cfg.junked.junk:.0%} of the documents junk",
        ),
        (
            "classifier's AUC",
            f"{area:.4f} of {cfg.junked.labels} labels; expected .98: {verdict(passed['auc'])}",
        ),
        ("its gain", f"expected 80 % of the oracle's: {verdict(passed['gain'])}"),
    ]
    result = {
        "loss": loss,
        "documents": {n: len(t) for n, t in corpora.items()},
        "gained": gained,
        "auc": area,
    }
    return result | {"passed": passed}, table


if __name__ == "__main__":
    flags.launch(Filtering, main, "./launch/run papers.filtering")
