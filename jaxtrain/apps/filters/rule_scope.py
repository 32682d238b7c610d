"""The scope of the rules about prose: which of them hold for a text, by its form, its script and its language.

The rules of Gopher, C4 and FineWeb were set on English pages. One that found something in code, a table or verse, in a
script without spaces or in another language is left out of the verdict, and counted. Only texts with findings are
examined, so that what passes costs nothing.
"""

import functools
from collections.abc import Sequence

from jaxtrain.apps.filters import stop_words, text_form
from jaxtrain.apps.filters.types import Finding, Findings

# Rules that measure words as they stand between spaces.
_OF_WORDS = frozenset(
    "gopher_min_words gopher_max_words gopher_word_length gopher_symbols gopher_alphabetic "
    "gopher_stop_words c4_sentences "
    "fineweb_short_lines fineweb_newlines".split()
)
_OF_SENTENCES = frozenset(("c4_sentences", "fineweb_punctuated"))
_OF_PROSE = (_OF_WORDS - {"gopher_max_words"}) | _OF_SENTENCES | {"gopher_bullets", "fineweb_repeated_lines"}
_OF_ENGLISH = frozenset(("gopher_word_length",))
_MIN_CHARS, _MIN_PROBABILITY = 100, 0.8
REPETITION_OF_FORMS = 2.0  # code, tables and verse may repeat so many times what prose may


def hold(findings: Sequence[Finding], text: str, min_stop_words: int) -> Findings:
    """The findings of rules that hold for the text, with the rules that do not and why."""
    kept, unfit = [], []
    form = text_form.form_of(text)
    for finding in findings:
        if finding.rule == "gopher_stop_words" and _has_stop_words(text, min_stop_words):
            continue  # those of its own language
        if why := _why_not(finding, text, form, min_stop_words):
            unfit.append((finding.rule, why))
        else:
            kept.append(finding)
    return Findings(kept, unfit)


def _why_not(finding: Finding, text: str, form: str, min_stop_words: int) -> str:
    rule = finding.rule
    if form != "prose" and rule in _OF_PROSE:
        return form
    if rule in _OF_WORDS and stop_words.is_unspaced(text):
        return "no spaces between words"
    if rule in _OF_SENTENCES and stop_words.is_unmarked(text):
        return "no marks at the ends of sentences"
    if rule in _OF_ENGLISH | {"gopher_stop_words"}:
        if language := stop_words.language_of(text):
            return "" if language == "en" or rule == "gopher_stop_words" else f"language {language}"
        # Few English words are English; of a text without any, py3langid says the language.
        if stop_words.language_of(text, 1, 0.0) != "en" and (language := identify(text)) != "en":
            return f"no words for language {language}"
    return ""


def _has_stop_words(text: str, least: int) -> bool:
    """Whether a text in another language has so many of that language's stop words."""
    language = stop_words.language_of(text)
    return language not in ("", "en") and stop_words.count(text, language) >= least


@functools.lru_cache(1)
def _identifier() -> "object":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.lru_cache(64)
def identify(text: str) -> str:
    """The language of a text by py3langid (ISO 639-1); "en" where the text is too short to tell."""
    if len(text) < _MIN_CHARS:
        return "en"
    language, probability = _identifier().classify(text[:2_000])
    return language if probability >= _MIN_PROBABILITY else "unknown"


def repetition_scope(text: str) -> tuple[float, str]:
    """(how much more a text may repeat than prose, why: its form)."""
    form = text_form.form_of(text)
    return (1.0, "") if form == "prose" else (REPETITION_OF_FORMS, form)


def has_no_ngrams(text: str, form: str) -> str:
    """Why what stands between the spaces of a text are no words, whose n-grams could be counted; "" where they are."""
    return "no spaces between words" if stop_words.is_unspaced(text) else "table" if form == "table" else ""
