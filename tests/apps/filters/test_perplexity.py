"""Perplexity: texts that a model finds unlikely, or too likely."""

import pytest

from jaxtrain.apps.filters import perplexity
from jaxtrain.apps.filters.perplexity import PerplexityFilter
from jaxtrain.config import ConfigError


def test_perplexity_drops_what_a_model_finds_unlikely():
    bits = {"good": 1.0, "junk": 6.0, "template": 0.1, "broken": float("nan")}
    check = perplexity.check(PerplexityFilter(max_bits=4.0, min_bits=0.3), bits.__getitem__)
    assert {text: [one.rule for one in check(text)] for text in bits} == {
        "good": [], "junk": ["perplexity_high"], "template": ["perplexity_low"], "broken": ["perplexity_high"],
    }  # fmt: skip
    assert not check("")
    with pytest.raises(ConfigError, match="--min_bits"):
        PerplexityFilter(max_bits=1.0, min_bits=2.0)
