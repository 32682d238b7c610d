"""Telephone numbers, checked with libphonenumber's tables of every country (the package phonenumbers).

A number is one by its form: North America's, an international one with + or 00, a national one with its trunk 0 and the
grouping of its country. Any other needs a word before it such as "Tel." or "call me on". An extension belongs to it.
"""

import functools
import re
from collections.abc import Iterator

Spans = Iterator[tuple[int, int]]

_EXTENSION = re.compile(
    r"[ ,;]{0,2}(?:extension|ext|extn|durchwahl|poste|int|dw|x|#)[. :=]{0,2}\d{1,6}(?![\w-])(?!\.\d)", re.I
)
_DIRECT_LINE = re.compile(r"-\d{1,4}(?![\w-])(?!\.\d)")
_NANP = re.compile(
    r"(?<![\w.+/-])(?:\+?1(?P<lead>[-. ]?))?"
    r"(?:\([2-9]\d{2}\) ?[2-9]\d{2}[-. ]|[2-9]\d{2}(?P<gap>[-. ])[2-9]\d{2}(?P=gap)|[2-9]\d{2}[ "
    r"/][2-9]\d{2}-)\d{4}"
    r"(?![\w-])(?!\.\d)"
)
_INTERNATIONAL = re.compile(r"(?<![\w+.*)\]-])(?:\(?\+ ?|00 ?)[1-9](?:[ ().\-/]{0,3}\d){6,16}(?!\w)")
_TRUNK = re.compile(
    r"(?<![\w.,+/:*-])(?<![0-9A-Z]{4} [0-9A-Z]{4} )(?<!\.\d{3} )(?:\((?=\d{1,5}\)))?0[1-9]\d{0,4}(?:(?:\) ?|[ "
    r"./-])\d{1,8}){1,6}(?![\w,:])(?!\.\d)"
)
_DIGITS = re.compile(r"[0-9](?:[ ().\-/]{0,3}[0-9]){5,}")  # begins with a class of characters, which is fast
_RUN = re.compile(r"(?<![\w.+,])(?:\((?=\d{1,5}\)))?\d(?:[ ().\-/]{0,3}\d){5,18}(?!\w)")
_IN_FOURS = re.compile(r"[0-9A-Z]{4} \d{4}|/|\d{4}(?: \d{4})+\Z")  # an account, a path, a dump
_DATE = re.compile(
    r"(?:(?:19|20)\d\d[-./ ](?:0?[1-9]|1[0-2])[-./ ]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./](?:19|20)?\d\d)(?!\d)"
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}([ .])\d{3}(?:\1\d{3})*\Z")
_DECIMAL = re.compile(r"\d+\.\d+\Z")
_LETTERS = re.compile(r"[^\W\d_]+")
_BEFORE = 48  # characters before a number that are looked at

# Words that name a telephone; for speed, numbers are looked for first and then the words before them.
_NOUNS = frozenset(
    "tel telephone phone cellphone fax telefax hotline helpline whatsapp viber sms "
    "landline fon fono "
    "telefon telefono teléfono téléphone telephonnummer telefonnummer rufnummer tél móvil movil celular "
    "telefone telemóvel "
    "cellulare telefoon mob gsm tlf tfn puh puhelin telefonu telefonie handynummer mobilnummer тел "
    "телефон моб факс τηλ "
    "τηλέφωνο 電話 电话 手机 電話番号 电话号码 携帯 携帯電話 手机号 传真 전화 전화번호 핸드폰 휴대폰 "
    "연락처 هاتف تلفون جوال "
    "טלפון फ़ोन फोन मोबाइल โทร โทรศัพท์".split()
)
# Words that also mean something else: the number after them must be one of some country.
_VERBS = frozenset(
    "call calls ring dial text reach contact message cell mobile mobil mobiel handy portable number "
    "numbers numéro número "
    "numero nummer ph anrufen rufen ruf appelez appeler llame llámame llama ligue chiama chiamare bel "
    "ring zadzwoń "
    "звоните позвоните 拨打 致电 문의".split()
)
_NEED_A_MARK = frozenset(
    "cell mobile mobil mobiel handy portable ph".split()
)  # nouns, with a colon or dot behind them
_ADDRESSED = frozenset(
    "me us him her them on at under now back is unter au al a".split()
)  # between a verb and a number
_OWNERS = frozenset(
    "my our his her their your the this office home work meine mein unsere mon notre mi nuestro".split()
)
_FILLERS = frozenset(
    "no nr num is at on me us him her them back now today toll free direct directly under unter via or "
    "and home work "
    "office business private privat us ist est es au al a to the für for main new old uk usa gb de fr "
    "td th tr span div b p a strong em li dt dd href label i small br nbsp amp quot value".split()
)
_NUMBER_WORDS = frozenset("number numbers nummer numéro número numero num no nr".split())
# Where a national number without a country code may be from: the countries with the most text.
_REGIONS = (
    "US GB DE FR ES IT NL BE CH AT IE PL SE NO DK FI PT CZ GR HU RO TR RU UA IL IN JP CN KR TW HK SG AU "
    "NZ ZA BR MX AR CO "
    "CL EG SA AE NG KE PK BD ID MY PH TH VN"
)
_REGIONS: tuple[str, ...] = tuple(_REGIONS.split())
_FEWEST, _MOST = 7, 15
_COUNTING = "01234567890123456789"  # no number


@functools.lru_cache(1 << 14)
def _is_valid(number: str, regions: tuple[str | None, ...]) -> bool:
    """Whether a number is a valid one of a region; of one that begins with + the region is its country code's."""
    return any(_parsed(number, region) is not None for region in regions)


def _parsed(number: str, region: str | None) -> "object | None":
    import phonenumbers

    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None
    return parsed if phonenumbers.is_valid_number(parsed) else None


@functools.lru_cache(1 << 12)
def _is_national(number: str) -> bool:
    """Whether a number with a trunk 0 is valid in a region, and is written in groups as there."""
    import phonenumbers

    groups, digits = re.findall(r"\d+", number), _count_digits(number)
    mixed = "." in number and " " in number
    if _DECIMAL.match(number) or mixed or {*map(len, groups)} == {3}:
        return False
    for region in _REGIONS:
        if (parsed := _parsed(number, region)) is not None:
            form = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
            usual = re.findall(r"\d+", form)
            if usual[0].startswith("0") and (
                groups == usual or (len(groups) == 2 and len(groups[0]) == len(usual[0]))
            ):
                return True
            if (
                usual[0].startswith("0")
                and 3 <= len(groups) <= 4
                and min(map(len, groups)) >= 3
                and digits > 9
            ):
                return True
    return False


def phones(text: str) -> Spans:
    """Spans of telephone numbers in a folded text, with their extensions."""
    for run in _DIGITS.finditer(text):
        first, last = max(0, run.start() - 3), run.end()
        for match in _NANP.finditer(text, first, last):
            if match["lead"] == "." != match["gap"]:
                continue  # a decimal
            if match["gap"] != " " or _is_apart(text, match) or _cue(text, match.start()):
                yield _with_extension(text, match.span())
        if "+" in text[first:last] or "00" in run[0]:
            yield from _international(text, first, last)
        if "0" in run[0]:
            for match in _TRUNK.finditer(text, first, last):
                if (
                    9 <= _count_digits(match[0]) <= 13
                    and not _DATE.match(match[0])
                    and _is_national(match[0])
                ):
                    yield _with_extension(text, match.span())
        match = _RUN.search(text, max(0, run.start() - 1), last)
        if match and (cue := _cue(text, match.start())) and (end := _number_end(text, match, cue)):
            yield _with_extension(text, (match.start(), end))


def _is_apart(text: str, match: re.Match[str]) -> bool:
    """Whether no other number is beside this one, as in a table."""
    number = re.sub(r"\D", "", match[0])[-10:]
    beside = text[max(0, match.start() - 2) : match.start()] + text[match.end() : match.end() + 2]
    return not any(map(str.isdigit, beside)) and _is_valid(number, ("US",))


def _international(text: str, first: int, last: int) -> Spans:
    for match in _INTERNATIONAL.finditer(text, first, last):
        cue = _cue(text, match.start())
        if cue or _stands_alone(text, match):
            start, end = match.span()
            start += match[0][0] == "(" and match[0].count("(") > match[0].count(")")
            number = text[start:end]
            if number.startswith("00"):
                if not cue and (_IN_FOURS.search(text, max(0, start - 5), end) or "." in number):
                    continue
                number = "+" + number[2:].lstrip()
            elif "+ " in number and not cue:
                continue
            if _DECIMAL.match(number[1:]) or number.count("(") != number.count(")"):
                continue
            valid = _longest_valid(number, (None,))
            if valid:
                yield _with_extension(text, (start, end - len(number) + len(valid)))
            elif (cue or re.search(r"\d[ -]\d|\)", number)) and _is_possible(number):
                yield _with_extension(text, (start, end))


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether no number or expression stands before a + or 00, as where something is added."""
    before, number = text[max(0, match.start() - 2) : match.start()], match[0]
    if not re.search(r"[\w)\]] \Z", before):
        return True
    grouped = number[0] != "0" and re.search(r"\d[ -]\d", number)
    return _count_digits(number) >= 9 and number[1] != " " and (before[0].isalpha() or bool(grouped))


def _longest_valid(number: str, regions: tuple[str | None, ...]) -> str:
    """The number, or what is left of it without its last groups, that is valid in a region; "" for none."""
    while _count_digits(number) >= _FEWEST:
        if _count_digits(number) <= _MOST and _is_valid(number, regions):
            return number
        cut = re.search(r"[ /-]+[^ /-]*\Z", number)
        if not cut:
            return ""
        number = number[: cut.start()]
    return ""


@functools.lru_cache(1 << 12)
def _is_possible(number: str) -> bool:
    """Whether a number with + has a length that its country's numbers have."""
    import phonenumbers

    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_possible_number(parsed) and not _DATE.match(number.lstrip("+0 "))


def _cue(text: str, start: int) -> str:
    """What stands before a number: "noun", a word such as Tel.; "verb", one such as call; "addressed", as in call me
    on; "" for none.
    """
    before = text[max(0, start - _BEFORE) : start]
    if before.endswith("tel:") or before.endswith(("wa.me/", "phone=", "callto:", "sms:")):
        return "noun"
    before = before.rpartition("\n")[2].lower()
    if before[-1:].isalnum() or not before:
        return ""
    words = _LETTERS.findall(before)
    marked = before.rstrip(" \"'>(")[-1:] in (":", ".", "=")
    for i, word in enumerate(reversed(words[-6:])):
        if word in _NOUNS:
            return "noun"
        if word in _VERBS:
            if word in _NUMBER_WORDS and not (len(words) > i + 1 and words[-i - 2] in _OWNERS):
                continue
            if word in _NEED_A_MARK and marked:
                return "noun"
            addressed = marked or (i > 0 and words[-1] in _ADDRESSED)
            return "" if word == "ph" else "addressed" if addressed else "verb"
        if word not in _FILLERS:
            return ""
    return ""


def _number_end(text: str, match: re.Match[str], cue: str) -> int:
    """Where the number after a cue ends; 0 where what stands there is none."""
    number, digits = match[0], _count_digits(match[0])
    before = text[max(0, match.start() - 4) : match.start()].rstrip(" \"'(>")[-1:]
    named = cue == "noun" and before in (":", ".", "=")
    if (digits > 8 and number in _COUNTING) or (
        not named and ((_DATE.match(number) and digits <= 8) or _DECIMAL.match(number))
    ):
        return 0
    thousands = _THOUSANDS.match(number)
    if valid := _longest_valid(number, _REGIONS):
        amount = thousands and not named and (number.endswith("000") or cue == "verb")
        count = cue == "verb" and digits == len(number) and number[0] != "0" and digits < 10
        return 0 if amount or count else match.start() + len(valid)
    if cue != "noun" or (thousands and not named) or not 6 <= digits <= _MOST:
        return 0
    apart = digits < len(number) or (digits >= _FEWEST and number[0] == "0")
    return match.end() if named or apart else 0


def _with_extension(text: str, span: tuple[int, int]) -> tuple[int, int]:
    extension = _EXTENSION.match(text, span[1]) or _DIRECT_LINE.match(text, span[1])
    return (span[0], extension.end()) if extension else span


def _count_digits(text: str) -> int:
    return sum(map(str.isdigit, text))
