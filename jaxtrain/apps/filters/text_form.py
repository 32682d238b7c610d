"""The form of a text: prose, or code, a table, a log or verse, which the rules about prose are not made for."""

import re
from collections import Counter
from collections.abc import Sequence

_CODE_LINE = re.compile(
    r"^\s*(?:(?:async )?def |class |import |from [\w.]+ import |return\b|if\b.*[:{(]|for\b.*[:{(]|"
    r"while\b.*[:{(]|else\b|elif |try\b|"
    r"except\b|finally\b|with .*:$|raise |yield |assert |lambda |@\w|#include|#define|#if|#endif|#\[|"
    r"public |private |protected |"
    r"static |const |let |var |function\b|func |fn |impl |use |package |namespace |using |struct |enum |"
    r"typedef |void |int |"
    r"export |module |end$|begin$|do$|SELECT\b|FROM\b|WHERE\b|INSERT\b|CREATE\b|UPDATE\b|DELETE\b|JOIN\b|"
    r"GROUP BY|ORDER BY|HAVING\b|"
    r"VALUES\b|</?[A-Za-z][^<>]*>|\\\w+[\[{]|//|/\*|\*/|\* |--|#|[{}()\[\]]+[;,]?\s*$)"
    r"|[{};\\]\s*$|[\w)\]\"']\s*(?::=|[-+*/|&]?=|->|=>|<-)\s*\S|^\s*[\w.]+\([^)]*\)[;,]?\s*$|"
    r"^\s*-?\s*[a-z_][\w.-]*:(?:\s+\S{1,30})?\s*$"
)
_SIGNS = re.compile(r"[{}()\[\]<>=;|\\]")
_TABLE_LINE = re.compile(r"^\s*\|.*\|\s*$|^[^\t]*(?:\t[^\t]*){2,}$")
_LOG_LINE = re.compile(
    r"^\W{0,2}(?:\d{4}[-/.]\d\d[-/.]\d\d|\d{1,2}:\d\d:\d\d|\w{3} {1,2}\d{1,2} \d\d:\d\d|\d{10,13}\b|"
    r"\[?(?:TRACE|DEBUG|INFO|WARN|ERROR|"
    r"FATAL)\b|\d{1,3}(?:\.\d{1,3}){3} )"
)
_BLANK = re.compile(r"\n\s*\n")
_MOST = 0.5  # of the lines
_MANY_SIGNS = 0.1  # of the characters of code in few lines
_MAX_CHARS = 20_000
_SEPARATORS = ",;\t"


def form_of(text: str) -> str:
    """ "code", "table", "log", "verse" or "prose", by what most lines of the text look like."""
    text = text[:_MAX_CHARS]
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "prose"
    for form, pattern in (("table", _TABLE_LINE), ("log", _LOG_LINE), ("code", _CODE_LINE)):
        if sum(1 for line in lines if pattern.search(line)) > _MOST * len(lines):
            return form
    if len(_SIGNS.findall(text)) > _MANY_SIGNS * len(text):
        return "code"
    if _is_separated(lines):
        return "table"
    return "verse" if _is_verse(text, lines) else "prose"


def _is_separated(lines: Sequence[str]) -> bool:
    """Whether most lines have the same number of commas, semicolons or tabs, two at least, between short cells."""
    if len(lines) < 5:
        return False
    for separator in _SEPARATORS:
        number, times = Counter(line.count(separator) for line in lines).most_common(1)[0]
        cells = [cell for line in lines for cell in line.split(separator)]
        if number >= 2 and times >= 0.8 * len(lines) and sum(map(len, cells)) <= 24 * len(cells):
            return True
    return False


def _is_verse(text: str, lines: Sequence[str]) -> bool:
    """Whether a text is stanzas of short lines: three at least, of 2 to 14 lines, none of which stands there often."""
    stanzas = [len(part.split("\n")) for part in _BLANK.split(text.strip())]
    short = sum(12 <= len(line.strip()) <= 65 for line in lines)
    most = max(Counter(lines).values())
    regular = sum(2 <= size <= 14 for size in stanzas)
    return (
        len(stanzas) >= 3
        and regular >= 0.8 * len(stanzas)
        and short >= 0.85 * len(lines)
        and most <= max(3, len(stanzas) // 2)
    )
