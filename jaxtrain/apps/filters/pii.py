"""Personal data (PII) and secrets: bounded patterns, with check digits where there are some.

E-mail addresses, telephone numbers, IP addresses, payment cards (Luhn), IBANs (ISO 13616, mod 97), US social security
numbers, and keys and tokens. Quantifiers are bounded and not nested, so the time is linear in the text. Names are not
found: that takes a language model, and no package on a registry contains one.
"""

import dataclasses
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from jaxtrain import config
from jaxtrain.apps.filters.types import Check, Finding, lowercase
from jaxtrain.config import arg

Spans = Iterator[tuple[int, int]]
_FEWEST_DIGITS = {"phone": 7, "card": 12, "iban": 7, "ssn": 9}  # of a text that can have one


@dataclasses.dataclass(frozen=True)
class PiiFilter(config.Group):
    # fmt: off
    pii: str = arg("mask", "Personal data and keys: replace each by its kind, as <EMAIL>; drop the document; or off",
        choices=("mask", "drop", "off"))
    pii_kinds: str = arg("email,phone,ip,card,iban,ssn,key", "Kinds of personal data to find")
    # fmt: on

    def check(self):
        kinds = self.kinds()
        if not kinds or len(set(kinds)) < len(kinds) or set(kinds) - DETECTORS.keys():
            raise config.ConfigError(
                f"--pii_kinds={self.pii_kinds}: name some of {', '.join(DETECTORS)}, each once, joined by commas"
            )

    def kinds(self) -> list[str]:
        return self.pii_kinds.split(",")


def check(settings: PiiFilter) -> Check:
    """A check for the kinds of the settings; of overlapping spans the first, and longest, is a finding."""
    detectors = [(kind, DETECTORS[kind]) for kind in settings.kinds() if settings.pii != "off"]
    mask = settings.pii == "mask"

    def findings(text: str) -> Sequence[Finding]:
        raw = text.encode("utf-8", "surrogatepass")
        digits = len(raw) - len(raw.translate(None, b"0123456789")) if text.isascii() else len(raw)
        chosen = [(kind, detect) for kind, detect in detectors if digits >= _FEWEST_DIGITS.get(kind, 0)]
        spans = [(start, -end, kind) for kind, detect in chosen for start, end in detect(text)]
        disjoint, last = [], 0
        for start, end, kind in sorted(spans):
            if start >= last:
                last = -end
                disjoint.append(Finding(kind, 1, (start, last), f"<{kind.upper()}>" if mask else None))
        return disjoint

    return findings


_LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}\Z")
_DOMAIN = re.compile(
    r"(?=[^\s@]{4,253})[^\W_][\w-]{0,62}(?:\.[^\W_][\w-]{0,62}){0,8}\.[^\W\d_]{2,24}(?![\w@])"
)


def emails(text: str) -> Spans:
    """Spans of e-mail addresses: a local part of up to 64 characters, @, and a domain with a dot."""
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.search(text, max(0, at - 64), at)
        domain = _DOMAIN.match(text, at + 1)
        if local and domain:
            start = local.start() + len(local[0]) - len(local[0].lstrip(".'`*=/|{}!#$%&?^~-"))
            if start < at and text[at - 1] != ".":
                yield start, domain.end()
        at = text.find("@", at + 1)


_NANP = re.compile(
    r"(?<![\w.+-])(?<!\d )(?:\+?1[-. ]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}(?![\w-])(?!\.\d)"
)
_INTERNATIONAL = re.compile(r"(?<![\w+.-])\+[1-9][\d ().-]{6,20}\d(?!\w)")
_NUMBER_AFTER_WORD = re.compile(
    r"\b(?:call|phone|tel|telephone|mobile|cell|fax|text|whatsapp|sms|ring|dial)\b[^\d\n+]{0,16}?"
    r"(?P<number>\(?\d[\d ().-]{5,18}\d)(?![\w-])"
)


def phones(text: str) -> Spans:
    """Spans of telephone numbers: North America's, international ones with +, others after a word such as tel."""
    for match in _NANP.finditer(text):
        yield match.span()
    if "+" in text:
        for match in _INTERNATIONAL.finditer(text):
            if 8 <= _count_digits(match[0]) <= 15 and match[0].count("(") == match[0].count(")"):
                yield match.span()
    for match in _NUMBER_AFTER_WORD.finditer(lowercase(text)):
        if 7 <= _count_digits(match["number"]) <= 15 and not _DATE.search(match["number"]):
            yield match.span("number")


_DATE = re.compile(
    r"\b(?:(?:19|20)\d\d[-./ ](?:0?[1-9]|1[0-2])[-./ ]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./](?:19|20)?\d\d)\b"
)


def _count_digits(text: str) -> int:
    return sum(map(str.isdigit, text))


_V4 = re.compile(r"(?<![\w.-])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-])(?!\.\d)")
_DOTTED = re.compile(r"\d\.\d")  # a fast test that few texts pass
_V6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]{1,34}(?![\w:])")
_VERSION = re.compile(
    r"(?:\bv|version|release|ver\.?|build|firmware|section|sec\.?|chapter|clause|oid|§)[\s:=]{0,3}\Z", re.I
)


def ips(text: str) -> Spans:
    """Spans of IP addresses, v4 and v6, but unspecified ones, loopback and netmasks, which identify nobody."""
    for match in _V4.finditer(text) if text.count(".") > 2 and _DOTTED.search(text) else ():
        if _is_address(match[0]) and not _VERSION.search(text, max(0, match.start() - 12), match.start()):
            yield match.span()
    if text.count(":") > 1:
        for match in _V6.finditer(text):
            if match[0].count(":") > 1 and any(map(str.isdigit, match[0])) and _is_address(match[0]):
                yield match.span()


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    netmask = address.version == 4 and text.startswith(("0.", "255."))
    return not (address.is_unspecified or address.is_loopback or netmask)


_CARD = re.compile(
    r"(?<![\w.+-])(?<!\d )[2-6](?:\d{11,18}|\d{3}([ -])\d{4}\1\d{4}\1\d{4}|\d{3}([ -])\d{6}\2\d{4,5})(?![\w-])"
)


def cards(text: str) -> Spans:
    """Spans of payment cards: an issuer's prefix and length, and Luhn's check digit (ISO/IEC 7812)."""
    for match in _CARD.finditer(text):
        number = match[0].replace(" ", "").replace("-", "")
        if _is_issued(number) and is_luhn(number):
            yield match.span()


def is_luhn(number: str) -> bool:
    """Whether the last digit is Luhn's: Σ dᵢ + Σ (2dⱼ, its digits added), every second from the right, mod 10 = 0."""
    total = sum(map(int, number[-1::-2]))
    total += sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return total % 10 == 0


def _is_issued(number: str) -> bool:
    two, four, size = int(number[:2]), int(number[:4]), len(number)
    return (
        (number[0] == "4" and size in (13, 16, 19))  # Visa
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and size == 16)  # Mastercard
        or (two in (34, 37) and size == 15)  # American Express
        or ((four == 6011 or two in (64, 65)) and size in (16, 19))  # Discover
        or (3528 <= four <= 3589 and size in (16, 19))  # JCB
        or (two in (30, 36, 38, 39) and 14 <= size <= 19)  # Diners
        or (two == 62 and 16 <= size <= 19)  # UnionPay
    )


# Characters of an IBAN by country (the IBAN registry).
_IBAN_SIZES = {
    name: int(size)
    for size, names in (
        item.split(":")
        for item in (
            "15:NO 16:BE 18:DK,FI,FO,GL,NL,SD 19:MK,SI 20:AT,BA,EE,KZ,LT,LU,XK,MN 21:CH,HR,LI,LV 22:BG,BH,CR,DE,GB,GE,"
            "IE,ME,RS,VA 23:AE,GI,IL,IQ,OM,SO,TL 24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG 25:LY,PT,ST 26:IS,TR 27:BI,DJ,FR,"
            "GR,IT,MC,MR,SM 28:AL,AZ,BY,CY,DO,GT,HN,HU,LB,NI,PL,SV 29:BR,EG,PS,QA,UA 30:JO,KW,MU,YE "
            "31:MT,SC 32:LC 33:RU"
        ).split()
    )
    for name in names.split(",")
}
_IBAN = re.compile(r"(?<![\w])[A-Z]{2}\d{2}(?=[ ]?[A-Z0-9])")


def ibans(text: str) -> Spans:
    """Spans of IBANs: of the country's length, in one piece or in fours, with a remainder of 1 by 97."""
    for match in _IBAN.finditer(text):
        size, at, number = _IBAN_SIZES.get(match[0][:2], 0), match.start(), ""
        while len(number) < size and at < min(len(text), match.start() + 48):
            if text[at].isalnum() and text[at].isascii():
                number += text[at]
            elif text[at] not in " -":
                break
            at += 1
        if (
            size
            and len(number) == size
            and number.isupper()
            and is_mod97(number)
            and not text[at : at + 1].isalnum()
        ):
            yield match.start(), at


def is_mod97(number: str) -> bool:
    """Whether an IBAN's check digits are right: moved behind, with A = 10 ... Z = 35, it is 1 modulo 97."""
    return int("".join(str(int(char, 36)) for char in number[4:] + number[:4])) % 97 == 1


_SSN = re.compile(r"(?<![\w.-])(?<!\d )(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])(?!\.\d)")
_APART = re.compile(r"\d[ -]\d")
_SSN_NAMED = re.compile(r"(?:ssn|social security)[^\d\n]{0,20}\Z", re.I)
_SSN_AFTER_NAME = re.compile(
    r"\b(?:ssn|social security(?: number| no\.?)?)[^\w\n]{1,4}(?:is )?(?P<number>\d{9})\b"
)


def ssns(text: str) -> Spans:
    """Spans of US social security numbers of issued groups; without hyphens only after their name."""
    for match in _SSN.finditer(text) if _APART.search(text) else ():
        if match[1] == "-" or _SSN_NAMED.search(text, max(0, match.start() - 40), match.start()):
            yield match.span()
    lower = lowercase(text)
    for match in _SSN_AFTER_NAME.finditer(lower) if "ssn" in lower or "social sec" in lower else ():
        yield match.span("number")


_PREFIXES = {
    "AKIA": r"[0-9A-Z]{16}", "ASIA": r"[0-9A-Z]{16}", "ghp_": r"\w{36,255}", "gho_": r"\w{36,255}",
    "ghu_": r"\w{36,255}", "ghs_": r"\w{36,255}", "ghr_": r"\w{36,255}", "github_pat_": r"\w{22,255}",
    "glpat-": r"[\w-]{20,64}",
    "sk-": r"[\w-]{20,200}", "sk_live_": r"\w{16,99}", "sk_test_": r"\w{16,99}", "rk_live_": r"\w{16,99}",
    "pk_live_": r"\w{16,99}", "xoxb-": r"[\w-]{10,250}", "xoxp-": r"[\w-]{10,250}", "xoxa-": r"[\w-]{10,250}",
    "xapp-": r"[\w-]{10,250}", "AIza": r"[\w-]{35}", "ya29.": r"[\w-]{20,255}", "SG.": r"[\w-]{16,64}\.[\w-]{16,64}",
    "hf_": r"[A-Za-z0-9]{30,64}", "npm_": r"[A-Za-z0-9]{36}", "pypi-": r"[\w-]{40,255}", "dop_v1_": r"[0-9a-f]{64}",
    "eyJ": r"[\w-]{8,2048}\.eyJ[\w-]{8,4096}\.[\w-]{8,1024}",
}  # fmt: skip
_PREFIXED = {
    prefix: re.compile(rf"(?<![\w-]){re.escape(prefix)}{rest}(?![\w-])") for prefix, rest in _PREFIXES.items()
}
_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[\s\S]{1,4096}?-----END [A-Z ]{0,32}PRIVATE KEY-----"
)
_ASSIGNED = re.compile(
    r"(?:api[ _-]?key|secret(?:[ _-]?key)?|access[ _-]?key|auth[ _-]?token|access[ _-]?token|\btoken|bearer|"
    r"password|passwd)[\"']?(?:\s{0,3}(?:[:=]|\bis\b)\s{0,3}|\s)[\"'`]?(?P<value>[\w+/=.~!@#$%^&*-]{8,256})",
    re.I,
)
_NAMES_OF_KEYS = ("key", "secret", "token", "bearer", "passw")
_MIN_BITS = 3.0


# The prefixes by a sign in them that is rare in prose, for speed.
_BY_SIGN = {sign: [prefix for prefix in _PREFIXED if sign in prefix] for sign in "_-"}
_BY_SIGN[""] = [prefix for prefix in _PREFIXED if not {"_", "-"} & {*prefix}]


def keys(text: str) -> Spans:
    """Spans of keys: with a service's prefix, private key blocks, and named values of high entropy."""
    for prefix in dict.fromkeys([p for sign, prefixes in _BY_SIGN.items() if sign in text for p in prefixes]):
        pattern = _PREFIXED[prefix]
        if prefix in text:
            for match in pattern.finditer(text):
                if _is_random(match[0][len(prefix) :], 2.5):
                    yield match.span()
    if "PRIVATE KEY-----" in text:
        for match in _BLOCK.finditer(text):
            yield match.span()
    lower = text.lower()
    if any([name in lower for name in _NAMES_OF_KEYS]):
        for match in _ASSIGNED.finditer(text):
            value = match["value"].rstrip(".!,")
            if _is_random(value, _MIN_BITS) and any(map(str.isdigit, value)) and any(map(str.isalpha, value)):
                yield match.start("value"), match.start("value") + len(value)


def _is_random(value: str, min_bits: float) -> bool:
    """Whether a value has the entropy, in bits a character, of a random one: words and placeholders have less."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values()) >= min_bits


DETECTORS: dict[str, Callable[[str], Spans]] = {
    "email": emails,
    "phone": phones,
    "ip": ips,
    "card": cards,
    "iban": ibans,
    "ssn": ssns,
    "key": keys,
}
