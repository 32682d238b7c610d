"""What the tests of the token cache share: a corpus of several parts, and all that its documents hold."""

import numpy as np

from jaxtrain.data import token_cache
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.corpus import records_of

KIND = ByteTokenizer()


def tokenise(rows, folder, *, label="rows", field="text", policy="raise", fim=None, workers=1):
    return token_cache.tokenise(records_of(rows, label), KIND, field, policy, folder, fim, workers=workers)


def columns(documents):
    """All that documents hold, and the list of the skipped ones."""
    spans = zip(documents.offsets[:-1], documents.offsets[1:], strict=True)
    ids = np.concatenate([documents.ids[start:stop] for start, stop in spans])
    with open(documents.listed, encoding="utf-8") as file:
        listed = file.read()
    numbers = (documents.size, documents.empty, documents.skipped, documents.fingerprint, listed)
    return (ids, documents.offsets, documents.slack, documents.logp), numbers


def assert_same(one, other):
    arrays, numbers = columns(one)
    others, other_numbers = columns(other)
    assert numbers == other_numbers
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, others, strict=True))


def cached(folder):
    """Names and bytes of all files of a cache, without locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
