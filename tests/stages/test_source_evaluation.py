"""Held-out bits per byte by source, in a run over two corpora."""

import pytest

from tests.runs import jsonl, rows

NUMBERS = [{"text": " ".join(str(i * 7 % 10) for i in range(n))} for n in range(4, 60)]


@pytest.fixture(scope="module")
def mixed(bench):
    folder = bench.folder / "mixed"
    numbers = jsonl(bench.folder / "numbers.jsonl", NUMBERS)
    bench.main(
        "--steps=30", "--eval_every=15", "--sample_every=0", "--eval_batches=0",
        "--keep_best=eval/bits_per_byte/numbers", f"--workdir={folder}", data=f"{bench.corpus},{numbers}*0.05",
    )  # fmt: skip
    return rows(folder)


def test_each_source_has_its_own_and_all_are_their_mean(mixed):
    evaluations = [row for row in mixed if "eval/loss" in row]
    assert len(evaluations) == 2
    for row in evaluations:
        names = {name for name in row if name.startswith("eval/bits_per_byte/")}
        assert names == {"eval/bits_per_byte/corpus", "eval/bits_per_byte/numbers"}
        low, high = sorted(row[name] for name in names)
        assert low < row["eval/bits_per_byte"] < high
    last = evaluations[-1]
    assert last["eval/bits_per_byte/corpus"] < last["eval/bits_per_byte/numbers"], "of which there were few"


def test_a_single_source_is_not_named(bench):
    folder = bench.folder / "single"
    bench.main("--steps=3", "--warmup=1", "--eval_every=0", "--sample_every=0", f"--workdir={folder}")
    assert not [name for row in rows(folder) for name in row if name.startswith("eval/bits_per_byte/")]
