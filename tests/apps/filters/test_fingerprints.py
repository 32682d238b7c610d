"""Fingerprints: normalised texts, words as characters, shingles; the same in every process."""

import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain.apps.filters import fingerprints
from tests.apps.filters.duplicates import WORDS


@pytest.mark.parametrize("copy", ["The  White\nWHALE", "the white whale ", "ｔhe white whale"])
def test_exact_duplicates_but_for_case_space_and_unicode(copy):
    assert fingerprints.normalise(copy) == fingerprints.normalise("the white whale")


@given(texts=st.lists(st.text(st.sampled_from("ab \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2003éÉß")), max_size=5))
def test_words_are_those_of_split(texts):
    plain = [fingerprints.normalise(text) for text in texts]
    assert plain == [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
    words, ends = fingerprints.encode_words(plain)
    assert [len(one) for one in np.split(words, ends[:-1])][: len(plain)] == [
        len(one.split()) for one in plain
    ]
    alone = [int(fingerprints.encode_words([word])[0][0]) for one in plain for word in one.split()]
    assert words.tolist() == alone


def test_different_words_have_different_characters():
    words = [f"{a}{b}" for a in WORDS for b in ("", "s", "ed", "ing", "x" * 300)]
    assert (
        len(set(fingerprints.encode_words([" ".join(words)])[0].tolist())) >= len(set(words)) - 6
    )  # 1.4 of 2^20 by chance


def test_shingles_cross_no_document_and_short_ones_have_one():
    words, ends = fingerprints.encode_words(["a b c", "d", "", "e f"])
    assert ends.tolist() == [3, 4, 4, 6]
    flat, bounds = fingerprints.shingles(words, ends, 2)
    assert bounds.tolist() == [0, 2, 3, 4, 5]
    hashes = fingerprints.ngram_hashes
    assert flat.tolist() == [*hashes(words[:3], 2), *hashes(words[3:4], 1), 0, *hashes(words[4:6], 2)]


def test_words_have_the_same_characters_in_every_process():
    code = """
from jaxtrain.apps.filters import fingerprints
print(fingerprints.encode_words(["white whale"])[0].tolist())
"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert printed == {str(fingerprints.encode_words(["white whale"])[0].tolist()).encode() + b"\n"}
