"""The tokenizer that --tokenizer names; a BPE is trained on the training documents, once."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxtrain.config import Corpus
from jaxtrain.data import sources, token_cache, tokenizer
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache, hf_hub
from jaxtrain.files.progress import bar

BYTES_PER_TOKEN = 4_000  # of text that a BPE is trained on at most, for each token of its vocabulary
NEEDS = {
    "masked": ("mask",),
    "fim": ("fim_prefix", "fim_suffix", "fim_middle"),
}  # special tokens of an objective


def given_or_made(
    data: Corpus, train: Sequence[tuple[DataSource, Records]], given: Tokenizer | None
) -> tuple[Tokenizer, str]:
    """(the tokenizer that is given, or the one that --tokenizer names, and what a table says of it)."""
    if given is not None:
        return given, "that of the run or model it starts from"
    made, origin = make(data, train)
    return made, f"{data.tokenizer}, {origin}"


def make(data: Corpus, train: Sequence[tuple[DataSource, Records]]) -> tuple[Tokenizer, str]:
    """(the tokenizer, a phrase on its origin). A BPE of the same size and documents comes from the cache.

    A BPE is trained on at most BYTES_PER_TOKEN * SIZE of text, in stretches of documents sampled evenly, of
    each source its share.
    """
    if data.tokenizer == "byte":
        return tokenizer.ByteTokenizer(), "bytes"
    kind, _, size = data.tokenizer.partition(":")
    if kind == "hf":
        folder = hf_hub.locate(data.tokenizer, "tokenizer")
        return tokenizer.load(folder.path, add=NEEDS.get(data.objective, ())), f"from {folder.origin}"
    if kind != "bpe":
        return tokenizer.load(data.tokenizer, add=NEEDS.get(data.objective, ())), "from the file"
    marks = [
        (records.fingerprint, sources.text_field(source, data), source.weight) for source, records in train
    ]
    name = cache.digest("bpe", 1, int(size), BYTES_PER_TOKEN, marks, data.on_bad_record)
    folder = cache.build(
        sources.cache_dir(data) / "tokenizers" / name, lambda work: _train(work, int(size), data, train)
    )
    read = json.loads((folder / "sample.json").read_text())
    total = sum(len(records) for _, records in train)
    about = f"trained on {read['bytes'] / 1e6:,.1f} MB, {read['documents']:,} of {total:,} documents"
    return tokenizer.load(folder), about


def _train(work: Path, size: int, data: Corpus, train: Sequence[tuple[DataSource, Records]]) -> None:
    read = {"documents": 0, "bytes": 0}
    weights = sum(source.weight for source, _ in train)

    def sample() -> Iterator[str]:
        for source, records in train:
            left = int(BYTES_PER_TOKEN * size * source.weight / weights)
            field = sources.text_field(source, data)
            for text in _texts(records, field, data.on_bad_record):
                text = text.encode()[:left].decode(errors="ignore")
                count = len(text.encode())
                read["documents"] += 1
                read["bytes"] += count
                left -= count
                yield text
                if left <= 0:
                    break

    with bar(f"training the tokenizer bpe:{size}", 1):
        tokenizer.train_bpe(sample(), size).save(work)
    (work / "sample.json").write_text(json.dumps(read) + "\n")


def _texts(records: Records, field: str, policy: str) -> Iterator[str]:
    for block in token_cache.texts(records, field, Skips(policy), seed=0):
        yield from (text for text, _ in block)
