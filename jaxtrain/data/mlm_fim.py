"""Masked-token and fill-in-the-middle objectives, as transformations of the data."""

from collections.abc import Callable

import numpy as np

from jaxtrain.data.tokenizer import Tokenizer, special_ids

Row = dict[str, np.ndarray]


def mask_tokens(tokenizer: Tokenizer, rate: float) -> Callable[[Row, np.random.Generator], Row]:
    """A transformation of a row for masked-token prediction (Devlin et al. 2018, arXiv 1810.04805,
    section 3.1).

    Each token is chosen with probability `rate`, special tokens and padding never. Of the chosen, 80 %
    become the mask token, 10 % a random token that is not special, 10 % stay; `targets` is the token
    itself, `mask` 1 where chosen.
    """
    special = np.zeros(tokenizer.vocab_size, bool)
    special[special_ids(tokenizer)] = True
    ordinary = np.flatnonzero(~special).astype(np.int32)

    def transform(row: Row, rng: np.random.Generator) -> Row:
        tokens = row["tokens"]
        draw = rng.random((3, len(tokens)))
        chosen = (draw[0] < rate) & (row["segments"] > 0) & ~special[tokens]
        random = ordinary[(draw[1] * len(ordinary)).astype(np.int64)]
        hidden = np.where(draw[2] < 0.8, tokenizer.mask, np.where(draw[2] < 0.9, random, tokens))
        return row | {
            "tokens": np.where(chosen, hidden, tokens).astype(np.int32),
            "targets": tokens,
            "mask": chosen.astype(np.float32),
        }

    return transform


def fim_parts(text: str, draws: np.ndarray, rate: float) -> tuple[str, ...]:
    """(text,), or with probability `rate` its (prefix, suffix, middle), cut at two uniform places between
    characters.

    `draws` is f64[3] in [0, 1). The order is that of fill-in-the-middle's PSM form (Bavarian et al. 2022,
    arXiv 2207.14255, section 3.1): prefix, suffix, then the middle.
    """
    if draws[0] >= rate:
        return (text,)
    first, second = sorted(int(d * (len(text) + 1)) for d in draws[1:])
    return text[:first], text[second:], text[first:second]


def fim_join(parts: list[np.ndarray], fim: tuple[int, int, int] | None) -> list[np.ndarray]:
    """The encoded parts of `fim_parts` with the token that opens each: <prefix> … <suffix> … <middle> …"""
    if len(parts) == 1:
        return parts
    return [
        ids for opens, part in zip(fim, parts, strict=True) for ids in (np.asarray([opens], np.int32), part)
    ]
