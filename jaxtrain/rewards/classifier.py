"""Rewards from a sequence classifier of Hugging Face, such as one of sentiment: --reward='classifier?model=hf:NAME'.

The classifier runs on this process's first device, in float32, and is loaded when the first completion is scored.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.files import hf_hub
from jaxtrain.models import classifier_config
from jaxtrain.models.classifier_config import ClassifierConfig

NAME = "classifier"
SCORES = ("logit", "probability", "log_odds")
TEXTS = ("whole", "completion")
ROWS = 32  # texts that are scored at once
_LEAST = 16  # tokens of a row; longer rows have a power of two, so that few programs are compiled
_OPTIONS = ("model", "label", "score", "text", "name")


@dataclasses.dataclass(frozen=True)
class ClassifierReward:
    """A reward function (prompts, completions, log_metric) -> a score of `label` a completion; equal by its options.

    `text`: the classifier sees the prompt and the completion behind it, or the completion alone. Texts beyond its
    context lose their ends, as in training; the metric NAME/truncated is their share.
    """

    name: str = dataclasses.field(compare=False)  # in the metrics
    origin: str
    label: int
    score: str
    text: str
    folder: hf_hub.HfFolder = dataclasses.field(compare=False, repr=False)
    config: ClassifierConfig = dataclasses.field(compare=False, repr=False)

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], log_metric: Callable[[str, Any], None]
    ) -> list[float]:
        """The scores. Logs 1 or 0 a completion for whether its text was cut to the classifier's context."""
        whole = self.text == "whole"
        texts = [prompt + end if whole else end for prompt, end in zip(prompts, completions, strict=True)]
        values, cut = _program(self.folder, self.config)(texts)
        for one in cut:
            log_metric(f"{self.name}/truncated", float(one))
        return _scores(values, self.label, self.score, self.config).tolist()

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self).__call__).replace(
            parameters=[
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
                for name in ("prompts", "completions", "log_metric")
            ]
        )


def configured(options: Sequence[tuple[str, str]], label: str) -> ClassifierReward:
    """The reward with these options. Raises ConfigError for one that is none, and a folder that has no classifier."""
    given = dict(options)
    if unknown := [key for key in given if key not in _OPTIONS]:
        raise ConfigError(f"{label}: {NAME} has no option {unknown[0]}; it has {', '.join(_OPTIONS)}")
    model = given.get("model", "")
    if not model.startswith(hf_hub.PREFIX):
        raise ConfigError(
            f"{label}: name the classifier, a folder or a repository of the Hub: {NAME}?model=hf:DIR or "
            f"{NAME}?model=hf:ORG/NAME"
        )
    for key, values in (("score", SCORES), ("text", TEXTS)):
        if given.get(key, values[0]) not in values:
            raise ConfigError(f"{label}: {key}={given[key]}: choose one of {', '.join(values)}")
    name = given.get("name", NAME)
    if not name.isidentifier():
        raise ConfigError(f"{label}: name={name}: write letters, digits and _, as of a metric")
    folder = hf_hub.locate(model, "reward")
    config = classifier_config.read(folder.path)
    if not (folder.path / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder.path}: has no tokenizer.json; load it with transformers' AutoTokenizer, save it with "
            "save_pretrained, and name that folder"
        )
    return ClassifierReward(
        name=name,
        origin=folder.origin,
        label=_label(given.get("label", ""), config, label),
        score=given.get("score", SCORES[0]),
        text=given.get("text", TEXTS[0]),
        folder=folder,
        config=config,
    )


def _label(text: str, config: ClassifierConfig, where: str) -> int:
    """The number of the label that a text names; the only one where there is but one. Raises ConfigError."""
    names = [name.lower() for name in config.labels]
    if not text and len(names) == 1:
        return 0
    if names.count(text.lower()) != 1:
        raise ConfigError(
            f"{where}: label={text or '?'}: the classifier has {', '.join(config.labels)}; name one"
        )
    return names.index(text.lower())


def _scores(logits: np.ndarray, label: int, score: str, config: ClassifierConfig) -> np.ndarray:
    """f32[B] of logits f32[B, K]: the label's logit, its probability p, or log p / (1 - p)."""
    own = logits[:, label]
    if score == "logit":
        return own
    others = np.delete(logits, label, axis=1)
    if others.shape[1] and not config.multi_label:
        highest = others.max(1)
        own = own - highest - np.log(np.exp(others - highest[:, None]).sum(1))
    return own if score == "log_odds" else 0.5 * (1 + np.tanh(own / 2))


@functools.lru_cache(maxsize=2)
def _program(
    folder: hf_hub.HfFolder, config: ClassifierConfig
) -> Callable[[Sequence[str]], tuple[np.ndarray, list[bool]]]:
    """A function of texts that returns their logits f32[B, K], and which texts were cut."""
    import jax

    from jaxtrain.models import text_classifier

    tokenizer = _tokenizer(folder.path, config.max_len)
    params = text_classifier.read(hf_hub.with_weights(folder), config)
    words, rows = tokenizer.get_vocab_size(), len(params["tables"][0])
    if words > rows:
        raise ConfigError(
            f"{folder.path}: tokenizer.json has {words} tokens, the model {rows}; name the model's own"
        )
    compiled = jax.jit(functools.partial(text_classifier.logits, cfg=config))

    def run(texts: Sequence[str]) -> tuple[np.ndarray, list[bool]]:
        encoded = tokenizer.encode_batch(list(texts))
        parts = [np.zeros((0, len(config.labels)), np.float32)]
        for first in range(0, len(encoded), ROWS):
            ids = [one.ids for one in encoded[first : first + ROWS]]
            length = np.array([len(one) for one in ids] + [1] * (ROWS - len(ids)), np.int32)
            width = min(max(_LEAST, 1 << int(length.max() - 1).bit_length()), config.max_len)
            rows = np.zeros((ROWS, width), np.int32)
            for row, one in zip(rows, ids, strict=False):
                row[: len(one)] = one
            parts.append(np.asarray(compiled(params, rows, length))[: len(ids)])
        return np.concatenate(parts), [bool(one.overflowing) for one in encoded]

    return run


def _tokenizer(folder: Path, max_len: int) -> Any:
    """The folder's tokenizer, which writes the special tokens and cuts a text to the context."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises no other class
        raise ConfigError(f"{folder / 'tokenizer.json'}: cannot be read ({error})") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_len)
    return tokenizer
