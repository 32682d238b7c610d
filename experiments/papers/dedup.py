"""Deduplication: the effect of repeated documents, and of removing them, on memorisation and on the loss."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.papers.arms import CorpusTrial
from jaxtrain import config, flags
from jaxtrain.apps.filters.near_duplicates import NearDuplicates

MARK = "No. {}\n"  # the first line of a document: its serial
WORDS = 10  # after the serial that a memorised document reproduces
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class DedupFlags(config.Group):
    # fmt: off
    copies: int = config.arg(50, "Times that a repeated document stands in the corpus", low=2)
    repeated: float = config.arg(0.2, "Share of the corpus that repeated documents make up", low=0)
    samples: int = config.arg(1_000, "Unconditional samples of each run, at temperature 1", low=10)
    max_new: int = config.arg(48, "Most tokens of a sample", low=8)
    # fmt: on

    def check(self):
        if not 0 < self.repeated < 1:
            raise config.ConfigError(f"--repeated={self.repeated}: a share, above 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Dedup:
    trial: CorpusTrial = config.group(CorpusTrial, documents=12_000, steps=1_000)
    repeated: DedupFlags = config.group(DedupFlags)
    # Documents of this world are alike by design: of two with 20 words, another word and the serial may be all.
    near: NearDuplicates = config.group(NearDuplicates, near_similarity=0.93)


def main(cfg: Dedup) -> None:
    """Trains on the corpus with its copies, half of them edited, and without; counts what both have memorised."""
    import numpy as np

    from experiments.papers import arms
    from jaxtrain.apps.filters import requirements
    from jaxtrain.worlds.tinytown.configs import Pretrain
    from jaxtrain.worlds.tinytown.documents import documents

    requirements.require_near(cfg.near)
    trial, rng = cfg.trial, np.random.Generator(np.random.Philox(cfg.trial.seed))
    folder = arms.folder_of(trial, "papers-dedup")
    corpus, sources, originals = with_copies(cfg, rng)
    world = Pretrain(documents=trial.documents)
    held_out = documents(world, trial.seed, 0, trial.held_out, "validation")
    clean = [MARK.format(serial(rng)) + d.text for d in held_out]
    unique = deduplicate(corpus, cfg.near)
    precision, recall = precision_and_recall(sources, unique)
    corpora = {"copies": corpus, "deduplicated": [corpus[i] for i in unique]}
    runs = arms.train(trial, folder, corpora, clean)
    repeated = [originals[serial_of(corpus[s])] for s in sorted({s for s in sources if s >= 0})]
    results = {name: memorisation(run, cfg, repeated) for name, run in runs.items()}
    title = "Training on copies and without them"
    arms.write_result(folder, title, runs, *report(cfg, corpora, results, precision, recall))


def serial(rng) -> str:
    """Six letters: two documents seldom share one of the 2·10^8."""
    return "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=6))


def with_copies(cfg: Dedup, rng) -> tuple[list[str], list[int], dict[str, str]]:
    """(the corpus in a random order; for each document the place of the first of its copies, or -1 where it has none;
    serial -> text of the repeated ones, unedited).

    Every second copy has a word doubled, never its serial.
    """
    from jaxtrain.worlds.tinytown.configs import Pretrain
    from jaxtrain.worlds.tinytown.documents import documents

    total, copies = cfg.trial.documents, cfg.repeated.copies
    many = round(total * cfg.repeated.repeated / copies)
    if many < 1:
        raise config.ConfigError(
            f"--repeated={cfg.repeated.repeated}: not one document is copied {copies} times"
        )
    single = total - many * copies
    texts = list(
        dict.fromkeys(d.text for d in documents(Pretrain(documents=2 * total), cfg.trial.seed, 0, 2 * total))
    )
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


def memorisation(run: Path, cfg: Dedup, repeated: Sequence[str]) -> dict[str, Any]:
    """Memorisation of the repeated documents: how many the run reproduces from their serial, greedily, for ten words
    (Carlini et al. 2202.07646); and how many unconditional samples hold a serial of theirs (Lee et al. 2107.06499).
    """
    from experiments.papers import arms

    serials = [MARK.format(serial_of(text)).rstrip() for text in repeated]
    continued = sample_texts(run, cfg, serials, temperature=0.0)
    texts = sample_texts(run, cfg, [""] * cfg.repeated.samples)
    return {
        "loss": arms.clean_loss(run),
        "recalled": sum(
            new.split()[:WORDS] == text.partition("\n")[2].split()[:WORDS]
            for new, text in zip(continued, repeated, strict=True)
        ),
        "documents": len(repeated),
        "emitted": sum(any(s in text for s in serials) for text in texts),
        "samples": len(texts),
    }


def sample_texts(run: Path, cfg: Dedup, prompts: Sequence[str], temperature: float = 1.0) -> list[str]:
    """The run's completion of each prompt, the beginning of a document."""
    import numpy as np

    from experiments import sample
    from jaxtrain.data import chat
    from jaxtrain.generate import sampler
    from jaxtrain.inference import chat as inference_chat
    from jaxtrain.inference import config as inference_config
    from jaxtrain.stages import init_from

    start = init_from.load_run(str(run))
    sample_cfg = sample.Sample(
        asked=sample.SamplePrompts(init_from=str(run)),
        drawing=sample.SampleSampling(max_new=cfg.repeated.max_new, temperature=temperature),
        machine=inference_config.MachineFlags(cache_dir=cfg.trial.cache_dir),
    )
    tokenizer = start.tokenizer
    model, texts = (
        inference_chat.open_chat_model(sample_cfg, start, chat.load_template("none", tokenizer)),
        [],
    )
    ids = [np.array([tokenizer.bos, *new], np.int32) for new in tokenizer.encode(prompts)]
    for at in range(0, len(ids), 4 * inference_chat.AT_ONCE):
        here = ids[at : at + 4 * inference_chat.AT_ONCE]
        seeds = [[sampler.completion_seed(cfg.trial.seed, at + i, 0)] for i in range(len(here))]
        texts += [one.text for one in model.sample(here, seeds)]
    return texts


def report(
    cfg: Dedup, corpora: dict, results: dict, precision: float, recall: float
) -> tuple[dict, list[tuple[str, str]]]:
    """(result, table): losses, memorised serials, precision and recall of the copies."""
    from experiments.papers.arms import verdict

    loss, less = (results[name]["loss"] for name in ("copies", "deduplicated"))
    raw, rest = (results[name]["recalled"] for name in ("copies", "deduplicated"))
    ratio = raw / max(rest, 1)  # with none left, as if it were one
    passed = {
        "memorised": ratio >= 5,
        "loss": less[0] <= 1.01 * loss[0],
        "found": min(precision, recall) >= 0.95,
    }
    table = [
        (
            f"on {name}",
            f"{one['recalled']:,} of {one['documents']:,} repeated documents are reproduced from their serial; "
            f"{one['emitted']:,} of {one['samples']:,} unconditional samples hold such a serial; clean loss "
            f"{one['loss'][0]:.4f} nats a token, {one['loss'][1]:.4f} bits a byte; {len(corpora[name]):,} documents",
        )
        for name, one in results.items()
    ]
    at_least = "at least " if raw > rest == 0 else ""
    table += [
        (
            "memorised",
            f"{at_least}{ratio:.1f} times as often; expected 5 or more: {verdict(passed['memorised'])}",
        ),
        (
            "clean loss",
            f"{less[0] / loss[0] - 1:+.2%} without copies; expected +1 % at most: {verdict(passed['loss'])}",
        ),
        (
            "copies found",
            f"precision {precision:.4f}, recall {recall:.4f}; expected .95: {verdict(passed['found'])}",
        ),
    ]
    result = {"found": results, "ratio": ratio, "precision": precision, "recall": recall, "passed": passed}
    return result, table


if __name__ == "__main__":
    flags.launch(Dedup, main, "./launch/run papers.dedup")
