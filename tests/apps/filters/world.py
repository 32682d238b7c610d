"""Tinytown's labelled documents, made once, and how a check does on them."""

from functools import cache

from jaxtrain.worlds.tinytown.configs import Pretrain
from jaxtrain.worlds.tinytown.documents import Document, documents

SHARES = {"dup": 0.05, "near_dup": 0.05, "junk": 0.1, "spam": 0.05, "pii": 0.05}


@cache
def labelled(count: int = 6_000, seed: int = 3) -> list[Document]:
    return list(documents(Pretrain(documents=count, originals=200, **SHARES), seed, 0, count))


def measured(check, labels: tuple[str, ...]) -> tuple[float, float]:
    """(precision, recall) of a check as a finder of documents with these labels."""
    found = [(bool(check(one.text)), one.defect in labels) for one in labelled()]
    right = sum(hit and wanted for hit, wanted in found)
    return right / max(1, sum(hit for hit, _ in found)), right / sum(wanted for _, wanted in found)
