"""Languages: what is kept, what is too short to tell, what is refused."""

import sys

import pytest

from jaxtrain.apps.filters import language
from jaxtrain.apps.filters.language import LanguageFilter
from jaxtrain.config import ConfigError
from tests.apps.filters.pages import GOOD

TEXTS = {
    "en": GOOD,
    "de": "In der Nacht stieg der Fluss, und am Morgen standen die unteren Felder unter Wasser. Niemand hatte ihn so "
    "hoch gesehen, seit die alte Brücke fortgerissen worden war.",
    "fr": "La rivière a monté pendant la nuit, et le matin les champs d'en bas étaient sous l'eau. Personne ne l'avait "
    "vue si haute depuis l'année où le vieux pont fut emporté.",
    "pl": "Rzeka podniosła się w nocy, a rano dolne pola były pod wodą. Nikt nie widział jej tak wysokiej od roku, w "
    "którym porwała stary most.",
}


def test_the_wanted_languages_are_kept_and_the_others_named():
    pytest.importorskip("py3langid")
    check = language.check(LanguageFilter(languages="en,de"))
    found = {name: [one.rule for one in check(text)] for name, text in TEXTS.items()}
    assert found == {"en": [], "de": [], "fr": ["language_fr"], "pl": ["language_pl"]}
    assert 0.9 < check(TEXTS["fr"])[0].score <= 1
    assert not check(TEXTS["fr"][:40]) and not check("")
    assert not language.check(LanguageFilter())(TEXTS["fr"])


def test_what_is_wrong_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="--min_language"):
        LanguageFilter(min_language=1.5)
    pytest.importorskip("py3langid")
    with pytest.raises(ConfigError, match="no language xx"):
        language.check(LanguageFilter(languages="en,xx"))
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ConfigError, match="filters"):
        language.check(LanguageFilter(languages="en"))
