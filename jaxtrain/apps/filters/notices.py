"""Notices that many documents share: licence headers, copyright lines, marks of generated files, footers.

They are left out where near duplicates are compared, since files of one licence are no copies of each other by it.
"""

import re
from collections.abc import Iterator
from itertools import groupby

# Every notice has one of them.
_HINTS = (
    "copyright", "licen", "lizenz", "©", "rights reserved", "do not edit", "generated", "confidential", "cookie",
    "privacy policy", "unsubscribe",
)  # fmt: skip
# Of a text in small letters; one such phrase makes a block of comments or a short paragraph a notice.
_STRONG = re.compile(
    r"spdx-license-identifier|all rights reserved|permission is hereby granted|licen[sc]ed under|under "
    r"the terms of (?:the|that|this)|"
    r"this (?:file|program|software|library|code|work|project|module) is (?:free software|licen[sc]ed|"
    r"part of|distributed|released|provided)|"
    r"(?:copyright|©|\(c\))[^\n]{0,24}\b(?:19|20)\d\d\b|(?:19|20)\d\d[^\n]{0,24}(?:copyright|©|\(c\))|"
    r"do not edit|(?:auto-?|automatically |machine )generated|generated (?:by|from) \S|unless required "
    r"by applicable law|"
    r"without (?:any )?warrant(?:y|ies)|alle rechte vorbehalten|tous droits réservés|todos los derechos "
    r"reservados|"
    r"this e-?mail (?:and any|is|may)|intended (?:solely|only) for|(?:uses|use of|accept) (?:all "
    r")?cookies|privacy policy|"
    r"terms (?:of (?:use|service)|and conditions)|to unsubscribe|unsubscribe from"
)
_WEAK = re.compile(
    r"copyright|licen[sc]e|lizenz|©|warrant(?:y|ies)|redistribut\w+|liab(?:le|ility)|permission|as[- "
    r"]is\b|rights|distributed|"
    r"merchantability|infringement|conditions|disclaim\w*|granted|free of charge|public domain|"
    r"confidential|cookies?"
)
_COMMENT = re.compile(r"\s{0,8}(#|//|/\*|\*/|\*|--|;+|%+|<!--|!|rem\b|\.\.|dnl\b|\"{3}|'{3}|\(\*|\{-)", re.I)
_FAMILIES = {"/*": "*", "*/": "*", "//": "/", "rem": "r", "dnl": "r"}
_MAX_PLAIN_WORDS = 14  # of a paragraph without a comment's mark that one phrase makes a notice
_WORDS_A_SIGN = 22  # of a longer one, for each weak sign


def has_hint(lower: str) -> bool:
    """Whether a text in small letters may have a notice."""
    return any([hint in lower for hint in _HINTS])


def without_notices(text: str) -> str:
    """The text without its notices; the whole text where no word would be left."""
    if not has_hint(text.lower()):
        return text
    rest = "\n".join(block for block in _blocks(text) if not _is_notice(block))
    return rest if re.search(r"\w", rest) else text


def _blocks(text: str) -> Iterator[str]:
    """Runs of lines that are comments of one kind, and paragraphs of lines that are none."""
    for _, lines in groupby(text.split("\n"), _mark):
        yield "\n".join(lines)


def _mark(line: str) -> str:
    """The kind of a line: its comment's mark, "" for a blank one, or "text"."""
    match = _COMMENT.match(line)
    if not match:
        return "text" if line.strip() else ""
    sign = match[1].lower()
    return _FAMILIES.get(sign, sign[:1])


def _is_notice(block: str) -> bool:
    lower = block.lower()
    if not has_hint(lower):
        return False
    strong, weak, words = _STRONG.search(lower), len(_WEAK.findall(lower)), len(block.split())
    if _COMMENT.match(block):
        return bool(strong) or weak > 1
    return (bool(strong) and words <= _MAX_PLAIN_WORDS) or (weak > 2 and words <= _WORDS_A_SIGN * weak)
