"""IP addresses, v4 and v6, of hosts: no networks, netmasks, loopback addresses, versions, slices or scopes."""

import ipaddress
import re
from collections.abc import Iterator

Spans = Iterator[tuple[int, int]]

_V4 = re.compile(r"[0-9](?<![\w.-].)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-])(?!\.\d)")
_DOTTED = re.compile(r"\d\.\d")  # a fast test that few texts pass
_V6 = re.compile(
    r"[0-9A-Fa-f:](?<![\w:.].)(?:(?<=:)|"
    r"[0-9A-Fa-f]{0,3}:)[0-9A-Fa-f:]{1,38}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])(?!\.\d)(?:%[\w-]{1,16})?"
)
_PREFIX_LENGTH = re.compile(r"/(\d{1,3})(?!\d)")
_VERSION = re.compile(
    r"(?:\bv\.?|version\w{0,7}|release\w?|revision|\brev\.?|\bver\.?|build|firmware|driver|sections?|"
    r"\bsec\.?|chapter|clause|"
    r"appendix|\boid|§|\brfc ?\d{1,5},?)[\s\"':=>(\[]{0,4}\Z|(?:[=!<>~^]=|[~^])\s?[\"']?\Z",
    re.I,
)
_PRODUCT = re.compile(r"\b[A-Z]\w{2,20}/\Z")  # Chrome/4.0.249.0
_TAG = re.compile(r"<[/\w][^<>\n]{0,99}>\s{0,4}\Z")
_REQUIREMENT = re.compile(r"[\w\]] ?>\s?\Z")  # name>1.2.3.4
_CUE = re.compile(
    r"(?:\bips?\b|\bipv?4?|\bhosts?\b|addr|server|client|\bping\b|\bssh\b|\bfrom\b|gateway|\bdns\b|"
    r"\bnode\b|peer|\bsrc\b|\bdst\b|"
    r"source|proxy|bind|listen|\bconnect(?:ed|ing|ion|s)?\b|blocked|login|remote|forwarded|//)[^\d\n]{0,24}\Z",
    re.I,
)
_SUBSCRIPT = re.compile(r"[\w)\]]\[[^\]\n]{0,50}\Z")  # a slice of rows[2001::2]
_SMALL = 32  # numbers of a version are below


def ips(text: str) -> Spans:
    """Spans of the IP addresses of hosts in a text."""
    for match in _V4.finditer(text) if text.count(".") > 2 and _DOTTED.search(text) else ():
        if _is_host(match[0], text, match.end()) and not _is_version(text, match):
            yield match.span()
    if text.count(":") > 1:
        for match in _V6.finditer(text):
            if match[0].count(":") > 1 and (span := _v6_host(text, match)):
                yield span


def _is_version(text: str, match: re.Match[str]) -> bool:
    """Whether four numbers with dots are those of a version or a section."""
    start = match.start()
    low = max(0, start - 40)
    if tag := _TAG.search(text, max(0, start - 110), start):
        return "version" in tag[0].lower()
    if text[start - 1 : start] == "<":
        return text[match.end() : match.end() + 1] != ">"
    if any(pattern.search(text, low, start) for pattern in (_VERSION, _REQUIREMENT, _PRODUCT)):
        return True
    parts = [*map(int, match[0].split("."))]
    small = max(parts) < _SMALL or max(parts[:3]) < 10 or (max(parts[:3]) < _SMALL // 2 and 0 in parts[1:3])
    return small and parts[0] != 10 and not _CUE.search(text, low, start)


def _is_host(address: str, text: str, end: int) -> bool:
    """Whether an address is that of one host."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if found.is_unspecified or found.is_loopback or found.is_multicast:
        return False
    if found.version == 4 and address.startswith(("0.", "255.")):
        return False
    prefix = _PREFIX_LENGTH.match(text, end)
    if prefix and int(prefix[1]) < found.max_prefixlen:
        host_bits = (1 << (found.max_prefixlen - int(prefix[1]))) - 1
        return bool(int(found) & host_bits)
    return True


def _v6_host(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """The span of a v6 address of an allocated block; the blocks keep slices and scopes such as a[1::2] apart."""
    start, (address, percent, _) = match.start(), match[0].partition("%")
    trimmed = address.rstrip(":") if not address.endswith("::") else address
    if trimmed.count(":") < 2:
        return None
    end = match.end() if percent and trimmed == address else start + len(trimmed)
    if not _is_host(trimmed, text, end) or not _is_allocated(trimmed):
        return None
    if _SUBSCRIPT.search(text, max(0, start - 60), start):
        return None
    return start, end


def _is_allocated(address: str) -> bool:
    """Whether an address is written in full, or of a block that is in use (IANA's registry of IPv6 space)."""
    groups = address.lower().split(":")
    if "" not in groups and "." not in address:
        return any(len(group) > 2 for group in groups)  # eight pairs are a hardware address
    number = ipaddress.IPv6Address(address)
    if number.ipv4_mapped:
        return not number.ipv4_mapped.is_loopback and int(number.ipv4_mapped) > 1 << 24
    if address.endswith("::") or not any(map(str.isdigit, address)):
        return False  # a prefix, or words
    first = int(number) >> 112
    return (
        first in (0x2001, 0x2002, 0x2003, 0x3FFF, 0x64)
        or first >> 8 in (0x24, 0x26, 0x28, 0x2A, 0x2C)
        or first >> 9 == 0xFC >> 1  # unique local
        or first >> 6 == 0xFE80 >> 6  # link-local
    )
