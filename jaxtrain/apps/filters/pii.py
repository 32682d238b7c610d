"""Personal data (PII) and keys in texts, and in every string of a record.

E-mail addresses, telephone numbers, IP addresses, payment cards (Luhn), IBANs (ISO 13616, mod 97), US social security
numbers, and keys, tokens and passwords, by the detectors of personal_data/. Quantifiers are bounded and not nested, so
the time is linear in the text. Names are not found: that takes a language model, and no package on a registry has one.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence

from jaxtrain import config
from jaxtrain.apps.filters import record_texts
from jaxtrain.apps.filters.personal_data import folding
from jaxtrain.apps.filters.personal_data.account_numbers import cards, ibans, ssns
from jaxtrain.apps.filters.personal_data.credentials import keys
from jaxtrain.apps.filters.personal_data.emails import emails
from jaxtrain.apps.filters.personal_data.ip_addresses import ips
from jaxtrain.apps.filters.personal_data.phones import phones
from jaxtrain.apps.filters.types import Check, Finding
from jaxtrain.config import arg

Spans = Iterator[tuple[int, int]]
PACKAGES = ("phonenumbers", "publicsuffixlist")  # of the extra `filters`, that the detectors need
_FEWEST_DIGITS = {"phone": 6, "card": 12, "iban": 7, "ssn": 9}  # of a text that can have one
# Names of a field that say what kind of number or value stands in it.
_TELLING = re.compile(
    r"phone|\btel|mobile|cell|fax|whatsapp|ssn|social.?sec|\bip|card|iban|passw|pwd|secret|token|key\b|auth|pass",
    re.I,
)
_MAX_TELLING = 300  # characters of a value that is searched with its field's name before it
_LITERAL = re.compile(
    r'"((?:[^"\\]|\\.)*)"\s*(:?)|(-?\d{7,19})(?=\s*[,}\]])'
)  # of JSON: a string, a whole number


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
    """A check for the kinds of the settings; of overlapping spans the first, and longest, is a finding.

    A text that is JSON is searched string by string, and stays JSON.
    """
    detectors = [(kind, DETECTORS[kind]) for kind in settings.kinds() if settings.pii != "off"]
    mask = settings.pii == "mask"

    def findings(text: str) -> Sequence[Finding]:
        if text[:1] in ("{", "[", " ", "\n") and _is_json(text):
            return _json_findings(text, plain_findings)
        return plain_findings(text)

    def plain_findings(text: str) -> Sequence[Finding]:
        text, places = folding.fold(text)
        raw = text.encode("utf-8", "surrogatepass")
        digits = len(raw) - len(raw.translate(None, b"0123456789"))
        chosen = [(kind, detect) for kind, detect in detectors if digits >= _FEWEST_DIGITS.get(kind, 0)]
        spans = [(start, -end, kind) for kind, detect in chosen for start, end in detect(text)]
        disjoint, last = [], 0
        for start, end, kind in sorted(spans):
            if start >= last:
                last = -end
                span = folding.unfold((start, last), places)
                disjoint.append(Finding(kind, 1, span, f"<{kind.upper()}>" if mask else None))
        return disjoint

    return findings


def field_findings(check: Check, field: str, text: str) -> Sequence[Finding]:
    """The findings of a check in the value of a field; a name such as `phone` counts as words before the value.

    A whole number is searched under such a name alone.
    """
    if len(text) > _MAX_TELLING or not _TELLING.search(field):
        return () if text.isdigit() and len(text) < 20 else check(text)
    name = f"{field}: "
    found = [one for one in check(name + text) if one.span[1] > len(name)]
    return [one._replace(span=(max(0, one.span[0] - len(name)), one.span[1] - len(name))) for one in found]


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object or array."""
    if text.strip()[:1] not in ("{", "[") or text.rstrip()[-1:] not in ("}", "]"):
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _json_findings(text: str, check: Check) -> Sequence[Finding]:
    """The findings in the strings and whole numbers of a JSON text, each with its literal as the span."""
    found, field = [], ""
    for match in _LITERAL.finditer(text):
        if match[3]:
            inside = field_findings(check, field, match[3]) if _TELLING.search(field) else ()
            found += [
                one._replace(span=match.span(3), replacement=one.replacement and f'"{one.replacement}"')
                for one in inside
            ]
            continue
        value = json.loads(f'"{match[1]}"', strict=False)
        inside = _string_findings(value, "" if match[2] else field, check)
        if inside and inside[0].replacement is None:
            found += [one._replace(span=match.span(1)) for one in inside]
        elif inside:
            masked = json.dumps(record_texts.mask_findings(value, inside), ensure_ascii=match[1].isascii())[
                1:-1
            ]
            found += [one._replace(span=match.span(1), replacement=masked) for one in inside]
        field = value if match[2] else field
    return found


def _string_findings(value: str, field: str, check: Check) -> Sequence[Finding]:
    return (
        _json_findings(value, check)
        if value[:1] in ("{", "[") and _is_json(value)
        else field_findings(check, field, value)
    )


DETECTORS: dict[str, Callable[[str], Spans]] = {
    "email": emails,
    "phone": phones,
    "ip": ips,
    "card": cards,
    "iban": ibans,
    "ssn": ssns,
    "key": keys,
}
