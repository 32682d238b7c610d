"""Language identification by py3langid (extra `filters`): naive Bayes over byte n-grams, 97 languages."""

import dataclasses
from collections.abc import Sequence

from jaxtrain import config
from jaxtrain.apps.filters.types import Check, Finding
from jaxtrain.config import ConfigError, arg

_MAX_CHARS = 2_000  # characters of a text that count


@dataclasses.dataclass(frozen=True)
class LanguageFilter(config.Group):
    # fmt: off
    languages: str = arg("", "Keep documents in these languages, such as en,de (ISO 639-1); empty: every language")
    language_from: int = arg(100,
        "Fewest characters of a document whose language is identified: of fewer it is often wrong", low=0)
    min_language: float = arg(0.5, "Least probability of another language for a document to be dropped", low=0)
    # fmt: on

    def check(self):
        if self.min_language > 1:
            raise ConfigError(f"--min_language={self.min_language}: a probability, at most 1")


def check(settings: LanguageFilter) -> Check:
    """A check for other languages than the wanted; the rule names the language, the score is its probability.

    Raises ConfigError where py3langid is not installed or knows no such language.
    """
    if not settings.languages:
        return lambda text: ()
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigError(
            f"--languages={settings.languages}: needs py3langid; set JAXTRAIN_EXTRAS=filters, "
            "or pip install 'jaxtrain[filters]'"
        ) from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    wanted = settings.languages.split(",")
    known = {str(label) for label in identifier.labels}
    if unknown := sorted(set(wanted) - known):
        raise ConfigError(
            f"--languages={settings.languages}: no language {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )

    def findings(text: str) -> Sequence[Finding]:
        if len(text) < settings.language_from:
            return ()
        name, probability = identifier.classify(text[:_MAX_CHARS])
        if name in wanted or probability < settings.min_language:
            return ()
        return (Finding(f"language_{name}", float(probability)),)

    return findings
