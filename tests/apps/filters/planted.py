"""Defects to plant in text, with what a step should find: personal data, its look-alikes, spam, junk.

Numbers are random with right check digits, and addresses are of domains that are reserved for examples.
"""

import random
import string
from typing import NamedTuple

_FIRST = "anna bob carla dmitri eva finn gerda hugo ines jonas karla luis maria nils olga pedro".split()
_LAST = "smith weber rossi novak silva jensen kowalski dupont garcia mueller".split()
_BASE62 = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"


class Planted(NamedTuple):
    """A sentence, the kind of data in it or "", and where it stands."""

    text: str
    kind: str
    span: tuple[int, int]


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(n))


def chars(rng: random.Random, n: int, alphabet: str = _BASE62) -> str:
    return "".join(rng.choice(alphabet) for _ in range(n))


def with_luhn(body: str, right: bool = True) -> str:
    """The digits with their check digit, or a wrong one."""
    total = 0
    for i, digit in enumerate(reversed(body)):
        d = int(digit) * (2 if i % 2 == 0 else 1)
        total += d - 9 if d > 9 else d
    return body + str((-total + (0 if right else 5)) % 10)


def email(rng):
    name = rng.choice((".", "_", "", "+news", "-")).join((rng.choice(_FIRST), rng.choice(_LAST)))
    host = rng.choice(
        ("example.com", "mail.example.org", "example.co.uk", "sub.dept.example.net", "xn--bcher-kva.example")
    )
    return f"{name}{rng.choice(('', digits(rng, 2)))}@{host}"


def phone(rng):
    a, b, line = (rng.choice("23456789") + digits(rng, n) for n in (2, 2, 3))
    forms = (
        f"{a}-{b}-{line}", f"({a}) {b}-{line}", f"{a}.{b}.{line}", f"+1 {a} {b} {line}", f"+1-{a}-{b}-{line}",
        f"+44 20 {digits(rng, 4)} {digits(rng, 4)}", f"+49 30 {digits(rng, 7)}", f"+33 6 12 34 {digits(rng, 2)} 78",
        f"+91-98765-{digits(rng, 5)}", f"+4915{digits(rng, 9)}",
    )  # fmt: skip
    return rng.choice(forms)


def ip(rng):
    if rng.random() < 0.6:
        return f"{rng.randint(1, 223) % 126 + 1}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}"
    groups = [f"{rng.randint(1, 65535):x}" for _ in range(8)]
    return rng.choice(
        (":".join(groups), "2001:db8::" + groups[0], "2001:db8:" + ":".join(groups[:3]) + "::1")
    )


def card(rng):
    kind = rng.choice(("visa", "mc", "amex", "discover"))
    start, size = {
        "visa": ("4", 16),
        "mc": ("5" + rng.choice("12345"), 16),
        "amex": ("37", 15),
        "discover": ("6011", 16),
    }[kind]
    number = with_luhn(start + digits(rng, size - 1 - len(start)))
    gap = rng.choice(("", " ", "-"))
    cuts = (4, 10, 15) if size == 15 else (4, 8, 12, 16)
    return gap.join(number[a:b] for a, b in zip((0, *cuts), cuts, strict=False))


_IBANS = {
    "DE": "9" * 18,
    "GB": "AAAA" + "9" * 14,
    "FR": "9" * 10 + "X" * 11 + "99",
    "NL": "AAAA" + "9" * 10,
    "ES": "9" * 20,
}


def iban(rng, right: bool = True):
    country = rng.choice(list(_IBANS))
    body = "".join(
        {
            "9": digits(rng, 1),
            "A": chars(rng, 1, string.ascii_uppercase),
            "X": chars(rng, 1, string.ascii_uppercase + "0123456789"),
        }[c]
        for c in _IBANS[country]
    )
    check = 98 - int("".join(str(int(c, 36)) for c in f"{body}{country}00")) % 97
    number = f"{country}{(check if right else check % 90 + 3):02d}{body}"
    return " ".join(number[i : i + 4] for i in range(0, len(number), 4)) if rng.random() < 0.5 else number


def ssn(rng):
    area = rng.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


def key(rng):
    return rng.choice(
        (
            "AKIA" + chars(rng, 16, string.ascii_uppercase + "234567"), "ghp_" + chars(rng, 36), "sk-" + chars(rng, 48),
            "sk_live_" + chars(rng, 24), "AIza" + chars(rng, 35), "xoxb-" + digits(rng, 11) + "-" + chars(rng, 24),
            "hf_" + chars(rng, 34), "glpat-" + chars(rng, 20),
            "eyJ" + chars(rng, 17) + ".eyJ" + chars(rng, 40) + "." + chars(rng, 43),
        )
    )  # fmt: skip


PERSONAL = {
    "email": (
        email,
        (
            "Write to {} before noon.",
            "Contact: {}",
            "mail <{}> or come by",
            "({})",
            "Is {}, the old one, yours?",
        ),
    ),
    "phone": (
        phone,
        ("Call {} to ask.", "Tel. {}", "You reach me at {}.", "My number ({}) is new.", "Fax: {}, all day"),
    ),
    "ip": (
        ip,
        (
            "My server is {}.",
            "Blocked {} after ten tries",
            "from {} to the gateway",
            "host={}",
            "({}) answered",
        ),
    ),
    "card": (card, ("Pay with {} please.", "Card number: {}", "I gave them {}, and it was charged.", "({})")),
    "iban": (iban, ("Send it to {}.", "IBAN: {}", "My account {} is with a small bank.", "({})")),
    "ssn": (ssn, ("My SSN is {}.", "SSN: {}", "He wrote {} on the form.", "({})")),
    "key": (key, ("export KEY={}", "token: {}", "the key '{}' was in the log", "Authorization: Bearer {}")),
}


def _wrong_card(rng):
    return with_luhn("4" + digits(rng, 14), right=False)


LOOK_ALIKES = (
    lambda r: f"Order number {digits(r, 8)}-{digits(r, 4)} has been sent.",
    lambda r: f"Order {_wrong_card(r)} has been sent.",
    lambda r: f"Invoice INV-{digits(r, 4)}-{digits(r, 6)} of {r.randint(1, 28)}.{r.randint(1, 12)}.20{digits(r, 2)}",
    lambda r: f"Install version {r.randint(1, 20)}.{r.randint(0, 20)}.{r.randint(0, 9)}.{r.randint(0, 99)} first.",
    lambda r: f"It runs on v{r.randint(1, 9)}.{r.randint(0, 9)}.{r.randint(0, 9)} and later.",
    lambda r: f"On 20{digits(r, 2)}-0{r.randint(1, 9)}-1{r.randint(0, 9)} at 1{digits(r, 1)}:30:09 it rained.",
    lambda r: f"ISBN 978-{r.randint(0, 9)}-{digits(r, 3)}-{digits(r, 5)}-{r.randint(0, 9)}",
    lambda r: f"ISBN-10: {r.randint(0, 9)}-{digits(r, 3)}-{digits(r, 5)}-X",
    lambda r: f"The total is {r.randint(100, 999)},{digits(r, 3)},{digits(r, 3)}.{digits(r, 2)} dollars.",
    lambda r: f"See section {r.randint(1, 9)}.{r.randint(1, 9)}.{r.randint(1, 9)}.{r.randint(1, 9)} for details.",
    lambda r: f"Commit {chars(r, 40, _HEX)} broke it.",
    lambda r: f"UUID {chars(r, 8, _HEX)}-{chars(r, 4, _HEX)}-4{chars(r, 3, _HEX)}-a{digits(r, 3)}-{chars(r, 12, _HEX)}",
    lambda r: f"Follow @{r.choice(_FIRST)}{digits(r, 2)} for news.",
    lambda r: f"the expression a[{r.randint(0, 9)}]@b and x@{r.randint(0, 9)}",
    lambda r: f"MAC {':'.join(chars(r, 2, _HEX) for _ in range(6))}",
    lambda r: f"The account DE{digits(r, 4)} was an old one of ours.",
    lambda r: f"IBAN {iban(r, right=False)} is mistyped.",
    lambda r: f"coordinates {r.randint(10, 80)}.{digits(r, 4)}, -{r.randint(10, 99)}.{digits(r, 4)}",
    lambda r: f"std::vector<int> v{digits(r, 1)}; std::map::iterator i;",
    lambda r: f"Tracking number 1Z{chars(r, 6, 'ABCDEFGH')}{digits(r, 10)}",
    lambda r: f"Seats {r.randint(100, 199)}-{r.randint(200, 299)} and rows {r.randint(1, 9)}-{r.randint(10, 19)}",
    lambda r: "the password is required, the token expired, and the api key was missing",
    lambda r: f"token: string, password: hunter, secret = None, key={digits(r, 2)}",
    lambda r: f"netmask 255.255.255.0 and 0.0.0.0 on 127.0.0.1, pi {3.14159:.5f}",
    lambda r: f"In 19{digits(r, 2)}-20{digits(r, 2)} they sold {digits(r, 3)} {digits(r, 3)} {digits(r, 3)} of them.",
    lambda r: f"flight LH{digits(r, 4)}, gate B{digits(r, 2)}, {r.randint(1, 12)}/{r.randint(1, 28)}/20{digits(r, 2)}",
)  # fmt: skip


def personal(rng: random.Random, kind: str) -> Planted:
    """A sentence with a datum of a kind."""
    make, forms = PERSONAL[kind]
    datum, form = make(rng), rng.choice(forms)
    at = form.index("{}")
    return Planted(form.format(datum), kind, (at, at + len(datum)))


def look_alike(rng: random.Random) -> Planted:
    """A sentence in which nothing is personal."""
    return Planted(rng.choice(LOOK_ALIKES)(rng), "", (0, 0))


_THINGS = "watches sofas phones shoes laptops tickets pills rings".split()
SPAM = (
    lambda r, t: f"BUY {t.upper()} NOW!!! Only ${digits(r, 2)} today! Visit www.{t}{digits(r, 2)}.example",
    lambda r, t: (
        f"Congratulations! You are a winner. Click here to claim your free {t}: http://{t}.example/{digits(r, 5)}"
    ),
    lambda r, t: (
        f"Cheap {t}, best prices guaranteed! {digits(r, 2)}% off, free shipping. Order now at https://{t}.example !!"
    ),
    lambda r, t: (
        f"Earn $5,{digits(r, 3)} a week from home! No risk. Act now, limited time offer! Call 1-800-{digits(r, 4)}"
    ),
    lambda r, t: (
        f"SPECIAL OFFER: discount {t}!!! Lowest price, money back guarantee. Buy now: www.best-{t}.example"
    ),
)


def spam(rng: random.Random) -> str:
    return rng.choice(SPAM)(rng, rng.choice(_THINGS))


_NOTICES = (
    "All rights reserved. Terms of use. Privacy policy.", "Share this page. Like this page. Follow us.",
    "This website uses cookies. Accept all cookies.", "Home | News | About | Contact | Log in", "Skip to main content",
    "Subscribe to our newsletter.", "Back to top", "Please wait while the page is loading.",
)  # fmt: skip


def junk(rng: random.Random, text: str) -> str:
    """Letters of the text in another order, or a page's notices, or a binary file read as text."""
    kind = rng.randrange(3)
    if kind == 0:
        letters = list(text[:1500])
        rng.shuffle(letters)
        return "".join(letters)
    if kind == 1:
        return "\n".join(rng.sample(_NOTICES, 4))
    return rng.randbytes(600).decode("utf-8", errors="replace")


def chunks(texts: list[str], size: int = 1000) -> list[str]:
    """Stretches of about `size` characters that begin and end with a sentence."""
    out = []
    for text in texts:
        at = 0
        while len(text) - at > size:
            end = text.find(". ", at + size)
            if end < 0:
                break
            out.append(text[at : end + 1])
            at = end + 2
    return out


def edited(rng: random.Random, text: str, share: float) -> str:
    """The text with so many edits of its words: another word, a word more, or a word less."""
    words = text.split()
    pool = list(words)
    for _ in range(int(share * len(words))):
        at, kind = rng.randrange(len(words)), rng.randrange(3)
        words[at : at + 1] = ([rng.choice(pool) + "s"], [words[at], rng.choice(pool)], [])[kind]
    return " ".join(words)


def respaced(rng: random.Random, text: str) -> str:
    """The same text but for case and white space."""
    return rng.choice((str, str.upper, str.title))(text).replace(" ", rng.choice((" ", "  ", "\n")))
