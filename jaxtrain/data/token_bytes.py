"""The UTF-8 bytes of a token, from its text in a tokenizer's file."""

import functools
import re


def byte_level(token: str) -> bytes:
    """The bytes of a byte-level token, whose characters stand for bytes; of any other token those of its text."""
    table = _alphabet()
    return bytes(map(table.get, token)) if all(c in table for c in token) else token.encode()


def visible(token: str) -> bytes:
    """The bytes of a token that is text, with ▁ for a space, <0xHH> for a byte and ## for no space before it."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes.fromhex(token[3:5])
    return token.removeprefix("##").replace("▁", " ").encode()


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's byte alphabet: bytes visible in Latin-1 are themselves, the others U+0100 and on, in their order."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [i for i in range(256) if i not in shown]
    return {chr(i): i for i in shown} | {chr(0x100 + n): i for n, i in enumerate(hidden)}
