"""The table of bench: what is in it, and that it fits 100 columns."""

from jaxtrain.apps.benchmark import speed_table

TRAINING = {
    "task": "pretrain", "model": "bench-s", "tokens_per_s": 3255.4, "best_tokens_per_s": 3301.0, "flops_per_s": 1.5e11,
    "mfu": 0.4567, "peak_flops": 3.284e11, "peak_memory": 812 * 2**20, "first_step_s": 12.34, "cpu_s": 1.2345,
    "logits": 400 * 2**20, "jax": "0.10.2",
}  # fmt: skip
SAMPLING = {
    "task": "sample", "model": "bench-s", "tokens_per_s": 1e6, "best_tokens_per_s": 2e6, "bound": 3e6,
    "share_of_bound": 1 / 3, "products_ms": 1234.5, "reading_ms": 0.25, "first_step_s": 3.0, "cpu_s": 0.5,
}  # fmt: skip
ROLLOUT = {
    "task": "rollout", "model": "bench-s", "tokens_per_s": 1e6, "fixed_tokens_per_s": 4e5, "speedup": 2.5,
    "mean_length": 35.25, "longest": 205, "jax": "0.10.2",
}  # fmt: skip


def test_a_row_by_hand():
    assert speed_table.head(TRAINING) == [
        "model           tokens/s   tokens/s    GFLOP/s    GFLOP/s     MFU   memory   logits   first    CPU s",
        "                  median       best     median       peak              MiB      MiB  step s   a step",
    ]
    assert speed_table.row(TRAINING) == [
        "bench-s            3,255      3,301      150.0      328.4   45.7%      812      400    12.3    1.234"
    ]
    long = speed_table.row({**TRAINING, "model": "bench-s,vocab=131072"})
    assert long[0] == "bench-s,vocab=131072" and long[1].split() == speed_table.row(TRAINING)[0].split()[1:]


def test_it_fits_100_columns_and_has_every_number():
    large = {**TRAINING, "tokens_per_s": 9.9e6, "best_tokens_per_s": 9.9e6, "flops_per_s": 9e14, "peak_flops": 9e14,
             "peak_memory": 140 * 2**30, "logits": 99 * 2**30, "first_step_s": 999.0, "cpu_s": 99.0}  # fmt: skip
    only_memory = {"model": "a", "scratch_memory": 2**40, "logits": 2**40}
    for numbers in (TRAINING, large, SAMPLING, ROLLOUT, {**SAMPLING, "products_ms": 99999.0}, only_memory):
        lines = [*speed_table.head(numbers), *speed_table.row(numbers)]
        assert max(map(len, lines)) <= 100
        shown = {column.name for column in speed_table.COLUMNS}
        assert numbers.keys() - shown <= {"task", "model", "jax"}
        assert len(lines[-1].split()) == len(numbers.keys() & shown) + (
            len(numbers["model"]) <= speed_table.MODEL
        )
