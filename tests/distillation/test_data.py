"""Which batches are the student's own, and which records are prompts alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.distillation import data
from tests.data.corpus import write

B = 4


def prepared(live):
    def iterate(first):
        while True:
            columns = {name: np.full((B, 6), first) for name in data.COLUMNS}
            teacher = {name: np.zeros((B, 6, 2)) for name in ("teacher_ids", "teacher_logps")}
            yield columns | teacher | {"row": np.arange(B), "bytes": np.zeros(B)}
            first += 1

    return data.DistillationBatches(
        data=SimpleNamespace(train=SimpleNamespace(iterate=iterate)), prompts=[], live=live, table=[]
    )


def flags(share):
    return SimpleNamespace(
        run=config.Run(), loss=SimpleNamespace(on_policy=share), data=SimpleNamespace(batch_size=B)
    )


SESSION = SimpleNamespace(plan=SimpleNamespace(local_rows=np.arange))


@pytest.mark.parametrize("live", [True, False])
def test_batches_have_the_teachers_log_probabilities_where_it_is_not_loaded(live):
    batch = data.batches(flags(0.0), SESSION, prepared(live), None)(3)(None)
    extra = set() if live else {"teacher_ids", "teacher_logps"}
    assert batch.keys() == {*data.COLUMNS, "row", *extra} and (batch["tokens"] == 3).all()


def test_a_batchs_number_says_whether_it_is_the_students_own(monkeypatch):
    calls = []

    def student_rows_fn(*_):
        def rows(state, step):
            calls.append(step)
            return {name: np.full((B, 6), -1) for name in data.COLUMNS}

        return rows

    monkeypatch.setattr(data, "_student_rows_fn", student_rows_fn)
    batches = data.batches(flags(0.5), SESSION, prepared(True), None)
    next_batch = batches(0)
    first = [next_batch(None) for _ in range(12)]
    own = [bool(batch["on_policy"].all()) for batch in first]
    assert 0 < sum(own) < 12 and calls == [i for i in range(12) if own[i]]
    for i, batch in enumerate(first):
        assert (batch["tokens"] == (-1 if own[i] else i)).all() and batch["on_policy"].dtype == np.float32
    resumed = batches(5)
    assert [bool(resumed(None)["on_policy"].all()) for _ in range(7)] == own[5:], "also after a resume"


def test_records_with_prompts_alone_are_recognised(tmp_path):
    answered = write(tmp_path / "answered.jsonl", [{"prompt": "Hi?", "completion": "Yo."}] * 3)
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": "Hi?"}] * 3)
    options = {"cache_dir": str(tmp_path / "cache"), "eval_share": 0.3}
    assert data._prompts_alone(config.Dialogs(data=prompts, **options))
    assert not data._prompts_alone(config.Dialogs(data=answered, **options))
