"""Train the classifier of ./launch/run filter_data --classifier on labelled documents."""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtrain import config, flags
from jaxtrain.config import ConfigError

GOOD = ("", "clean", "good", "0", "false", "none")  # labels of a good document


@dataclasses.dataclass(frozen=True)
class LabelledDocuments(config.Group):
    # fmt: off
    good: str = config.arg("", "Good documents, such as tinytown:pretrain or jsonl:good/*.jsonl")
    bad: str = config.arg("", "Bad documents: of low quality, spam, or harmful")
    data: str = config.arg("", "Documents with a label instead of --good and --bad")
    label_field: str = config.arg("defect",
        "Field of --data's records with the label: empty, clean, good, none, 0 or false is good, any other bad")
    documents: int = config.arg(20_000, "Most documents of each label", low=10)
    text_field: str = config.arg("text", "Field of a record that holds the text, where it is plain text")
    cache_dir: str = config.arg(config.CACHE_DIR, "Folder of prepared data sets")
    # fmt: on

    def check(self):
        pair = bool(self.good), bool(self.bad)
        if pair[0] != pair[1] or (self.data and any(pair)):
            raise ConfigError(
                "--good and --bad go together, and --data stands for both: leave out one of the two"
            )


@dataclasses.dataclass(frozen=True)
class ClassifierTraining(config.Group):
    # fmt: off
    out: str = config.arg("classifier.npz", "File that the classifier is written to")
    epochs: int = config.arg(10, "Epochs: times that each document is trained on", low=1)
    learning_rate: float = config.arg(0.5, "AdaGrad's step", low=0)
    held_share: float = config.arg(0.2, "Share of the documents that is held out and measured on", low=0)
    seed: int = config.arg(0, "Seed of the order and of what is held out", low=0)
    # fmt: on

    def check(self):
        if not 0 < self.held_share < 1:
            raise ConfigError(f"--held_share={self.held_share}: a share, above 0 and below 1")


@dataclasses.dataclass(frozen=True)
class TrainClassifier:
    labelled: LabelledDocuments = config.group(LabelledDocuments)
    reading: config.Reading = config.group(config.Reading, on_bad_record="skip")
    training: ClassifierTraining = config.group(ClassifierTraining)


def main(cfg: TrainClassifier) -> None:
    """Trains on the documents but a held-out share, measures on that share, and writes the classifier."""
    labelled, training = cfg.labelled, cfg.training
    if not labelled.data and not labelled.good:
        raise ConfigError("--good and --bad, or --data: name labelled documents")

    import random

    from jaxtrain.apps.filters import classifier
    from jaxtrain.files.terminal import lines

    out = Path(training.out).expanduser()
    if out.suffix != ".npz" or not out.parent.is_dir():
        raise ConfigError(f"--out={out}: write FOLDER/NAME.npz, in a folder that exists")
    train, held_out = [], []
    for texts in _labelled_texts(labelled, cfg.reading):
        random.Random(training.seed).shuffle(texts)
        cut = max(1, round(len(texts) * training.held_share))
        held_out.append(texts[:cut])
        train.append(texts[cut:])
    good, bad = train
    model = classifier.train(good, bad, epochs=training.epochs, lr=training.learning_rate, seed=training.seed)
    fingerprint = classifier.save(model, out)
    weights = model.dense_weights()
    scores = [[classifier.bad_probability(text, weights, model.bias) for text in texts] for texts in held_out]
    wrong, right = (sum(score > 0.5 for score in each) for each in scores)
    table = [
        (
            "documents",
            f"{len(good):,} good, {len(bad):,} bad; measured on {len(held_out[0]):,} and {len(held_out[1]):,} others",
        ),
        ("precision", f"{right / max(1, right + wrong):.4f} at --max_bad=0.5"),
        ("recall", f"{right / max(1, len(held_out[1])):.4f}"),
        ("fingerprint", fingerprint),
        ("use it", f"./launch/run filter_data --classifier={out}, or --harm_classifier for one of harm"),
    ]
    print("\n".join(lines(table)))


def _labelled_texts(labelled: LabelledDocuments, reading: config.Reading) -> list[list[str]]:
    """[good, bad] texts, at most --documents of each."""
    limit, field, notes = labelled.documents, labelled.label_field, list[str]()
    if not labelled.data:
        sides = [
            [text for text, _ in itertools.islice(_texts(labelled, reading, data, flag, "", notes), limit)]
            for flag, data in (("good", labelled.good), ("bad", labelled.bad))
        ]
    else:
        sides = [[], []]
        for text, label in _texts(labelled, reading, labelled.data, "data", field, notes):
            side = sides[str(label or "").strip().lower() not in GOOD]
            if len(side) < limit:
                side.append(text)
            if min(map(len, sides)) >= limit:
                break
    for name, side in zip(("good", "bad"), sides, strict=True):
        if len(side) < 2:
            why = "".join(f"; {line}" for line in notes)
            raise ConfigError(f"there are {len(side)} {name} documents; name data that has more{why}")
    if notes:
        print("\n".join(notes), file=sys.stderr)
    return sides


def _texts(
    labelled: LabelledDocuments, reading: config.Reading, data: str, flag: str, field: str, notes: list[str]
) -> Iterator[tuple[str, Any]]:
    """(the text that filter_data would check, the label) of all sources; without `field` labels are None.

    `notes` gets lines on the bad records that are skipped.
    """
    from jaxtrain.apps.filters import record_texts
    from jaxtrain.data import source_spec, sources, summary
    from jaxtrain.data.bad_records import Skips

    dialogs = config.dialogs_of(
        reading, labelled.cache_dir, data=data, eval_data="-", text_field=labelled.text_field
    )
    source_spec.check_sources(data, dialogs, flag)
    skips = Skips(reading.on_bad_record)
    for source in source_spec.parse(data, flag):
        records = sources.whole(source, dialogs, None)
        notes += [f"--{flag}: {line}" for line in summary.of_files(records)]
        for first, block in records.blocks():
            for i, record in enumerate(block, first):
                texts = record_texts.targets(record_texts.find_texts(record, labelled.text_field))
                text = "\n".join(one.text for one in texts if isinstance(one.text, str)).strip()
                if wrong := _wrong(text, record, labelled.text_field, field):
                    skips.bad(records.where(i), wrong)
                else:
                    yield text, record.get(field)
    if skips:
        notes.append(f"--{flag}: {skips.in_words(sources.cache_dir(dialogs))}")


def _wrong(text: str, record: Mapping[str, Any], text_field: str, field: str) -> str:
    """Why a record is no document, with a label under `field` where that is not empty; "" where it is one."""
    from jaxtrain.data.bad_records import is_unicode

    label = record.get(field)
    if not text:
        return f"no text under {text_field!r} (--text_field)"
    if not is_unicode(text):
        return "no text: it holds half a surrogate pair"
    if field and field not in record:
        return f"no label: --label_field={field} is not a field of it"
    infinite = isinstance(label, float) and not math.isfinite(label)
    if isinstance(label, dict | list) or infinite or (isinstance(label, str) and not is_unicode(label)):
        return f"no label: {field!r} is {label!r:.40}, no word and no number"
    return ""


if __name__ == "__main__":
    flags.launch(TrainClassifier, main, "./launch/run train_classifier")
