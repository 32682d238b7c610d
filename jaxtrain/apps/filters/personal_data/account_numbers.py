"""Numbers with check digits or a fixed form: payment cards, IBANs, US social security numbers."""

import re
from collections.abc import Iterator

Spans = Iterator[tuple[int, int]]

_CARD = re.compile(
    r"[2-6](?<![\w.+-].)(?<!\d[ -].)(?:\d{11,18}|\d{3}([ .-])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{3}([ "
    r".-])\d{6}\2\d{4,5})"
    r"(?![\w-])(?!\.\d)(?! \d{4}\b(?!/))"
)
_CARD_CUE = re.compile(
    r"(?:\bcards?\b|\bcc\b|visa|master\s?card|amex|american express|discover|diners|maestro|credit|debit|"
    r"\bpay(?:ment)?\b|\bpan\b|karte|carte|"
    r"tarjeta|carta)[^\n]{0,30}\Z",
    re.I,
)
_CARD_AFTER_NUMBER = re.compile(
    r"[3-6](?<=\d .)(?:\d{14,15}|\d{3}([ -])\d{4}\1\d{4}\1\d{4}|\d{3}([ "
    r"-])\d{6}\2\d{5})(?![\w-])(?!\.\d)(?! \d{4}\b(?!/))"
)
_EXPIRY = re.compile(r"\W{1,3}(?:(?:0\d|1[0-2])/\d\d\b|exp|cv[vc])", re.I)
_SIZES_IN_ONE_PIECE = (15, 16)  # of others there are more seeds, EANs and identifiers than cards


def cards(text: str) -> Spans:
    """Spans of payment cards: an issuer's prefix and length, and Luhn's check digit (ISO/IEC 7812)."""
    for pattern in (_CARD, _CARD_AFTER_NUMBER):
        for match in pattern.finditer(text):
            number = re.sub(r"\D", "", match[0])
            if not _is_issued(number) or not is_luhn(number):
                continue
            low, start = max(0, match.start() - 60), match.start()
            if pattern is _CARD_AFTER_NUMBER and re.search(r"(?:\b\d{4} ){2}\Z", text[low:start]):
                continue  # a column of numbers
            in_one_piece = len(number) in _SIZES_IN_ONE_PIECE and not _is_constant(text, match)
            named = _CARD_CUE.search(text, low, start) or _EXPIRY.match(text, match.end())
            if len(number) < len(match[0]) or in_one_piece or named:
                yield match.span()


def _is_constant(text: str, match: re.Match[str]) -> bool:
    """Whether a number in one piece is a factor, a seed or a fraction's part, rather than one that names an account."""
    before, after = (
        text[max(0, match.start() - 12) : match.start()],
        text[match.end() : match.end() + 2].lstrip(),
    )
    return bool(
        after[:1] in ("*", "/", "^")
        or re.search(r"[*/^]\s?\Z|(?:seed|rng|random\w{0,4})\W{1,3}\Z", before, re.I)
        or number_ends_in_zeros(match[0])
    )


def number_ends_in_zeros(number: str) -> bool:
    """Whether a number is round: a factor or an amount."""
    return number.endswith("00000")


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
        or (two in (50, 56, 57, 58, 63, 67) and size in (12, 13, 16, 18, 19))  # Maestro
    )


# Characters of an IBAN by country (the IBAN registry).
_IBAN_SIZES = {
    name: int(size)
    for size, names in (
        item.split(":")
        for item in (
            "15:NO 16:BE 18:DK,FI,FO,GL,NL,SD 19:MK,SI 20:AT,BA,EE,KZ,LT,LU,XK,MN 21:CH,HR,LI,LV "
            "22:BG,BH,CR,DE,GB,GE,"
            "IE,ME,RS,VA 23:AE,GI,IL,IQ,OM,SO,TL 24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG 25:LY,PT,ST "
            "26:IS,TR 27:BI,DJ,FR,"
            "GR,IT,MC,MR,SM 28:AL,AZ,BY,CY,DO,GT,HN,HU,LB,NI,PL,SV 29:BR,EG,PS,QA,UA 30:JO,KW,MU,YE "
            "31:MT,SC 32:LC 33:RU"
        ).split()
    )
    for name in names.split(",")
}
# Begins with a digit, which is rarer than a letter.
_IBAN = re.compile(r"[0-9](?:(?<=[A-Z]{2}.)|(?<=[a-z]{2}.))(?<![^\W_][A-Za-z]{2}.)[0-9](?=[ .-]?[A-Za-z0-9])")


def ibans(text: str) -> Spans:
    """Spans of IBANs: of the country's length, in one piece or in groups, with a remainder of 1 by 97."""
    for match in _IBAN.finditer(text):
        start = at = match.start() - 2
        size, number = _IBAN_SIZES.get(text[start : start + 2].upper(), 0), ""
        while len(number) < size and at < min(len(text), start + 50):
            if text[at].isalnum() and text[at].isascii():
                number += text[at]
            elif text[at] not in " -." or text[at + 1 : at + 2] in (" ", "-", "."):
                break
            at += 1
        whole = size and len(number) == size and not text[at : at + 1].isalnum()
        if whole and (number.isupper() or number.islower()) and is_mod97(number.upper()):
            yield start, at


def is_mod97(number: str) -> bool:
    """Whether an IBAN's check digits are right: moved behind, with A = 10 ... Z = 35, it is 1 modulo 97."""
    return int("".join(str(int(char, 36)) for char in number[4:] + number[:4])) % 97 == 1


_SSN = re.compile(r"[0-8](?<![\w.-].)\d\d(?<!000)(?<!666)([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])(?!\.\d)")
_APART = re.compile(r"\d[ -]\d")
_SSN_NAMED = re.compile(r"(?:\bssn\b|social.security)[^\d\n]{0,20}\Z", re.I)
_SSN_AFTER_NAME = re.compile(
    r"(?:\bssn|social.security(?: number| no\.?| #)?)[^\w\n]{1,5}(?:is )?(?P<number>(?!000|666|9)\d{9})\b",
    re.I,
)


def ssns(text: str) -> Spans:
    """Spans of US social security numbers of issued groups; without hyphens only after their name."""
    for match in _SSN.finditer(text) if _APART.search(text) else ():
        if match[1] == "-" or _SSN_NAMED.search(text, max(0, match.start() - 40), match.start()):
            yield match.span()
    if "ssn" in (lower := text.lower()) or "social" in lower:
        for match in _SSN_AFTER_NAME.finditer(text):
            yield match.span("number")
