"""LLM training in JAX. `from jaxtrain import load` loads a trained model; nothing heavy is imported before that."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtrain.language_model import LanguageModel, load

__all__ = ["LanguageModel", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxtrain import language_model

    return getattr(language_model, name)
