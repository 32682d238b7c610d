"""Near names."""

from jaxtrain import suggestions


def test_near_names_are_suggested_and_far_ones_not():
    known = ("pretrain", "sft", "seq_len", "lr")
    assert suggestions.near("pretrian", known) == ["pretrain"]
    assert suggestions.near("seq-length", known) == ["seq_len"] and suggestions.near("SFT", known) == ["sft"]
    assert suggestions.near("quantum", known) == []
    assert suggestions.hint("pretrian", known) == "; did you mean pretrain?"
    assert suggestions.hint("seq_le", known, prefix="--") == "; did you mean --seq_len?"
    assert suggestions.hint("quantum", known) == ""
