"""Whether a text follows an instruction that a program can verify: the 25 kinds of IFEval (arXiv:2311.07911, table 1).

Two differ from the paper's code, which needs NLTK's models: sentences end at . ! ? before a space, and words of capital
letters are those between spaces and punctuation. The two kinds of English in one case check the case alone.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Arguments = Mapping[str, Any]

_RELATIONS: Mapping[str, Callable[[int, int], bool]] = {
    "at least": lambda count, wanted: count >= wanted,
    "less than": lambda count, wanted: count < wanted,
}
_PARAGRAPH_MARK = re.compile(r"\s?\*\*\*\s?")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|e\.g|i\.e|p\.m|a\.m|No)\.$", re.IGNORECASE
)
_CAPITALS = re.compile(r"\w+(?:[-']\w+)*")
_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


class BadInstruction(ValueError):
    """An instruction that cannot be verified: of an unknown kind, or with arguments that are none of it."""


def follows(text: str, kind: str, arguments: Arguments) -> bool:
    """Whether a text follows an instruction. An empty one follows none. Raises BadInstruction."""
    if kind not in KINDS:
        raise BadInstruction(f"{kind!r} is not a kind of instruction")
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return bool(text.strip()) and KINDS[kind](text, given)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInstruction(f"{kind}: {dict(given)}: {type(error).__name__}: {error}") from error


def sentences(text: str) -> int:
    """The number of sentences: of ends at . ! ? that follow no abbreviation, and a rest without an end."""
    count, start = 0, 0
    for match in _SENTENCE_END.finditer(text):
        if match[0] == "." and _ABBREVIATION.search(text, max(start, match.start() - 6), match.end()):
            continue
        count, start = count + 1, match.end()
    return count + bool(text[start:].strip())


def language(text: str) -> str:
    """The language of a text by ISO 639-1."""
    return _identifier()(text)[0]


@functools.cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    import py3langid

    return py3langid.classify


def _related(count: int, wanted: Any, relation: str) -> bool:
    return _RELATIONS[relation](count, int(wanted))


def _occurrences(text: str, word: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _has_forbidden(text: str, words: list[str]) -> bool:
    return any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def _letters(text: str, letter: str) -> int:
    if len(letter) != 1:
        raise ValueError(f"{letter!r} is not a letter")
    return text.lower().count(letter.lower())


def _between(text: str, mark: re.Pattern) -> list[str] | None:
    """The parts between marks, without an empty first or last one; None where another is empty."""
    parts = [part.strip() for part in mark.split(text)]
    parts = parts[not parts[0] :]
    parts = parts[: len(parts) - (bool(parts) and not parts[-1])]
    return parts if all(parts) else None


def _paragraphs(text: str, wanted: int) -> bool:
    parts = _between(text, _PARAGRAPH_MARK)
    return parts is not None and len(parts) == int(wanted)


def _first_word(text: str, count: int, place: int, word: str) -> bool:
    """Whether there are `count` paragraphs, between empty lines, and paragraph `place` starts with the word."""
    parts = text.split("\n\n")
    if sum(bool(part.strip()) for part in parts) != int(count) or not 0 < int(place) <= len(parts):
        return False
    words = parts[int(place) - 1].split()
    first = words[0].lstrip("'\"") if words else ""
    return re.split(r"[.,?!'\"]", first)[0].lower() == word.lower()


def _postscript(text: str, marker: str) -> bool:
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker.lower()))
    return re.search(pattern, text.lower()) is not None


def _bullets(text: str, wanted: int) -> bool:
    stars = re.findall(r"^[^\S\n]*\*[^*\n]", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^[^\S\n]*-", text, re.MULTILINE)) == int(wanted)


def _highlights(text: str, wanted: int) -> bool:
    once = re.findall(r"\*([^\n*]*)\*", text)
    twice = re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(part.strip()) for part in (*once, *twice)) >= int(wanted)


def _sections(text: str, name: str, wanted: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(name)}\s?\d+\s?", text)) >= int(wanted)


def _is_json(text: str) -> bool:
    text = text.strip()
    match = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL | re.IGNORECASE)
    try:
        json.loads(match[1] if match else text)
    except (ValueError, RecursionError):
        return False
    return True


def _has_title(text: str) -> bool:
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str) -> bool:
    parts = _between(text, re.compile(r"\*{6}"))
    return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def _capitals(text: str) -> int:
    return sum(word.isupper() for word in _CAPITALS.findall(text))


KINDS: Mapping[str, Callable[[str, Arguments], bool]] = {
    "keywords:existence": lambda text, a: all(_occurrences(text, word) for word in a["keywords"]),
    "keywords:frequency": lambda text, a: _related(
        _occurrences(text, a["keyword"]), a["frequency"], a["relation"]
    ),
    "keywords:forbidden_words": lambda text, a: not _has_forbidden(text, a["forbidden_words"]),
    "keywords:letter_frequency": lambda text, a: _related(
        _letters(text, a["letter"]), a["let_frequency"], a["let_relation"]
    ),
    "language:response_language": lambda text, a: language(text) == a["language"],
    "length_constraints:number_sentences": lambda text, a: _related(
        sentences(text), a["num_sentences"], a["relation"]
    ),
    "length_constraints:number_paragraphs": lambda text, a: _paragraphs(text, a["num_paragraphs"]),
    "length_constraints:number_words": lambda text, a: _related(
        len(re.findall(r"\w+", text)), a["num_words"], a["relation"]
    ),
    "length_constraints:nth_paragraph_first_word": lambda text, a: _first_word(
        text, a["num_paragraphs"], a["nth_paragraph"], a["first_word"]
    ),
    "detectable_content:number_placeholders": lambda text, a: (
        len(re.findall(r"\[[^\]\n]*\]", text)) >= int(a["num_placeholders"])
    ),
    "detectable_content:postscript": lambda text, a: _postscript(text, a["postscript_marker"]),
    "detectable_format:number_bullet_lists": lambda text, a: _bullets(text, a["num_bullets"]),
    "detectable_format:constrained_response": lambda text, a: any(one in text for one in _RESPONSES),
    "detectable_format:number_highlighted_sections": lambda text, a: _highlights(text, a["num_highlights"]),
    "detectable_format:multiple_sections": lambda text, a: _sections(
        text, a["section_spliter"], a["num_sections"]
    ),
    "detectable_format:json_format": lambda text, a: _is_json(text),
    "detectable_format:title": lambda text, a: _has_title(text),
    "combination:two_responses": lambda text, a: _two_responses(text),
    "combination:repeat_prompt": lambda text, a: (
        text.strip().lower().startswith(a["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda text, a: (
        text.strip().strip('"').lower().endswith(a["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda text, a: (
        len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"'
    ),
    "change_case:capital_word_frequency": lambda text, a: _related(
        _capitals(text), a["capital_frequency"], a["capital_relation"]
    ),
    "change_case:english_capital": lambda text, a: text.isupper(),
    "change_case:english_lowercase": lambda text, a: text.islower(),
    "punctuation:no_comma": lambda text, a: "," not in text,
}
