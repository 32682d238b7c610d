"""Texts with planted near duplicates, and the copies found among texts."""

import itertools

import numpy as np

from jaxtrain.apps.filters import fingerprints, near_duplicates

WORDS = [
    a + b + c for a, b, c in itertools.product("bdfgklmnprst", "aeiou", ["n", "rt", "s", "ll", "mp", ""])
]


def zipf_words(rng, length):
    """Words by Zipf's law, as a language has them."""
    weights = [1 / rank for rank in range(1, len(WORDS) + 1)]
    return rng.choices(WORDS, weights, k=length)


def edited(rng, words, share):
    """The words with up to this share of edits: other words, words more, words fewer."""
    words = list(words)
    for _ in range(int(share * len(words))):
        at, kind = rng.randrange(len(words)), rng.randrange(3)
        words[at : at + 1] = ([rng.choice(WORDS)], [words[at], rng.choice(WORDS)], [])[kind]
    return words


def find_copies(folder, texts, settings, shards=1):
    """(first copies, kept copies) of texts, fingerprinted in so many shards."""
    folders, size = [], -(-len(texts) // shards)
    for i in range(shards):
        folders.append(folder / f"{shards}-{i}")
        folders[-1].mkdir()
        with fingerprints.FingerprintWriter(folders[-1], near_duplicates.minhash_plan(settings)) as writer:
            for n in range(i * size, min((i + 1) * size, len(texts))):
                writer.add(n, [texts[n]])
    whole = near_duplicates.FingerprintShards.open(folders)
    exact = fingerprints.first_copies(whole.column("digests.npy"))
    part, files = near_duplicates.eligible(whole, exact, settings), []
    for band in range(near_duplicates.minhash_plan(settings).bands):
        files.append(folder / f"{shards}-{band}.npy")
        np.save(files[-1], near_duplicates.candidate_pairs(whole, part, settings, band))
    return exact, near_duplicates.leaders(whole, files, settings)[0]
