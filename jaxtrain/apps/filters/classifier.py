"""A quality classifier: logistic regression over hashed n-grams of words and bytes.

Like those that filtered the web pages of GPT-3 (2005.14165, appendix A) and the Pile (2101.00027). Features are words,
pairs of words and 3 to 5 bytes in a row, hashed to 2^20 weights (Weinberger et al. 0902.2206, without signs), and
p(bad) = σ(wᵀx + b) with x the features of the text, of norm 1. Training visits the documents in a random
order with AdaGrad (Duchi et al. 2011) and weighs both labels alike. The same documents give the same file, to the bit.
"""

import dataclasses
import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtrain import config
from jaxtrain.apps.filters.types import Check, Finding
from jaxtrain.config import ConfigError, arg

FORMAT = 1
_BITS = 20
_MASK = (1 << _BITS) - 1
_BYTE_NGRAMS = (3, 4, 5)
_MAX_CHARS = 20_000  # characters of a text that count
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class ClassifierFilter(config.Group):
    # fmt: off
    classifier: str = arg("",
        "Drop what this file's classifier finds bad (./launch/run train_classifier writes one); empty: no such step")
    max_bad: float = arg(0.5, "Most probability of being bad that a document may have", low=0)
    # fmt: on

    def check(self):
        if self.max_bad > 1:
            raise ConfigError(f"--max_bad={self.max_bad}: a probability, at most 1")
        if not self.classifier and self.max_bad != type(self).max_bad:
            raise ConfigError("--max_bad: acts only with --classifier")


class QualityClassifier(NamedTuple):
    """A trained classifier: sparse weights, the bias, and facts of its training."""

    features: np.ndarray  # i32[n], ascending
    weights: np.ndarray  # f32[n]
    bias: float
    facts: dict  # documents of each label, epochs, seed, loss

    @property
    def fingerprint(self) -> str:
        """A digest of all that a score depends on."""
        parts = (
            self.features.tobytes(),
            self.weights.tobytes(),
            np.float64(self.bias).tobytes(),
            bytes([FORMAT]),
        )
        return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()

    def dense_weights(self) -> np.ndarray:
        """f32[2^20]: the weight of each feature."""
        full = np.zeros(_MASK + 1, np.float32)
        full[self.features] = self.weights
        return full


def features(text: str) -> np.ndarray:
    """i64[n], the features of a text, each once, ascending."""
    text = text[:_MAX_CHARS]
    words = text.lower().encode("utf-8", "surrogatepass").split()
    hashed = [zlib.crc32(word) for word in words]
    hashed += [(first * 31 + second * 7919 + 1) for first, second in pairwise(hashed)]
    parts = [np.array(hashed, np.uint64)]
    raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.uint64)
    for size in _BYTE_NGRAMS:
        if len(raw) >= size:
            code = np.full(len(raw) - size + 1, size, np.uint64)
            for at in range(size):
                code = (code << np.uint64(8)) | raw[at : len(raw) - size + 1 + at]
            parts.append(code)
    hashes = np.concatenate(parts) * _MULTIPLIER >> np.uint64(64 - _BITS)
    return np.unique(hashes.astype(np.int64))


def train(
    good: Sequence[str], bad: Sequence[str], *, epochs: int = 10, lr: float = 0.5, seed: int = 0
) -> QualityClassifier:
    """A classifier trained on labelled documents. Raises ConfigError unless there are some of both labels."""
    if not good or not bad:
        raise ConfigError(
            f"a classifier needs documents of both labels, and there are {len(good)} good, {len(bad)} bad"
        )
    inputs = [features(text) for text in (*good, *bad)]
    labels = np.array([0.0] * len(good) + [1.0] * len(bad))
    importance = np.where(labels > 0, len(labels) / (2 * len(bad)), len(labels) / (2 * len(good)))
    weights, squares = np.zeros(_MASK + 1), np.full(_MASK + 1, 1e-8)
    bias = bias_squares = 0.0
    rng = np.random.Generator(np.random.Philox(seed))
    loss = math.inf
    for _ in range(epochs):
        loss = 0.0
        for i in rng.permutation(len(inputs)):
            at = inputs[i]
            scale = 1.0 / math.sqrt(max(len(at), 1))
            logit = weights[at].sum() * scale + bias
            loss += importance[i] * (np.logaddexp(0.0, logit) - labels[i] * logit)
            error = importance[i] * (_sigmoid(logit) - labels[i])
            gradient = error * scale
            squares[at] += gradient * gradient
            weights[at] -= lr * gradient / np.sqrt(squares[at])
            bias_squares += error * error
            bias -= lr * error / math.sqrt(bias_squares + 1e-8)
    nonzero = np.flatnonzero(weights)
    facts = {
        "good": len(good),
        "bad": len(bad),
        "epochs": epochs,
        "lr": lr,
        "seed": seed,
        "loss": float(loss) / len(inputs),
    }
    return QualityClassifier(
        nonzero.astype(np.int32), weights[nonzero].astype(np.float32), float(bias), facts
    )


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0


def bad_probability(text: str, weights: np.ndarray, bias: float) -> float:
    """p(bad) of a text; `weights` f32[2^20] are dense."""
    at = features(text)
    return _sigmoid(float(weights[at].sum(dtype=np.float64)) / math.sqrt(max(len(at), 1)) + bias)


def save(model: QualityClassifier, path: str | Path) -> str:
    """The fingerprint of a classifier, after writing its file; the same classifier gives the same bytes."""
    facts = json.dumps(
        {"format": FORMAT, "bias": model.bias, "facts": model.facts, "fingerprint": model.fingerprint}
    )
    with Path(path).open("wb") as file:
        np.savez_compressed(
            file,
            features=model.features,
            weights=model.weights,
            facts=np.frombuffer(facts.encode(), np.uint8),
        )
    return model.fingerprint


def load(path: str | Path, flag: str = "classifier") -> QualityClassifier:
    """The classifier of a file that `save` wrote, named by --`flag`. Raises ConfigError for other or changed files."""
    try:
        with Path(path).expanduser().open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            model = QualityClassifier(arrays["features"], arrays["weights"], facts["bias"], facts["facts"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"--{flag}={path}: not a file of ./launch/run train_classifier ({error})"
        ) from error
    if facts["format"] != FORMAT or facts["fingerprint"] != model.fingerprint:
        raise ConfigError(
            f"--{flag}={path}: the file changed after it was saved, or another version saved it"
        )
    return model


def check(settings: ClassifierFilter) -> Check:
    """A check by the classifier of the settings; the score is p(bad)."""
    if not settings.classifier:
        return lambda text: ()
    return classifier_check(load(settings.classifier), settings.max_bad)


def classifier_check(model: QualityClassifier, max_bad: float, rule: str = "classifier") -> Check:
    """A check by a trained classifier with the rule `rule`: of quality, harm or spam, as its labels were."""
    weights, bias = model.dense_weights(), model.bias

    def findings(text: str) -> Sequence[Finding]:
        bad = bad_probability(text, weights, bias)
        return (Finding(rule, bad),) if bad > max_bad else ()

    return findings
