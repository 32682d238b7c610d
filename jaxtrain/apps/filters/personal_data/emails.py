"""E-mail addresses: written as they are, encoded for a page or a URL, or spelled out (ada [at] example [dot] org).

A domain ends in a suffix of the Public Suffix List or a reserved name (RFC 2606), which a product of matrices, a
package's version and an image's scale do not. Addresses at reserved names such as example.com are found like others.
"""

import functools
import html
import re
from collections.abc import Iterator

Spans = Iterator[tuple[int, int]]

_MAX_LOCAL = 64
_LOCAL = re.compile(r"[\w.+&'~%-]{1,64}\Z")
_QUOTED_LOCAL = re.compile(r'"[^"\n@]{1,60}@?[^"\n@]{0,60}"\Z')
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL}){{1,8}}(?![\w@-])")
_ADDRESS_LITERAL = re.compile(r"\[(?:IPv6:)?[0-9A-Fa-f.:]{3,45}\]")
_RESERVED = frozenset(
    "example test invalid localhost local localdomain lan internal intranet corp onion".split()
)
# Suffixes that are as often a member of an object, a file or a unit; an address needs a sign of one around it.
_MEMBERS = frozenset(
    "data dot map name int to id real info link page prof call next now open property target search select "
    "pub host plus zone local internal py mt view space run show help style type cat fit vision box bar "
    "foo new "
    "tools top total click dev app inc media games date day model models".split()
)
_FILES = frozenset(("py", "zip", "mov"))
_SIGN = re.compile(
    r"""(?:mail\w{0,3}|contact|kontakt|author\w{0,2}|from|to|cc|bcc|reply-to)["']?\s?[:=]?\s?["'<(]?\Z""",
    re.I,
)
_OPERATOR = re.compile(r"(?:[=(\[+*/,-]|\breturn)\s{0,4}\Z")
_CALLED = frozenset("com org edu gov de uk".split())  # suffixes that may have a bracket behind them
_SINGLE_LETTER = frozenset("com org net edu".split())  # suffixes with domains of one letter
_SCALE = re.compile(r"\d{1,2}x\.|\d{1,2}\.[^.]*\Z")  # icon@2x.zip, file@1.bar
_LOGINS = frozenset(
    "git hg svn bzr cvs anoncvs anonymous gitea gitlab aur".split()
)  # of a server for everybody
_CREDENTIAL = re.compile(r"//[^\s/@:]{0,99}:\Z")
_ENCODED_AT = re.compile(r"&#0{0,4}64;|&#x0{0,4}40;|&commat;|%40|\\u0040|\\x40", re.I)
_ENTITIES = re.compile(r"(?:&#(?:x[0-9a-f]{2,4}|\d{2,5});){6,254}", re.I)

_AT = r"\s{0,2}[\[({<]\s?(?:at|@|ät|arroba|chez)\s?[\])}>]\s{0,2}"
_DOT = r"(?:\s{0,2}[\[({<]\s?(?:dot|\.|punkt|point|punto|ponto)\s?[\])}>]\s{0,2}|\.|\sdot\s)"
_WORD = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_BRACKETED = re.compile(
    rf"(?P<local>[\w.+-]{{1,64}}(?:{_DOT}{_WORD}){{0,4}}){_AT}(?P<domain>{_WORD}(?:{_DOT}{_WORD}){{1,5}})",
    re.I,
)
_BRACKETS = re.compile(r"[\[({<]\s?(?:at|@|ät|arroba|chez)\s?[\])}>]", re.I)
_SPELLED = re.compile(
    r"\b(?P<local>[a-z0-9.+]{1,40}(?:(?P<gap>[ _-])dot(?P=gap)[a-z0-9]{1,40}){0,2})"
    r"(?P<space>[ _-])at(?P=space)(?P<domain>[a-z0-9-]{1,40}?(?:(?P=space)dot(?P=space)[a-z0-9]{1,24}){1,4})(?![\w-])",
    re.I,
)
_BEFORE_AT = frozenset(
    "look looking looked available hosted find found visit see shop buy read more us me him her them "
    "here only "
    "listen watch up reach is are was be or and it store meet met live work works one".split()
)
_DOTS = re.compile(_DOT + r"|[ _-]dot[ _-]", re.I)


@functools.cache
def _suffixes() -> "object":
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False, only_icann=True)


@functools.lru_cache(1 << 14)
def has_known_suffix(domain: str) -> bool:
    """Whether a domain ends in a public suffix, with a name before it, or in a reserved name."""
    labels = domain.lower().split(".")
    if labels[-1] in _RESERVED:
        return True
    if len(labels) < 2 or (not labels[-1].isascii() and len(labels[-1]) > 63):
        return False
    suffix = _suffixes().publicsuffix(".".join(labels))
    return suffix is not None and len(suffix) < len(domain)


def emails(text: str) -> Spans:
    """Spans of e-mail addresses in a folded text."""
    at = text.find("@")
    while at >= 0:
        yield from _address(text, at, at + 1)
        at = text.find("@", at + 1)
    if any([sign in text for sign in ("&#", "%40", "\\u0040", "\\x40", "&commat;")]):
        for match in _ENCODED_AT.finditer(text):
            yield from _address(text, match.start(), match.end())
        for match in _ENTITIES.finditer(text) if "&#" in text else ():
            if "@" in (plain := html.unescape(match[0])) and [
                *_address(plain, plain.index("@"), plain.index("@") + 1)
            ]:
                yield match.span()
    yield from _spelled(text)


def _address(text: str, at: int, after: int) -> Spans:
    """The address around an @ that stands at text[at:after], if there is one."""
    low = max(0, at - _MAX_LOCAL)
    local = _LOCAL.search(text, low, at) or (text[at - 1 : at] == '"' and _QUOTED_LOCAL.search(text, low, at))
    domain = _DOMAIN.match(text, after) or (
        text[after : after + 1] == "[" and _ADDRESS_LITERAL.match(text, after)
    )
    if not local or not domain:
        return
    start = local.start() + len(local[0]) - len(local[0].lstrip(".'&%~-"))
    if text[start - 1 : start] == "\\" and text[start] in "nrt":
        start += 1  # an escape of a string before it
    name, host = text[start:at], domain[0]
    if (
        not name
        or name[-1] == "."
        or name.startswith(("%s", "%d"))
        or text[start - 1 : start] in ("$", "}", "{")
    ):
        return
    if host[0] == "[" or _is_mail_domain(text, start, host, domain.end(), name):
        yield start, domain.end()


def _is_mail_domain(text: str, start: int, host: str, end: int, name: str) -> bool:
    """Whether what stands behind an @ is a domain in a mail address, rather than code, a version or a login."""
    first, _, last = host.partition(".")[0], None, host.rpartition(".")[2]
    lower, two = last.lower(), host.count(".") == 1
    if last not in (lower, last.upper(), last.title()) or not has_known_suffix(host):
        return False
    if name.lower() in _LOGINS or _SCALE.match(host) or _CREDENTIAL.search(text, max(0, start - 110), start):
        return False
    if text[end : end + 1] in ("(", "[") and lower not in _CALLED:
        return False
    if two and len(first) == 1 and lower not in _SINGLE_LETTER:
        return False
    if lower in _FILES or (lower in _MEMBERS and name.isidentifier()):
        before = text[max(0, start - 24) : start]
        return bool(_SIGN.search(before)) or (lower not in _FILES and not _OPERATOR.search(before))
    return True


def _spelled(text: str) -> Spans:
    if _BRACKETS.search(text) if any(mark in text for mark in "[({<") else False:
        for match in _BRACKETED.finditer(text):
            yield from _spelled_span(match)
    if " dot " in text or " DOT " in text or "_dot_" in text or "-dot-" in text:
        for match in _SPELLED.finditer(text):
            if match["local"].lower() not in _BEFORE_AT:
                yield from _spelled_span(match)


def _spelled_span(match: re.Match[str]) -> Spans:
    """The span of an address that is spelled out, its domain cut behind the last word that is a suffix."""
    labels, start = [], match.start("domain")
    ends = [dot.start() for dot in _DOTS.finditer(match["domain"])] + [len(match["domain"])]
    begins = [0] + [dot.end() for dot in _DOTS.finditer(match["domain"])]
    for begin, end in zip(begins, ends, strict=True):
        labels.append(match["domain"][begin:end])
    for count in range(len(labels), 1, -1):
        if has_known_suffix(".".join(labels[:count])):
            yield match.start(), start + ends[count - 1]
            return
