"""Variants of characters become one, and spans lead back to the text."""

from jaxtrain.apps.filters import pii
from jaxtrain.apps.filters.personal_data.folding import fold, unfold


def test_variants_keep_their_places():
    assert fold("plain") == ("plain", None)
    assert fold("a＠b\u00a0\u2011٣") == ("a@b -3", None)


def test_invisible_characters_are_left_out_and_spans_lead_back():
    text = "x a\u200bda@mail\u00ad.example.org\u200b y"
    folded, places = fold(text)
    assert folded == "x ada@mail.example.org y"
    start, end = unfold((2, 22), places)
    assert text[start:end] == "a\u200bda@mail\u00ad.example.org"
    assert [one.span for one in pii.check(pii.PiiFilter())(text)] == [(start, end)]
