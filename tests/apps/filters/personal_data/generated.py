"""Generated personal data in the formats of letters, pages, logs and settings, by other means than the detectors.

Telephone numbers are libphonenumber's examples of every region in its formats. With JAXTRAIN_FAKER=1 and Faker
installed, names, companies, telephone numbers, cards, IBANs and passwords are also Faker's, of 21 countries.
"""

import importlib.util
import ipaddress
import os
import random
import string
from collections.abc import Callable
from functools import cache

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from tests.apps.filters import planted
from tests.apps.filters.languages import TEXTS
from tests.apps.filters.pages import GOOD

Made = tuple[str, tuple[str, ...]]  # a datum, and sentences for it

LOCALES = {
    "en_US": "Phone:", "en_GB": "Tel:", "de_DE": "Tel.", "fr_FR": "Tél. :", "es_ES": "Teléfono:", "it_IT": "Telefono",
    "nl_NL": "Telefoon:", "pl_PL": "tel.", "sv_SE": "Telefon:", "pt_BR": "Telefone:", "ja_JP": "電話：",
    "ko_KR": "전화",
    "zh_CN": "电话：", "ru_RU": "Тел.", "tr_TR": "Telefon:", "cs_CZ": "Telefon:", "en_IN": "Mobile:", "en_AU": "Ph:",
    "da_DK": "Tlf.", "fi_FI": "puh.", "no_NO": "Tlf:",
}  # fmt: skip
_BIG = "US GB DE FR IT ES NL BE CH AT AU IN JP KR CN BR RU PL SE".split()
_KINDS = (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE)
_BASE62 = string.ascii_letters + string.digits
HAS_FAKER = bool(os.environ.get("JAXTRAIN_FAKER")) and importlib.util.find_spec("faker") is not None


@cache
def fakers() -> dict:
    """A Faker of each locale; empty without the package."""
    if not HAS_FAKER:
        return {}
    from faker import Faker

    made = {locale: Faker(locale) for locale in LOCALES}
    for i, one in enumerate(made.values()):
        one.seed_instance(i)
    return made


def email(rng: random.Random) -> Made:
    one = rng.choice([*fakers().values()]) if HAS_FAKER else None
    datum = rng.choice((one.email, one.company_email, one.free_email))() if one else planted.email(rng)
    return datum, (
        "Mail me at {}", "contact: {}", "<{}>", "mailto:{}", "{},", "email='{}'", '"email": "{}"', "# Author: X <{}>",
        "@author {}", "Cc: {}",
    )  # fmt: skip


def obfuscated_email(rng: random.Random) -> Made:
    local, domain = planted.email(rng).split("@")
    forms = [
        f"{local} [at] {domain}", f"{local}(at){domain}", f"{local} (at) {domain.replace('.', ' (dot) ')}",
        f"{local}&#64;{domain}", f"{local}＠{domain}", f"{local}%40{domain}",
    ]  # fmt: skip
    return rng.choice(forms), ("Write to {}", "{} is mine.", "Contact: {}")


def _example(rng: random.Random, regions: list[str], form: int, kinds=_KINDS) -> str:
    while True:
        number = phonenumbers.example_number_for_type(rng.choice(regions), rng.choice(kinds))
        text = phonenumbers.format_number(number, form) if number else ""
        if sum(map(str.isdigit, text)) >= 6:
            return text


def international_phone(rng: random.Random) -> Made:
    form = rng.choice((PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.E164))
    datum = _example(rng, sorted(phonenumbers.SUPPORTED_REGIONS), form)
    datum = datum.replace(" ", rng.choice(("", " ", " ", "-", ".", "\u00a0")) or " ")
    return datum, (
        "Call {}",
        "Tel: {}",
        "{}",
        "({})",
        "phone={}",
        "My number is {}.",
        '"mobile": "{}"',
        "{} (office)",
    )


def national_phone(rng: random.Random) -> Made:
    if HAS_FAKER and rng.random() < 0.5:
        locale = rng.choice([*LOCALES])
        return fakers()[locale].phone_number(), (
            LOCALES[locale] + " {}",
            LOCALES[locale] + " {}.",
            "Phone: {}",
        )
    datum = _example(rng, sorted(phonenumbers.SUPPORTED_REGIONS), PhoneNumberFormat.NATIONAL)
    return datum, (
        "Tel. {}",
        "Phone: {}",
        "Telefon: {}",
        "phone {}",
        "Tel.: {}",
        '"phone": "{}"',
        "Mobile: {}",
    )


def bare_phone(rng: random.Random) -> Made:
    datum = _example(rng, ["US", "GB", "DE", "FR"], PhoneNumberFormat.NATIONAL)
    return datum, ("Ada Lovelace, 12 High Street, {}", "{}", "Office hours 9 to 5\n{}\n", "Ada: {}")


def phone_after_a_verb(rng: random.Random) -> Made:
    datum = _example(rng, _BIG, PhoneNumberFormat.NATIONAL, (PhoneNumberType.MOBILE,))
    return datum, (
        "call me on {}",
        "ring {}",
        "text me at {}",
        "call {}",
        "reach me at {}",
        "my number is {}",
    )


def ip4(rng: random.Random) -> Made:
    datum = ".".join(str(rng.randint(low, high)) for low, high in ((11, 223), (0, 255), (0, 255), (1, 254)))
    datum = datum if not datum.startswith("127") else f"10.{rng.randint(0, 255)}.0.{rng.randint(1, 254)}"
    return datum, (
        "from {}", "{} - - [01/Mar/2024]", "host: {}", "{}:8080", "http://{}/x", "ping {}", "Server at {} is down",
        "<td>{}</td>", "inet addr:{}", "ip={}", "X-Forwarded-For: {}", "connect to {}, port 22",
    )  # fmt: skip


def ip6(rng: random.Random) -> Made:
    prefix, groups = rng.choice((("2001:db8:", 6), ("2a02:", 7), ("2600:", 7), ("fd12:", 7), ("fe80::", 4)))
    number = ipaddress.IPv6Address(prefix + ":".join(f"{rng.randint(1, 65535):x}" for _ in range(groups)))
    if rng.random() < 0.5:
        number = ipaddress.IPv6Address(int(number) >> 80 << 80 | rng.randrange(1, 9999))
    datum = rng.choice((str(number), number.exploded))
    return datum, (
        "from {}",
        "[{}]:8080",
        "http://[{}]/",
        "host={}",
        "Host {} is down.",
        "inet6 {} prefixlen 64",
    )


def card(rng: random.Random) -> Made:
    faker = fakers().get("en_US")
    kinds = ("visa16", "mastercard", "amex", "discover")
    datum = faker.credit_card_number(rng.choice(kinds)) if faker and rng.random() < 0.5 else planted.card(rng)
    return datum, (
        "card {}",
        "{} 12/27",
        "Card number: {}",
        "pay with {}.",
        "Visa {}, CVV 123",
        '"card": "{}"',
    )


def iban(rng: random.Random) -> Made:
    locale = rng.choice(("en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL"))
    datum = fakers()[locale].iban() if HAS_FAKER else planted.iban(rng)
    if " " not in datum and rng.random() < 0.6:
        datum = " ".join(datum[i : i + 4] for i in range(0, len(datum), 4))
    return datum, ("IBAN: {}", "IBAN {}", "to {}.", "account {} at", "({})", "iban={}")


def ssn(rng: random.Random) -> Made:
    return planted.ssn(rng), ("SSN: {}", "SSN {}", "social security number is {}", "{}", "ssn={}", "(SSN {})")


def key(rng: random.Random) -> Made:
    return planted.key(rng), ("{}", "token: {}", "KEY={}", "'{}'", "Authorization: Bearer {}")


def named_key(rng: random.Random) -> Made:
    size, alphabet = rng.choice(((32, _BASE62), (40, _BASE62), (32, "0123456789abcdef"), (20, _BASE62)))
    return planted.chars(rng, size, alphabet), (
        "api_key = '{}'", "API_KEY={}", '"token": "{}"', "secret: {}", "access_token={}", 'client_secret: "{}"',
    )  # fmt: skip


def password(rng: random.Random) -> Made:
    size = rng.randint(10, 16)
    if HAS_FAKER:
        datum = fakers()["en_US"].password(length=size, special_chars=rng.random() < 0.6)
    else:
        datum = planted.chars(rng, size - 2) + rng.choice("!#%&*+?") + rng.choice(string.digits)
    url = "postgres://ada:{}@db.example.org:5432/x"
    forms = ('password = "{}"', '"password": "{}"', "password: {}", "DB_PASSWORD={}")
    return datum, (*forms, *([url] if datum.isalnum() else []))


MAKERS: dict[str, Callable[[random.Random], Made]] = {
    "e-mail": email, "e-mail, obfuscated": obfuscated_email, "phone, international": international_phone,
    "phone, national, named": national_phone, "phone, national, bare": bare_phone,
    "phone after a verb": phone_after_a_verb, "IPv4": ip4, "IPv6": ip6, "card": card, "IBAN": iban, "SSN": ssn,
    "key with a prefix": key, "key after its name": named_key, "password": password,
}  # fmt: skip
_CONTEXTS = (*GOOD.split("\n"), TEXTS["code"], TEXTS["log"], TEXTS["yaml"], TEXTS["de"])


def planted_text(rng: random.Random, kind: str) -> tuple[str, tuple[int, int]]:
    """(a text, the span of the datum in it): a sentence or line with it, in prose, code, a log or settings."""
    datum, forms = MAKERS[kind](rng)
    form, context = rng.choice(forms), rng.choice(_CONTEXTS)
    cut = max(context.find(" ", rng.randrange(len(context))), 0)
    head = f"{context[:cut]}\n{form[: form.index('{}')]}"
    whole = f"{head}{datum}{form[form.index('{}') + 2 :]}\n{context[cut:]}"
    return whole, (len(head), len(head) + len(datum))
