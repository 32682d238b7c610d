"""Guards inside special tokens of messages, and special tokens as people see them."""

import numpy as np
import pytest

from jaxtrain.data import special_text
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.special_text import SpecialText
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.talk import chatml

MARKS = SpecialText(["<|end|>", "<|start|>"])


@pytest.mark.parametrize("text", ["<|end|>", "a<|start|>b", "<|en", " d|> ", "<|<|end|>end|>"])
def test_what_could_be_a_special_token_has_a_guard_inside(text):
    assert MARKS.occurs({"a": [text]})
    guarded = MARKS.guarded(text, "\ufdd0")
    assert guarded.replace("\ufdd0", "") == text and not special_text.pattern(
        ["<|end|>", "<|start|>"]
    ).search(guarded)
    for before, after in (("<|e", "|end|>"), ("<", ">"), ("<|start", "nd|>")):
        whole = special_text.pattern(["<|end|>", "<|start|>"]).search(before + guarded + after)
        assert whole is None


def test_other_text_stays_itself_and_keys_are_no_text():
    assert not MARKS.occurs({"<|end|>": ["a < b", 3, None]})
    value = {"a": ["x <|end|>", 3], "b": None}
    assert MARKS.guarded(value, "#") == {"a": ["x <#|end|>", 3], "b": None}


def test_a_guard_is_one_that_no_text_has():
    assert special_text.unused_guard(["a", {"b": special_text.GUARDS[0]}]) == special_text.GUARDS[1]
    with pytest.raises(BadRecord, match="every noncharacter"):
        special_text.unused_guard("".join(special_text.GUARDS))


def test_the_ids_of_guards_are_left_out():
    kind = ByteTokenizer()
    text = "a\ufdd0bé"
    ids, spans = special_text.without_guard(text, "\ufdd0", *kind.encode_marked([text])[0])
    assert ids.tolist() == [*b"ab", *"é".encode()] and spans[:, 0].tolist() == [0, 2, 3, 3]
    same, _ = special_text.without_guard(text, "", *kind.encode_marked([text])[0])
    assert len(same) == 7


def test_special_tokens_are_shown_but_padding():
    kind = chatml()
    show = special_text.marked_decoder(kind)
    (ids, _) = kind.encode_marked(["<|im_start|>é<|im_end|>"])[0]
    assert show(ids) == "<|im_start|>é<|im_end|>" and show(np.array([], int)) == ""
    byte = ByteTokenizer()
    assert special_text.marked_decoder(byte)([byte.bos, 97, byte.eos, byte.pad]) == "<|bos|>a<|eos|>"
