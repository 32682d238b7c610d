import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.train import row_layout


def axes_of(shapes):
    return row_layout.time_axes({name: np.zeros(shape) for name, shape in shapes.items()})


def test_columns_that_begin_as_tokens_do_have_their_time():
    timed = {
        "tokens": (4, 16),
        "mask": (4, 16),
        "teacher_ids": (4, 16, 3),
        "ptx/tokens": (4, 8),
        "ptx/mask": (4, 8),
    }
    others = {"row": (4,), "weight": (4, 2), "stats/kl": (4,)}
    assert axes_of(timed | others) == dict.fromkeys(timed, 1) | dict.fromkeys(others)


def test_alternatives_have_time_on_their_third_axis():
    timed = {"tokens": (4, 2, 16), "mask": (4, 2, 16)}
    others = {"ref_logps": (4, 2), "prefer": (4, 2, 2), "length": (4, 2)}
    assert axes_of(timed | others) == dict.fromkeys(timed, 2) | dict.fromkeys(others)


def test_a_batch_without_tokens_lies_by_row():
    assert axes_of({"prompt": (4, 16), "length": (4,)}) == {"prompt": None, "length": None}


def test_two_parts_a_device():
    row_layout.require_parts(7, 1)
    row_layout.require_parts(16, 4)
    with pytest.raises(ConfigError, match=r"rows of 20 tokens .* --seq_len to a multiple of 8, .* in --mesh"):
        row_layout.require_parts(20, 4)
