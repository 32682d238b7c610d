"""The flags of serve: the context that every row has a KV cache for, and flags that contradict each other."""

import pytest

from jaxtrain.apps.serve.config import DEFAULT_CONTEXT, CompletionStoreFlags, ServedModelFlags
from jaxtrain.config import ConfigError


@pytest.mark.parametrize(
    ("flag", "model", "context"),
    [
        (0, 0, DEFAULT_CONTEXT), (0, 64, 64), (0, 8 * DEFAULT_CONTEXT, DEFAULT_CONTEXT), (48, 64, 48),
        (64, 64, 64), (8 * DEFAULT_CONTEXT, 0, 8 * DEFAULT_CONTEXT),
    ],
)  # fmt: skip
def test_the_context_is_the_flags_or_the_models(flag, model, context):
    assert ServedModelFlags(context=flag).context_of("runs/a", model) == context


def test_a_longer_context_than_the_models_is_refused():
    with pytest.raises(ConfigError, match=r"^--context=65: the context of --model=runs/a is 64$"):
        ServedModelFlags(context=65).context_of("runs/a", 64)


def test_an_export_needs_a_store():
    with pytest.raises(ConfigError, match=r"^--export: name the store"):
        CompletionStoreFlags(store="", export="out.jsonl")
