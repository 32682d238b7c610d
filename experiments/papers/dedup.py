"""Deduplication: the effect of repeated documents, and of removing them, on memorisation and on the loss."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.papers import recipes
from experiments.papers.recipes import CorpusFlags
from jaxtrain import config, flags
from jaxtrain.apps.filters.near_duplicates import NearDuplicates
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, on_mean

PAPER = Paper(
    name="dedup",
    title="Training on copies and without them",
    source="Lee et al. 2021, arXiv:2107.06499",
    figure="Tables 4 and 5, Figure 2",
    claim="Models trained on deduplicated data emit memorised text about ten times less, at equal or better "
    "perplexity.",
    published="1.38 % to .14 % of the emitted tokens are copied from the training data; 3.04 % of C4 are near "
    "duplicates (from memory)",
    measured="A corpus of 12,000 documents with unique serials, a fifth of it 48 documents that stand 50 times, "
    "every second copy edited: models on it and on what exact and near deduplication leave, for as many "
    "tokens. Share of 2,000 unconditional samples with a repeated document's serial; documents recited "
    "greedily from it; loss on clean ones. After 1,000 steps, in a first run of seeds 0 to 2, models recited the "
    "documents but hardly wrote their serials by themselves; the 3,000 of now were set on seed 3.",
    criterion="Serials in at least 5 times as many samples without deduplication; the loss on clean documents at "
    "most 1 % higher with it; precision and recall of the removed copies at least .95. By the mean over "
    "seeds.",
)
MARK = "No. {}\n"  # the first line of a document: its serial
WORDS = 10  # after the serial that a memorised document reproduces
ARMS = ("copies", "deduplicated")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class DedupFlags(config.Group):
    # fmt: off
    copies: int = config.arg(50, "Times that a repeated document stands in the corpus", low=2)
    repeated: float = config.arg(0.2, "Share of the corpus that repeated documents make up", low=0)
    samples: int = config.arg(2_000, "Unconditional samples of each run, at temperature 1", low=10)
    max_new: int = config.arg(48, "Most tokens of a sample", low=8)
    # fmt: on

    def check(self):
        if not 0 < self.repeated < 1:
            raise config.ConfigError(f"--repeated={self.repeated}: a share, above 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Dedup:
    trial: PaperTrial = config.group(PaperTrial)
    corpus: CorpusFlags = config.group(CorpusFlags, documents=12_000, steps=3_000)
    repeated: DedupFlags = config.group(DedupFlags)
    # Documents of this world are alike by design: of two with 20 words, another word and the serial may be all.
    near: NearDuplicates = config.group(NearDuplicates, near_similarity=0.93)


def measure(cfg: Dedup, runs: Any) -> Result:
    """Precision and recall of the removed copies; of a model on each corpus what it has memorised, and its loss."""
    import numpy as np

    from jaxtrain.worlds.tinytown.configs import Pretrain
    from jaxtrain.worlds.tinytown.documents import documents

    rng = np.random.Generator(np.random.Philox(runs.seed))
    corpus, sources, originals = with_copies(cfg, rng, runs.seed)
    held_out = documents(
        Pretrain(documents=cfg.corpus.documents), runs.seed, 0, cfg.corpus.held_out, "validation"
    )
    clean = [MARK.format(serial(rng)) + d.text for d in held_out]
    unique = deduplicate(corpus, cfg.near)
    precision, recall = precision_and_recall(sources, unique)
    corpora = dict(zip(ARMS, (corpus, [corpus[i] for i in unique]), strict=True))
    trained = recipes.train_on(runs, cfg.corpus, corpora, clean)
    repeated = [originals[serial_of(corpus[s])] for s in sorted({s for s in sources if s >= 0})]
    found = {name: memorisation(cfg, runs, run, repeated) for name, run in trained.items()}
    return found | {"precision": precision, "recall": recall}


def serial(rng) -> str:
    """Six letters: two documents seldom share one of the 2·10^8."""
    return "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=6))


def with_copies(cfg: Dedup, rng, seed: int) -> tuple[list[str], list[int], dict[str, str]]:
    """(the corpus in a random order; for each document the place of the first of its copies, or -1 where it has none;
    serial -> text of the repeated ones, unedited).

    Every second copy has a word doubled, never its serial.
    """
    from jaxtrain.worlds.tinytown.configs import Pretrain
    from jaxtrain.worlds.tinytown.documents import documents

    total, copies = cfg.corpus.documents, cfg.repeated.copies
    many = round(total * cfg.repeated.repeated / copies)
    if many < 1:
        raise config.ConfigError(
            f"--repeated={cfg.repeated.repeated}: not one document is copied {copies} times"
        )
    single = total - many * copies
    texts = list(dict.fromkeys(d.text for d in documents(Pretrain(documents=2 * total), seed, 0, 2 * total)))
    longest = sorted(texts[:single], key=len)[
        -10 * many :
    ]  # a word changed in a short text would be another text
    chosen = {longest[i] for i in rng.choice(len(longest), many, replace=False)}
    corpus: list[tuple[int, str]] = []
    originals = {}
    for at, text in enumerate(texts[: single + many]):
        marked = MARK.format(serial(rng)) + text
        if text in chosen:
            originals[serial_of(marked)] = marked
            corpus += [(at, edited(rng, marked) if copy % 2 else marked) for copy in range(copies)]
        else:
            corpus.append((-1, marked))
    order = rng.permutation(len(corpus))
    first: dict[int, int] = {}
    sources = []
    for place, i in enumerate(order):
        group = corpus[i][0]
        sources.append(-1 if group < 0 else first.setdefault(group, place))
    return [corpus[i][1] for i in order], sources, originals


def serial_of(text: str) -> str:
    """A document's serial."""
    return text.partition("\n")[0].removeprefix("No. ")


def edited(rng, text: str) -> str:
    """The text with one of its words doubled; the serial stays."""
    first, _, body = text.partition("\n")
    words = body.split(" ")
    at = int(rng.integers(len(words)))
    return f"{first}\n" + " ".join([*words[: at + 1], words[at], *words[at + 1 :]])


def deduplicate(corpus: Sequence[str], settings: NearDuplicates) -> list[int]:
    """The places of the documents that remain after the exact and near deduplication of ./launch/run filter_data."""
    import tempfile

    import numpy as np

    from jaxtrain.apps.filters import fingerprints, near_duplicates

    plan = near_duplicates.minhash_plan(settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with fingerprints.FingerprintWriter(folder, plan) as writer:
            for i, text in enumerate(corpus):
                writer.add(i, [text])
        shards = near_duplicates.FingerprintShards.open([folder])
        exact = fingerprints.first_copies(shards.column("digests.npy"))
        unique = near_duplicates.eligible(shards, exact, settings)
        files = [folder / f"pairs-{band}.npy" for band in range(plan.bands)]
        for band, file in enumerate(files):
            np.save(file, near_duplicates.candidate_pairs(shards, unique, settings, band))
        leader, _ = near_duplicates.leaders(shards, files, settings)
    return np.flatnonzero((exact < 0) & (leader < 0)).tolist()


def precision_and_recall(sources: Sequence[int], unique: Sequence[int]) -> tuple[float, float]:
    """(precision, recall) of the removed documents: correct is a copy of which another remains."""
    remaining = set(unique)
    unique_groups = {sources[i] for i in remaining if sources[i] >= 0}
    removed = [i for i in range(len(sources)) if i not in remaining]
    right = sum(sources[i] in unique_groups for i in removed)
    copies = sum(s >= 0 for s in sources) - len({s for s in sources if s >= 0})
    return right / max(1, len(removed)), right / max(1, copies)


def memorisation(cfg: Dedup, runs: Any, run: Path, repeated: Sequence[str]) -> dict[str, float]:
    """Memorisation of the repeated documents: how many the run reproduces from their serial, greedily, for ten words
    (Carlini et al. 2202.07646); and in how many unconditional samples a serial of theirs stands (Lee et al.
    2107.06499).
    """
    settings = cfg.repeated
    by_serial = {MARK.format(serial_of(text)).rstrip(): text for text in repeated}
    prompts = recipes.write_records(runs, "serials", [{"prompt": one} for one in by_serial])
    continued = runs.sample(run, prompts, "--temperature=0", max_new=settings.max_new)
    texts = recipes.documents(runs, run, settings.samples, settings.max_new)
    return {
        "loss": recipes.final(runs, run, "eval/loss"),
        "recited": sum(
            one["completion"].split()[:WORDS] == by_serial[one["prompt"]].partition("\n")[2].split()[:WORDS]
            for one in continued
        ),
        "documents": len(repeated),
        "emitted": sum(any(one in text for one in by_serial) for text in texts),
        "samples": len(texts),
    }


def ratio(result: Result, key: str) -> float:
    """How many times more often the model of the copies has memorised; with none left, as if it were one."""
    copies, unique = (result[name][key] for name in ARMS)
    return copies / max(unique, 1)


def judge(cfg: Dedup, results: list[Result]) -> list[Check]:
    """Emitted serials, the clean loss, and what the filter found."""
    emitted = on_mean("times as many samples with a serial, at least 5",
                      [ratio(result, "emitted") for result in results], low=5, digits=1)  # fmt: skip
    counts = "; ".join(
        f"{one['copies']['emitted']} and {one['deduplicated']['emitted']} of {one['copies']['samples']:,}, recited "
        f"{one['copies']['recited']} and {one['deduplicated']['recited']} of {one['copies']['documents']}"
        for one in results
    )
    change = [100 * (result["deduplicated"]["loss"] / result["copies"]["loss"] - 1) for result in results]
    return [
        emitted._replace(numbers=f"{emitted.numbers} ({counts})"),
        on_mean("clean loss with deduplication, change in %, at most 1", change, high=1, digits=2),
        on_mean(
            "precision of the removed copies at least .95", [one["precision"] for one in results], low=0.95
        ),
        on_mean("recall of the removed copies at least .95", [one["recall"] for one in results], low=0.95),
    ]


def draw(cfg: Dedup, results: list[Result], figure: Any) -> None:
    """Samples with a serial, and documents recited, without deduplication and with it."""
    left, right = figure.subplots(1, 2)
    for axes, key, total, label in (
        (left, "emitted", "samples", "unconditional samples with a repeated serial, %"),
        (right, "recited", "documents", "repeated documents recited from their serial, %"),
    ):
        for i, name in enumerate(ARMS):
            values = [100 * result[name][key] / result[name][total] for result in results]
            axes.bar(i, sum(values) / len(values), 0.6, color=f"C{i}", alpha=0.75)
            axes.plot([i] * len(values), values, "o", color=axes.xaxis.label.get_color())
        axes.set_xticks(range(len(ARMS)), ["with copies", "deduplicated"])
        axes.set_title(label, fontsize=9)
    figure.suptitle("What models memorise of documents that stand 50 times", fontsize=11)


def main(cfg: Dedup) -> None:
    """Trains on the corpus with its copies, half of them edited, and without; counts what both have memorised."""
    from jaxtrain.apps.filters import requirements
    from jaxtrain.apps.papers import trials

    requirements.require_near(cfg.near)
    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(Dedup, main, "./launch/run papers.dedup")
