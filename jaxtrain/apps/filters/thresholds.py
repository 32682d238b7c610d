"""The thresholds of the rules, for the histograms of their scores: which flag of the config bounds which rule."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain.apps.filters import repetition
from jaxtrain.files.charts import Mark

# rule -> (flag group, flags); the rules of repeated n-grams are scaled by theirs, see `marks`.
FLAGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "gopher_min_words": ("heuristics", ("min_words",)),
    "gopher_max_words": ("heuristics", ("max_words",)),
    "gopher_word_length": ("heuristics", ("min_word_length", "max_word_length")),
    "gopher_symbols": ("heuristics", ("max_symbols",)),
    "gopher_bullets": ("heuristics", ("max_bullets",)),
    "gopher_ellipses": ("heuristics", ("max_ellipses",)),
    "gopher_alphabetic": ("heuristics", ("min_alphabetic",)),
    "gopher_stop_words": ("heuristics", ("min_stop_words",)),
    "c4_sentences": ("heuristics", ("min_sentences",)),
    "fineweb_punctuated": ("heuristics", ("min_punctuated",)),
    "fineweb_short_lines": ("heuristics", ("max_short_lines",)),
    "fineweb_repeated_lines": ("heuristics", ("max_repeated_lines",)),
    "fineweb_newlines": ("heuristics", ("max_newlines",)),
    "gopher_line_repeats": ("repetition", ("max_line_repeats",)),
    "gopher_paragraph_repeats": ("repetition", ("max_line_repeats",)),
    "gopher_line_repeat_chars": ("repetition", ("max_line_repeat_chars",)),
    "gopher_paragraph_repeat_chars": ("repetition", ("max_line_repeat_chars",)),
    "control_characters": ("junk", ("max_control",)),
    "surprise": ("junk", ("max_surprise",)),
    "boilerplate": ("junk", ("max_boilerplate",)),
    "classifier": ("classifier", ("max_bad",)),
    "perplexity_high": ("perplexity", ("max_bits",)),
    "perplexity_low": ("perplexity", ("min_bits",)),
    "harm_learnt": ("harm", ("max_harmful",)),
    "spam": ("spam", ("max_spam",)),
    "similar_words": ("near", ("near_similarity",)),
}
_STEPS = {
    "harm": ("harm", ("max_harm",)),
    "language": ("language", ("min_language",)),
}  # for their other rules
_NGRAMS = {"gopher_top_{}gram": repetition.TOP, "gopher_repeated_{}grams": repetition.REPEATED}


def marks(step: str, rule: str, config: Mapping[str, Mapping[str, Any]]) -> Sequence[Mark]:
    """The thresholds of a rule in the config of a report; none of a rule that has none, or where it is not known."""
    for form, table in _NGRAMS.items():
        if match := re.fullmatch(form.format(r"(\d+)"), rule):
            scale = config.get("repetition", {}).get("repeated_ngrams")
            limit = table.get(int(match[1]))
            return [] if None in (scale, limit) else [Mark(scale * limit, f"--repeated_ngrams={scale:g}")]
    group, names = FLAGS.get(rule) or _STEPS.get(step, ("", ()))
    settings = config.get(group, {})
    return [Mark(float(settings[name]), f"--{name}={settings[name]:g}") for name in names if name in settings]
