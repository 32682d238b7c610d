"""Pages for the rules about quality, with the verdicts of datatrove 0.10.1.

The verdicts are those of its GopherQualityFilter, GopherRepetitionFilter, C4QualityFilter (3 sentences, 5 words a line,
as the paper says) and FineWebQualityFilter (0.1 of the characters in repeated lines), in this order; "" is kept.
"""

_SENTENCES = (
    "The river rose in the night, and by the morning the lower fields were under water.",
    "Nobody had seen it so high since the year that the old bridge was carried away.",
    "Two men with a flat boat brought the sheep from the island, four at a time.",
    "At the mill they had opened every gate and stood in the yard to watch the wheel.",
    "My grandmother would not leave her kitchen until the stairs were wet.",
    "She packed the good plates in straw and put the clock on top of the cupboard.",
    "Later that week the sun came back, and everything that could be carried was laid out to dry.",
    "The priest walked from house to house and wrote down what each family had lost.",
    "For a long time we counted the days from the flood, as others count them from a wedding.",
    "In spring the grass on the meadow was greener than we had ever known it to be.",
    "There are still marks on the wall of the church with the dates of such years beside them.",
    "I have put my hand on the highest one, and I could not reach it without a chair.",
)
_WARES = (
    "red shoes",
    "blue hat",
    "wool scarf",
    "rain coat",
    "brown belt",
    "silk tie",
    "white shirt",
    "grey socks",
)

GOOD = "\n".join(" ".join(_SENTENCES[i : i + 3]) for i in range(0, 12, 3))
PAGES = {
    "story": GOOD,
    "one_line": " ".join(_SENTENCES),
    "few_words": "The river rose in the night, and nobody slept. We had a boat to spare. That was all that we had.",
    "hashes": GOOD.replace(" ", " #"),
    "ellipses": GOOD.replace(". ", "... "),
    "ellipsis_lines": "\n".join(line.rstrip(".") + "..." for line in _SENTENCES),
    "bullets": "\n".join(f"- {line}" for line in _SENTENCES),
    "numbers": "\n".join(
        " ".join(str(7 * i + j) for j in range(12)) + " and that is the sum of it." for i in range(12)
    ),
    "long_words": " ".join(
        "internationalisation counterrevolutionary of the and misunderstanding." for _ in range(20)
    ),
    "short_words": "\n".join(f"a b {c} d e f of the {c}." for c in "ghijklmnopqr"),
    "no_stop_words": "Cold rain fell. Old men sat by fires. Dogs slept near doors. Nobody spoke.\n"
    "Snow came early. Wolves howled. Children dreamed about summer, beaches, kites, ponies. "
    "Lamps burned all night. Wind shook trees. Ice covered windows. Smoke rose slowly. Birds sang.",
    "repeated_line": "\n".join([*_SENTENCES[:4], *[_SENTENCES[4]] * 6]),
    "repeated_paragraph": "\n\n".join(
        [_SENTENCES[0] + " " + _SENTENCES[1]] * 4 + [_SENTENCES[2] + " " + _SENTENCES[3]]
    ),
    "repeated_words": " ".join(
        [*_SENTENCES[:3], *["The sale ends on the last day of the month for all of the goods."] * 6]
    ),
    "lorem": GOOD + "\nLorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.",
    "no_punctuation": "\n".join(line.rstrip(".") for line in _SENTENCES),
    "shop": "\n".join(f"{ware} of the season\nadd to bag" for ware in _WARES)
    + "\n"
    + " ".join(_SENTENCES[:2]),
    "list": "\n".join(ware for ware in _WARES * 3) + "\n" + "that and the rest of it is to be had",
    "javascript": "\n".join(
        f"Please enable javascript to read line {i} of the page and have it." for i in range(12)
    ),
    "policies": "\n".join(
        f"By page {i} you agree to the terms of use and the privacy policy." for i in range(12)
    ),
}

VERDICTS: dict[str, tuple[str, str, str, str]] = {
    "story": ("", "", "", ""),
    "one_line": ("", "", "", ""),
    "few_words": ("gopher_short_doc", "top_4_gram", "", ""),
    "hashes": ("gopher_too_many_hashes", "", "", ""),
    "ellipses": ("", "", "", ""),
    "ellipsis_lines": ("gopher_too_many_end_ellipsis", "", "too_few_sentences", ""),
    "bullets": ("gopher_too_many_bullets", "", "", ""),
    "numbers": ("gopher_below_avg_threshold", "top_4_gram", "", ""),
    "long_words": ("gopher_above_avg_threshold", "top_2_gram", "", ""),
    "short_words": ("gopher_below_avg_threshold", "top_3_gram", "", "short_line_ratio"),
    "no_stop_words": ("gopher_short_doc", "", "", ""),
    "repeated_line": ("", "dup_line_frac", "", "char_dup_ratio"),
    "repeated_paragraph": ("", "dup_para_frac", "", "char_dup_ratio"),
    "repeated_words": ("", "duplicated_5_n_grams", "", ""),
    "lorem": ("", "", "lorem_ipsum", ""),
    "no_punctuation": ("", "", "too_few_sentences", "line_punct_ratio"),
    "shop": ("", "dup_line_frac", "too_few_sentences", "line_punct_ratio"),
    "list": ("", "dup_line_frac", "too_few_sentences", "line_punct_ratio"),
    "javascript": ("", "top_3_gram", "too_few_sentences", ""),
    "policies": ("", "top_3_gram", "too_few_sentences", ""),
}
