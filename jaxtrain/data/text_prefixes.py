"""Prompts that are the first tokens of texts, as the sentiment tasks have them: SOURCE?format=prefix&tokens=2-8."""

import zlib
from typing import NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.data.conversations import Dialog
from jaxtrain.data.messages import BadRecord, text_of
from jaxtrain.data.record_fields import RecordFields
from jaxtrain.data.tokenizer import Tokenizer

FORMAT, OPTION, USUAL = "prefix", "tokens", "2-8"  # arXiv:2305.18290, section 6: prefixes of 2 to 8 tokens
SHAPE = "texts, of which the first ?tokens=2-8 are a prompt"


class TextPrefix(NamedTuple):
    """A text of which the first `low` to `high` tokens are a prompt."""

    text: str
    low: int
    high: int

    def prompt(self, tokenizer: Tokenizer) -> Dialog:
        """The prompt, whose length is drawn by the text alone; a character is never cut in two. Raises BadRecord."""
        ids = tokenizer.encode([self.text])[0]
        count = self.low + zlib.crc32(self.text.encode()) % (self.high - self.low + 1)
        prefix = tokenizer.decode(ids[:count])
        while "\ufffd" in prefix and count < len(ids):
            count += 1
            prefix = tokenizer.decode(ids[:count])
        if not prefix.strip():
            raise BadRecord("no text: there is nothing to begin a prompt with")
        return Dialog(({"role": "user", "content": prefix},))


def token_range(text: str, where: str) -> tuple[int, int]:
    """(least, most) tokens that LOW-HIGH or a number names. Raises ConfigError, which starts with `where`."""
    low, dash, high = text.partition("-")
    numbers = [int(one) if one.isascii() and one.isdecimal() else 0 for one in (low, high if dash else low)]
    if not 0 < numbers[0] <= numbers[1]:
        raise ConfigError(f"{where}: {OPTION}={text}: write LOW-HIGH, such as {USUAL}, or one number above 0")
    return numbers[0], numbers[1]


def read(record: RecordFields, field: str, tokens: tuple[int, int]) -> TextPrefix:
    """The text of a record. Raises BadRecord."""
    return TextPrefix(text_of(record[field], field), *tokens)
