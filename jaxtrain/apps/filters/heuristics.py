"""Quality heuristics of published corpora: rules about a document's words, lines and sentences.

Gopher's quality rules (2112.11446, appendix A.1.1), C4's (1910.10683, section 2.2) and FineWeb's (2406.17557, section
3.6). They are meant for web pages: a good dialog of 80 bytes has no 50 words. So they act on documents of --rules_from
characters or more; the rules of gibberish.py, spam.py and harm.py act on any length. A document of one line has lost
its line ends: the rules about lines do not act on it, and all its sentences count.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from jaxtrain import config
from jaxtrain.apps.filters import rule_scope
from jaxtrain.apps.filters.types import Check, Finding
from jaxtrain.config import arg

# Ends of a line or sentence, with closing quotes and brackets.
TERMINAL = (".", "!", "?", '"', "'", "”", "’", "»", "…", "。", "！", "？", "｡", "।", "॥", "؟", "۔", "։",
            "።", "။", "។", "」", "』", ".)", "。）")  # fmt: skip
_EDGE = "\"'`“”‘’«»()[]{}<>.,;:!?…-–—*_/\\|#"
_LETTER = re.compile(r"[^\W\d_]")
_SENTENCE = re.compile(r"[.!?…](?=[\s\"'”’»)]|$)|[。！？｡।॥؟۔։።။។]")
_BULLETS = ("-", "•", "*", "‣", "▪", "●", "◦", "·", "–")
_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))  # Gopher's
_POLICY = re.compile(
    r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies", re.I
)


_BLANK = re.compile(r"\n\s*\n")
_MAX_WIDTH, _MIN_WIDTH = 100, 45


@dataclasses.dataclass(frozen=True)
class HeuristicsFilter(config.Group):
    # fmt: off
    rules_from: int = arg(600,
        "Characters from which the rules of Gopher, C4 and FineWeb act on a document; a shorter one passes",
        low=0)
    min_words: int = arg(50, "Gopher: fewest words; 0: no rule", low=0)
    max_words: int = arg(100_000, "Gopher: most words; 0: no rule", low=0)
    min_word_length: float = arg(3.0, "Gopher: least mean length of a word; 0: no rule", low=0)
    max_word_length: float = arg(10.0, "Gopher: most mean length of a word; 0: no rule", low=0)
    max_symbols: float = arg(0.1, "Gopher: most # or … a word; 1: no rule", low=0)
    max_bullets: float = arg(0.9, "Gopher: most of the lines that begin with a bullet; 1: no rule", low=0)
    max_ellipses: float = arg(0.3, "Gopher: most of the lines that end with an ellipsis; 1: no rule", low=0)
    min_alphabetic: float = arg(0.8, "Gopher: least of the words that have a letter; 0: no rule", low=0)
    min_stop_words: int = arg(2,
        "Gopher: fewest of the, be, to, of, and, that, have, with; of another language's frequent words; 0: no rule",
        low=0)
    min_sentences: int = arg(3, "C4: fewest sentences in the lines that it keeps; 0: no rule", low=0)
    min_line_words: int = arg(5, "C4: fewest words of a line that it keeps", low=0)
    lorem_ipsum: bool = arg(True, "C4: no text with lorem ipsum")
    curly_bracket: bool = arg(False, "C4: no text with a curly bracket (that is, no code)")
    min_punctuated: float = arg(0.12, "FineWeb: least of the lines that end in punctuation; 0: no rule", low=0)
    max_short_lines: float = arg(0.67, "FineWeb: most of the lines of up to 30 characters; 1: no rule", low=0)
    max_repeated_lines: float = arg(0.1,
        "FineWeb: most of the characters that stand in repeated lines; 1: no rule", low=0)
    max_newlines: float = arg(0.3, "FineWeb: most line ends a word; 1: no rule", low=0)
    # fmt: on

    def check(self):
        for name in ("max_bullets", "max_ellipses", "min_alphabetic", "min_punctuated", "max_short_lines"):
            if getattr(self, name) > 1:
                raise config.ConfigError(f"--{name}={getattr(self, name)}: a share, at most 1")
        for low, high in (("min_words", "max_words"), ("min_word_length", "max_word_length")):
            if getattr(self, high) and getattr(self, low) > getattr(self, high):
                raise config.ConfigError(
                    f"--{low}={getattr(self, low)}: above --{high}={getattr(self, high)}"
                )


def check(settings: HeuristicsFilter) -> Check:
    """A check by these rules; each finding's score is what the rule measured."""

    def findings(text: str) -> Sequence[Finding]:
        if len(text) < settings.rules_from or not text:
            return ()
        words = text.split()
        lines = _lines(text)
        found = [
            *_gopher(settings, text, words, lines),
            *_c4(settings, text, lines),
            *_fineweb(settings, text, words, lines),
        ]
        return rule_scope.hold(found, text, settings.min_stop_words) if found else ()

    return findings


def _lines(text: str) -> Sequence[str]:
    """The lines that are not blank; of a text that is wrapped, as a mail's or a book's, its paragraphs.

    It is wrapped if no line is over 100 characters and of those with a line after them four in five are over
    45 and less than half end in punctuation, and sentences end inside lines.
    """
    lines = text.split("\n")
    nonblank = [line for line in lines if line.strip()]
    if len(lines) > 2 and max(map(len, lines)) <= _MAX_WIDTH:
        inner = [line for line, after in pairwise(lines) if line.strip() and after.strip()]
        wide = sum(len(line) >= _MIN_WIDTH for line in inner)
        ended = sum(line.rstrip().endswith(TERMINAL) for line in inner)
        if _SENTENCE.search(text) and inner and wide >= 0.8 * len(inner) and ended < 0.5 * len(inner):
            return [part for part in _BLANK.split(text) if part.strip()]
    return nonblank


def _gopher(
    settings: HeuristicsFilter, text: str, words: Sequence[str], lines: Sequence[str]
) -> Iterator[Finding]:
    stripped = [word for word in [word.strip(_EDGE) for word in words] if word]
    count = len(stripped)
    if count < settings.min_words:
        yield Finding("gopher_min_words", count)
    if settings.max_words and count > settings.max_words:
        yield Finding("gopher_max_words", count)
    if not count:
        return
    mean = sum(map(len, stripped)) / count
    if mean < settings.min_word_length or (settings.max_word_length and mean > settings.max_word_length):
        yield Finding("gopher_word_length", mean)
    symbols = max(text.count("#"), text.count("...") + text.count("…")) / count
    if settings.max_symbols < 1 and symbols > settings.max_symbols:
        yield Finding("gopher_symbols", symbols)
    if len(lines) > 1:
        yield from _ends(settings, lines)
    # A word of punctuation alone is a word without a letter.
    odd = [word for word in stripped if not word.isalpha()]
    letters = (count - len(odd) + sum(1 for word in odd if _LETTER.search(word))) / len(words)
    if letters < settings.min_alphabetic:
        yield Finding("gopher_alphabetic", letters)
    if settings.min_stop_words:
        stops = len(_STOP_WORDS.intersection(stripped))
        if stops < settings.min_stop_words:  # capitals only where it matters
            stops = len(_STOP_WORDS.intersection([word.lower() for word in stripped]))
        if stops < settings.min_stop_words:
            yield Finding("gopher_stop_words", stops)


def _ends(settings: HeuristicsFilter, lines: Sequence[str]) -> Iterator[Finding]:
    """Gopher's rules about how lines begin and end."""
    bullets = sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines)
    if bullets > settings.max_bullets:
        yield Finding("gopher_bullets", bullets)
    ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)
    if ellipses > settings.max_ellipses:
        yield Finding("gopher_ellipses", ellipses)


def _c4(settings: HeuristicsFilter, text: str, lines: Sequence[str]) -> Iterator[Finding]:
    if settings.lorem_ipsum and (at := text.lower().find("lorem ipsum")) >= 0:
        yield Finding("c4_lorem_ipsum", 1, (at, at + len("lorem ipsum")))
    if settings.curly_bracket and (at := text.find("{")) >= 0:
        yield Finding("c4_curly_bracket", text.count("{"), (at, at + 1))
    if settings.min_sentences:
        sentences = 0
        for line in lines:
            whole = len(lines) == 1
            if sentences < settings.min_sentences and (
                whole or _c4_keeps(line.strip(), settings.min_line_words)
            ):
                sentences += sum(1 for _ in islice(_SENTENCE.finditer(line), settings.min_sentences))
        if sentences < settings.min_sentences:
            yield Finding("c4_sentences", sentences)


def _c4_keeps(line: str, min_words: int) -> bool:
    """Whether C4 keeps a line: it ends in punctuation, has enough words, and is no notice of a page."""
    return (
        line.endswith(TERMINAL)
        and not line.endswith("...")
        and len(line.split(None, min_words)) >= min_words
        and "javascript" not in line.lower()
        and not _POLICY.search(line)
    )


def _fineweb(
    settings: HeuristicsFilter, text: str, words: Sequence[str], lines: Sequence[str]
) -> Iterator[Finding]:
    if len(lines) < 2:
        return
    punctuated = sum(line.rstrip().endswith(TERMINAL) for line in lines) / len(lines)
    if punctuated < settings.min_punctuated:
        yield Finding("fineweb_punctuated", punctuated)
    short = sum(len(line) <= 30 for line in lines) / len(lines)
    if short > settings.max_short_lines:
        yield Finding("fineweb_short_lines", short)
    if len(lines) > len(unique := set(lines)):
        repeated = (sum(map(len, lines)) - sum(map(len, unique))) / len(text.replace("\n", ""))
        if repeated > settings.max_repeated_lines:
            yield Finding("fineweb_repeated_lines", repeated)
    newlines = text.count("\n") / len(words)
    if settings.max_newlines < 1 and newlines > settings.max_newlines:
        yield Finding("fineweb_newlines", newlines)
