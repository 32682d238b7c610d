"""Gibberish and boilerplate: shuffled letters, control characters, and a web page's menus and notices.

These rules need no least length: they act on a document of one line as on a book.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from jaxtrain import config
from jaxtrain.apps.filters import stop_words
from jaxtrain.apps.filters.types import Check, Finding, Findings
from jaxtrain.config import arg

# Bits of a symbol after another, in quarters, counted in the State of the Union addresses 1790 to 2021 and Moby Dick
# (public domain) with 20 added to each pair. The symbols: a to z, a capital, a digit, a space, a line's end, a
# mark that ends a sentence, one that divides it, an apostrophe, a hyphen or plus, a quote or bracket, any
# other of ASCII.
_DIGITS = "0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijk"
_QUARTERS = (
    "iFBCbMFYCWJ=G9_H_=>:KDLRGYiiA[UR]`ii",
    "AOb[6ddaBFd;N`?ddCFH>Tbd<dddN`VSc^bd",
    "=hGh:hh<?hGEhh9hVCT<BhhhIgahEbWUgbgh",
    "FebL:[M[>ShMMUDagJEaCM[iLiii4OFDZSbi",
    "BUD?EILWIaZEF=OJO<>G]HNHMbii7SKIYVci",
    "Aggf@A[g>ggIff;gg@XHCgegQggg5STRgReg",
    "@deY;^I=AecHQDAde<HJEebeNeee7QKHcQbe",
    ";YfZ4Zg`=iiWRW?hhKTGMiZiRiii=YRNhZhi",
    "FK>ECHEebhQAD8=J_D=<ZDiWiKiiZie`icii",
    "FUUU7UUUQUUUUU9UUUUU5UUUUUUUUUUUUUUU",
    "IX[Y6SUT;[ZIS@QU[R?USZU[L[[[9PFCYOX[",
    "=`W@;KYh<iU<QXAOiPFFFLRi>gii:VNKcSei",
    ";Fgf7Xge=ggXAR>?gaEdCfegFggg>WKKbYcg",
    "CaB;@L=XCUOMIMB]YZ@<KMZaKiii9VJIUWdi",
    "MKKIT;M[M]REA9HEi<DC=ED_Peii<ZWSg]ii",
    "=_ee:_cLDfc>Oc:Af9IDAfZfSfffE^RQeYcf",
    "STTTTTTTKTTTTTTTTTTT1TTTTTTTLTPOQTTT",
    "?RGG8RJY>iKKGE>LhIBAIKUiCiii:WMJ_U`i",
    "E^JX=RcC@iPLOYCF[]@;BiUiOiii6REB^U`i",
    "AeXi=^e7<iiLPY>biDDJGiNiGiii:VLJWVfi",
    "CC@GBMDgEg^=E<SCh9<<f^f[ZahhIaXV^ehh",
    ">ccc2ccc:ccbccBccabcWbccKcccacbbbbcc",
    "<acX:Vd99d_O`D=bdNGP`ddd^ddd>XNJaSbd",
    "?Y=Y<XXG;YYXVYR7XYX;PXYXWYYYAXQPYRYY",
    "OXZ]@b^aIedVJWCUeUDReeUee`de2NC@RM[d",
    ";QSS3SSQ?SRNSSFSSSSRFQSSNLSSMSPMSSSS",
    "@YNQ<JT<Df`JD?;K^BK?ARUPNa?d?[NVTZbc",
    "```S`````````^__`[MH``````^3<_A:VPSS",
    "=BBEECJD@RTGDF>BVEA:JNAiMf>Miihii]XT",
    "?BBEGCHACPNECHBEQG?<ILAWKW:UOWWWWWSS",
    "````^``a`aaa````aaa`aa`aaaPG1DMV_VK[",
    "ccccccccccccccccccccccccccc@1Iccc_Ta",
    "IQPJQQQQQQQCDQQQQ?4=Q>QQQQLOBQQPQQPQ",
    "?ABDFBECCPKEDHCDPD@=MPBVHU=KATUUUEPS",
    "CIIKHGKKGNNHJJIGOJFALMHPOP:F6IGBOION",
    "OOOOOOOOOOOOOOOOLOOOOOOOOOJ1FLMMOOOG",
)
_SYMBOLS = 36
_CAPITAL, _DIGIT, _SPACE, _LINE, _END, _DIVIDER, _APOSTROPHE, _HYPHEN, _BRACKET, _OTHER, _FOREIGN = range(
    26, 37
)
_MIN_BYTES = 14  # of a text that is scored
# Code, tables and markup are full of brackets and signs; other languages of letters outside ASCII.
_MAX_SIGNS = 0.05
_MAX_FOREIGN = 0.02

_CONTROL = bytes(code for code in (*range(32), 127) if code not in b"\t\n\r")
_HIGH = bytes(range(128, 256))
_BROKEN = re.compile("[\x80-\x9f\ud800-\udfff\ufffd-\uffff]")
_LAYOUT = re.compile(r"\s(?=\s)")
_PIECES = re.compile(r"[.!?|•·»\n\t]+")
_NOTICE = re.compile(
    r"\b(?:all rights reserved|terms (?:of (?:use|service)|and conditions)|(?:privacy|cookie) (?:policy|notice)|"
    r"cookies|read more|(?:share|like|print|bookmark) this (?:page|post|article|site)|follow us|"
    r"(?:log|sign) (?:in|out|up)|please wait|skip to (?:main )?content|back to (?:the )?top|add to (?:cart|basket)|"
    r"subscribe to|join our newsletter|powered by|copyright|enable javascript|next page|previous page)\b"
)  # of the text in small letters
_NOTICE_HINTS = (
    "rights reserved", "terms ", "policy", "notice", "cookies", "read more", "this page", "this post",
    "this article", "this site", "follow us", "log in", "log out", "sign in", "sign up", "please wait", "skip to",
    "back to", "add to", "subscribe", "newsletter", "powered by", "copyright", "javascript", "next page",
    "previous page",
)  # fmt: skip
_MENU = frozenset(
    (
        "home news shop contact about search menu loading login help faq sitemap imprint archive categories "
        "tags comments reply share tweet close next previous subscribe advertisement"
    ).split()
)
_MAX_NOTICE_WORDS = 12


@dataclasses.dataclass(frozen=True)
class GibberishFilter(config.Group):
    # fmt: off
    max_surprise: float = arg(5.3,
        "Most bits a character, and 2/√n more for n characters, by the frequency of pairs in English prose (which has "
        "3.4, shuffled letters 5.5 and more); code and other languages are not scored; 0: no rule", low=0)
    max_control: float = arg(0.01, "Most of the characters that are controls or broken encoding; 1: no rule", low=0)
    max_boilerplate: float = arg(0.5,
        "Most of the characters that stand in a page's notices and menus; 1: no rule", low=0)
    # fmt: on


def _table() -> tuple[np.ndarray, bytes]:
    """(bits f32[65536] of each pair of bytes, the bytes of signs); bits are 0 next to a letter outside ASCII."""
    symbols = np.full(256, _OTHER, np.int32)
    symbols[ord("a") : ord("z") + 1] = np.arange(26)
    symbols[ord("A") : ord("Z") + 1] = _CAPITAL
    for kind, marks in (
        (_DIGIT, b"0123456789"),
        (_SPACE, b" \t"),
        (_LINE, b"\n\r"),
        (_END, b".!?"),
        (_DIVIDER, b",;:"),
        (_APOSTROPHE, b"'"),
        (_HYPHEN, b"-+"),
        (_BRACKET, b'"()[]'),
    ):
        symbols[list(marks)] = kind
    symbols[128:] = _FOREIGN
    digits = np.zeros(128, np.float32)
    digits[list(_DIGITS.encode())] = np.arange(len(_DIGITS))
    bits = np.zeros((_SYMBOLS + 1, _SYMBOLS + 1), np.float32)
    bits[:_SYMBOLS, :_SYMBOLS] = digits[[list(row.encode()) for row in _QUARTERS]] / 4
    signs = bytes(np.flatnonzero((symbols == _BRACKET) | (symbols == _OTHER)).tolist())
    return bits[symbols][:, symbols].ravel(), signs


_BITS, _SIGNS = _table()


def check(settings: GibberishFilter) -> Check:
    """A check by these rules; the score is bits a character, or the share that the rule measured."""

    def findings(text: str) -> Sequence[Finding]:
        unfit: list[tuple[str, str]] = []
        found = [*_apply_rules(settings, text, unfit)] if text else ()
        return Findings(found, unfit) if unfit else found

    return findings


def _apply_rules(settings: GibberishFilter, text: str, unfit: list[tuple[str, str]]) -> Iterator[Finding]:
    """The findings; rules that would find something but do not hold for the text are added to `unfit`."""
    raw = text.encode("utf-8", "surrogatepass")
    if settings.max_control < 1:
        count = len(raw) - len(raw.translate(None, _CONTROL))
        count += 0 if text.isascii() else len(_BROKEN.findall(text))
        if count > settings.max_control * len(text):
            yield Finding("control_characters", count / len(text))
    # The mean of few characters varies more.
    margin = 2 / math.sqrt(len(text))
    if settings.max_surprise and (bits := mean_surprisal(text)) > settings.max_surprise + margin:
        if (language := stop_words.language_of(text)) in ("", "en"):
            yield Finding("surprise", bits)
        else:
            unfit.append(("surprise", f"language {language}"))
    if settings.max_boilerplate < 1 and (share := boilerplate_share(text)) > settings.max_boilerplate:
        yield Finding("boilerplate", share)


def mean_surprisal(text: str) -> float:
    """The mean bits of a character after the one before it, in English prose; 0 for short texts, code and others."""
    if "  " in text or "\n\n" in text or "\t" in text:  # runs of white space are layout
        text = _LAYOUT.sub("", text)
    raw = f"\n{text}\n".encode("utf-8", "surrogatepass")
    signs = len(raw) - len(raw.translate(None, _SIGNS))
    foreign = 0 if text.isascii() else len(raw) - len(raw.translate(None, _HIGH))
    if len(raw) < _MIN_BYTES or signs > _MAX_SIGNS * len(raw) or foreign > _MAX_FOREIGN * len(raw):
        return 0.0
    codes = np.frombuffer(raw, np.uint8).astype(np.int32)
    bits = _BITS[(codes[:-1] << 8) | codes[1:]]
    return float(bits.sum() / np.count_nonzero(bits)) if foreign else float(bits.mean())


def boilerplate_share(text: str) -> float:
    """The share of the characters in notices and menus, pieces of up to 12 words."""
    lower = text.lower()
    if not any([hint in lower for hint in _NOTICE_HINTS]):
        return 0.0
    total = notice = 0
    for piece in _PIECES.split(lower):
        words = piece.split()
        total += len(piece)
        if len(words) <= _MAX_NOTICE_WORDS and (_NOTICE.search(piece) or _is_menu(words)):
            notice += len(piece)
    return notice / max(total, 1)


def _is_menu(words: Sequence[str]) -> bool:
    return 0 < len(words) <= 3 and words[0].strip(",:") in _MENU
