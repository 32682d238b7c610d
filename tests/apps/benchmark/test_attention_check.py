import functools

import numpy as np

from jaxtrain.apps.benchmark import attention_check
from jaxtrain.apps.benchmark.sizes import TINY, AttentionCase
from jaxtrain.models import attention as kernels

CASE = AttentionCase(2, 1, 8, 40, window=16, documents=3, others=True)


def test_inputs_are_bfloat16_and_documents_end_in_padding():
    q, k, v, segments = attention_check.inputs(CASE)
    assert (q.shape, k.shape, v.shape) == ((2, 40, 2, 8), (2, 40, 1, 8), (2, 40, 1, 8))
    assert {x.dtype.name for x in (q, k, v)} == {"bfloat16"}
    for row in np.asarray(segments):
        assert row[0] == 1 and row[-1] == 0 and set(row) == {0, 1, 2, 3}
        inside = row[row > 0]
        assert (np.diff(inside) >= 0).all() and (row[len(inside) :] == 0).all()
    assert not np.array_equal(*np.asarray(segments))
    whole = attention_check.inputs(TINY.attention["causal"])[3]
    assert (np.asarray(whole) == 1).all()


def test_a_kernel_that_is_right_passes_and_one_that_is_wrong_does_not(monkeypatch):
    record = attention_check.compared(CASE, 1)
    own = record["kernels"]["blocked"]
    assert record["auto"] == "blocked" and record["good"] and 1e-4 < own["output"] < 5e-3
    assert own["seconds"]["repeats"] == 1 and "splash" not in record["kernels"]

    def without_window(*args, window, **how):
        return kernels.blocked(*args, window=0, **how)

    monkeypatch.setitem(kernels.KERNELS, "blocked", without_window)
    record = attention_check.compared(CASE, 1)
    assert not record["good"] and record["kernels"]["blocked"]["output"] > 0.02


def test_another_kernel_may_refuse_but_not_the_one_that_auto_takes(monkeypatch):
    def refuses(*args, **how):
        raise ValueError("no such head")

    monkeypatch.setitem(kernels.KERNELS, "other", refuses)
    monkeypatch.setattr(
        attention_check, "ELSEWHERE", {**dict.fromkeys(kernels.KERNELS, ()), "other": ("cpu",)}
    )
    record = attention_check.compared(CASE, 1)
    assert record["good"] and record["kernels"]["other"] == {"error": "ValueError: no such head"}
    monkeypatch.setitem(kernels.KERNELS, "blocked", functools.partial(refuses))
    assert not attention_check.compared(CASE, 1)["good"]
