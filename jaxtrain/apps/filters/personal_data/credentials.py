"""Keys, tokens and passwords: with a service's prefix, in a private key block, in a URL, or after their name.

A name is also followed by calls, types, look-ups and placeholders; a value counts only where its characters are mixed
as in a random one, or where it is a quoted string of a password.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from jaxtrain.apps.filters.types import lowercase

Spans = Iterator[tuple[int, int]]

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
# The prefixes by a sign in them that is rare in prose, for speed.
_BY_SIGN = {sign: [prefix for prefix in _PREFIXED if sign in prefix] for sign in "_-"}
_BY_SIGN[""] = [prefix for prefix in _PREFIXED if not {"_", "-"} & {*prefix}]
_BEGINS_NAMES = (
    "sk-",
    "pypi-",
    "hf_",
    "npm_",
    "ghs_",
    "ghr_",
    "SG.",
    "xapp-",
)  # of packages, classes and functions too
_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[\s\S]{1,4096}?-----END [A-Z ]{0,32}PRIVATE KEY-----"
)
# Of the text in small letters. The alternatives begin with few letters, which is fast.
_ASSIGNED = re.compile(
    r"(?P<name>key|secret|token|pass(?:word|wd|phrase|wort)|pwd|kennwort|contraseña|mot de "
    r"passe)\d?[\"'`\]]{0,2}"
    r"(?:\s{0,4}(?::|=>|=|\bis\b|\best\b|\bist\b)\s{0,4}|\s(?=['\"`]))"
    r"(?:(?P<quote>[\"'`])(?P<quoted>[^\"'`\n]{6,256})(?P=quote)|(?P<bare>[^\s\"'`<>,;{}\\]{8,256}))"
)
_BEFORE_KEY = re.compile(r"(?:api|secret|access|private|account|auth|encryption|signing)[ _-]?\Z")
_BEFORE_TOKEN = re.compile(r"(?:(?:auth|access|bearer|refresh|api|id)[ _-]?|[^a-z]|\A)\Z")
_AUTHORIZATION = re.compile(r"\b(?:bearer|basic|token) (?P<value>[\w+/=.~-]{12,512})", re.I)
_URL_PASSWORD = re.compile(r"://(?P<user>[^\s:/@\"'<>]{1,64}):(?P<value>[^\s/@\"'<>{}]{3,128})@(?=[\w\[-])")
_NAMES_OF_KEYS = ("key", "secret", "token", "passw", "pwd", "passp", "kennwort", "contrase", "mot de passe")
_PLACEHOLDER = re.compile(
    r"\$\{|^\$[a-z_]\w*$|^%[a-z_]+%|[<{] ?[a-z]|\s|your|example|placeholder|change.?me|dummy|sample|"
    r"insert|redact|hidden|x{4}|\*{3}|"
    r"\.{3}|0{6}|^(?:pass(?:word|wd)?|pwd|pw|secret|token|test|foo|bar|none|null|true|false|"
    r"undefined)\d{0,4}$",
    re.I,
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_READABLE = re.compile(r"(?:[^aeiouy]{0,3}[aeiouy]){1,12}[^aeiouy]{0,4}")  # a word's vowels and consonants
_DIGIT_RUNS = re.compile(r"\d+")
_PATH = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|->|::)[A-Za-z_$][\w$]*)*\Z")
_MIN_BITS, _FEW_BITS = 3.0, 2.5


def keys(text: str) -> Spans:
    """Spans of keys, tokens and passwords in a text."""
    for prefix in dict.fromkeys([p for sign, prefixes in _BY_SIGN.items() if sign in text for p in prefixes]):
        if prefix in text:
            for match in _PREFIXED[prefix].finditer(text):
                rest = match[0][len(prefix) :]
                if _bits(rest) >= _FEW_BITS and not (prefix in _BEGINS_NAMES and _is_of_words(rest)):
                    yield match.span()
    if "PRIVATE KEY-----" in text:
        for match in _BLOCK.finditer(text):
            yield match.span()
    if "://" in text:
        for match in _URL_PASSWORD.finditer(text):
            if not _PLACEHOLDER.search(match["value"]) and match["value"] != match["user"]:
                yield match.span("value")
    lower = lowercase(text)
    if any([name in lower for name in _NAMES_OF_KEYS]):
        for match in _ASSIGNED.finditer(lower):
            start, end = match.span("quoted" if match["quote"] else "bare")
            end = end if match["quote"] else start + len(lower[start:end].rstrip(".!,?"))
            value = text[start:end]
            if not match["quote"] and value[-1:] == ")" and value.count("(") < value.count(")"):
                end -= 1  # of a bracket around the assignment
            if _is_named(lower, match) and _is_secret(match, text[start:end]):
                yield start, end
    if "bearer " in lower or "basic " in lower or "authorization" in lower:
        for match in _AUTHORIZATION.finditer(text):
            value = match["value"].rstrip(".=")
            mixed = _is_mixed(value) or (_has_both(value) and not _is_of_words(value))
            if mixed and _bits(value) >= _MIN_BITS:
                yield match.span("value")


def _is_named(lower: str, match: re.Match[str]) -> bool:
    """Whether the words before a name leave it that of a secret: a key may be one of a table, tokens are counted."""
    low, start = max(0, match.start() - 14), match.start()
    if match["name"] == "key":
        return bool(_BEFORE_KEY.search(lower, low, start))
    return match["name"] not in ("token", "pwd") or bool(_BEFORE_TOKEN.search(lower, low, start))


def _is_secret(match: re.Match[str], value: str) -> bool:
    """Whether the value after a name is a secret, rather than code that yields one, a type or a placeholder."""
    quoted = bool(match["quote"])
    if _PLACEHOLDER.search(value) or (not quoted and _is_call(value)):
        return False
    if _has_both(value) and _is_of_words(value):
        # A password of a word and digits is one only as a string, with a sign in it.
        return quoted and match["name"] not in ("key", "token") and bool(re.search(r"[!@#$%^&*?+~]", value))
    if not _has_both(value) and not _is_mixed(value):
        return False
    least = min(_FEW_BITS if quoted else _MIN_BITS, 0.8 * math.log2(len(value)))
    return _bits(value) >= least and (quoted or not _is_expression(value))


def _is_mixed(value: str) -> bool:
    """Whether letters alone are mixed in case as no words are."""
    words = _WORDS.findall(value)
    return len(words) > 4 and sum(map(len, words)) < 2.6 * len(words)


def _is_expression(value: str) -> bool:
    """Whether a value is a name of code with words in it, a path of such names, or a file."""
    return bool(_PATH.match(value)) and "." in value and max(map(len, _WORDS.findall(value)), default=0) >= 4


def _is_call(value: str) -> bool:
    """Whether an unquoted value is a call or a subscript, by words before a bracket or names inside."""
    name, bracket, rest = re.match(r"([\w.$:>-]*)([(\[]?)(.*)", value, re.S).groups()
    if not bracket or not name:
        return False
    closed = all(value.count(one) == value.count(other) for one, other in ("()", "[]"))
    return (
        _is_of_words(name)
        or (closed and bool(_PATH.match(name)))
        or bool(re.fullmatch(r"[\w.=*&]*[)\]]*", rest))
    )


def _is_of_words(value: str) -> bool:
    """Whether a value reads as words with numbers behind them, as names do, and not as random characters."""
    words, runs = _WORDS.findall(value), _DIGIT_RUNS.findall(value)
    letters = sum(map(len, words))
    read = sum(len(word) for word in words if len(word) > 2 and _READABLE.fullmatch(word.lower()))
    parted = any(sign in value for sign in "_-./")
    most = max(1, len(words) // (2 if parted else 3))
    return (
        read >= 0.6 * letters
        and letters >= 3 * len(words)
        and len(runs) <= most
        and 0 < 0.5 * len(value) <= letters
    )


def _has_both(value: str) -> bool:
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _bits(value: str) -> float:
    """The entropy of a value's characters, in bits a character: words and placeholders have less than random ones."""
    if not value:
        return 0.0
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
