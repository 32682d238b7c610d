"""The 25 kinds of IFEval: texts that follow an instruction, and texts that do not."""

import pytest

from jaxtrain.rewards import instructions

# kind: arguments, texts that follow it, texts that do not
CASES = {
    "keywords:existence": [({"keywords": ["cat", "Dog"]}, ["A dog and a Cat."], ["A cat."])],
    "keywords:frequency": [
        ({"keyword": "a+b", "frequency": 2, "relation": "at least"}, ["a+b A+B"], ["a+b aab"]),
        ({"keyword": "cat", "frequency": 2, "relation": "less than"}, ["cat", "dog"], ["cat cat"]),
    ],
    "keywords:forbidden_words": [({"forbidden_words": ["cat"]}, ["A category."], ["The Cat."])],
    "keywords:letter_frequency": [
        ({"letter": "e", "let_frequency": 3, "let_relation": "at least"}, ["Eel ee"], ["eel"]),
        ({"letter": "!", "let_frequency": 1, "let_relation": "less than"}, ["eel"], ["eel!"]),
    ],
    "language:response_language": [
        (
            {"language": "de"},
            ["Das ist ein kurzer Satz über das Wetter in der Stadt."],
            ["This is a short sentence about the weather."],
        )
    ],
    "length_constraints:number_sentences": [
        ({"num_sentences": 2, "relation": "at least"}, ["One. Two!", "Is it? Yes", 'He said "go." Then he went.'],
         ["One", "Mr. Smith has 3.5 apples.", "e.g. this one."]),
        ({"num_sentences": 2, "relation": "less than"}, ["Wait..."], ["One. Two."]),
    ],
    "length_constraints:number_paragraphs": [
        ({"num_paragraphs": 2}, ["a\n***\nb", "a *** b\n***\n"], ["a", "a\n\nb", "a\n***\n***\nb", "a***b***c"])
    ],
    "length_constraints:number_words": [
        ({"num_words": 3, "relation": "at least"}, ["one two, three"], ["one two"]),
        ({"num_words": 3, "relation": "less than"}, ["one two"], ["one two three"]),
    ],
    "length_constraints:nth_paragraph_first_word": [
        ({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "but"}, ["So it is.\n\nBut, no.", 'a\n\n"But" b'],
         ["But a\n\nso b", "a\n\nbutter", "a\n\nbut b\n\nc", "but"])
    ],
    "detectable_content:number_placeholders": [
        ({"num_placeholders": 2}, ["Dear [name], of [place]"], ["Dear [name]"])
    ],
    "detectable_content:postscript": [
        ({"postscript_marker": "P.S."}, ["Bye.\nP.S. Write.", "bye p. s. x"], ["Bye. PS write"]),
        ({"postscript_marker": "P.P.S"}, ["Bye.\nP.P.S. Write."], ["Bye.\nP.S. Write."]),
    ],
    "detectable_format:number_bullet_lists": [
        ({"num_bullets": 2}, ["* a\n* b", "- a\n  - b", "* a\n- b"], ["* a", "* a\n* b\n* c", "**bold** x\n* a"])
    ],
    "detectable_format:constrained_response": [({}, ["So: My answer is yes."], ["yes"])],
    "detectable_format:number_highlighted_sections": [
        ({"num_highlights": 2}, ["*a* and *b*", "**a** and *b*"], ["*a*", "* a", "** **"])
    ],
    "detectable_format:multiple_sections": [
        ({"section_spliter": "Section", "num_sections": 2}, ["Section 1\na\nSection 2\nb"], ["Section 1", "Section a"])
    ],
    "detectable_format:json_format": [
        ({}, ['{"a": [1]}', '```json\n{"a": 1}\n```', "3"], ["a", '{"a": 1} x', "[" * 100_000, "1" * 5000])
    ],
    "detectable_format:title": [({}, ["<<A song>>\nLa"], ["<A song>", "<< >>", "<<>>"])],
    "combination:two_responses": [
        ({}, ["a\n******\nb", "******a******b******"], ["a", "a******a", "a******b******c", "a************b"])
    ],
    "combination:repeat_prompt": [
        ({"prompt_to_repeat": "Write a poem. "}, ["write a POEM. Roses"], ["Roses. Write a poem."])
    ],
    "startend:end_checker": [({"end_phrase": "Any questions?"}, ["So. any questions? ", 'x "any questions?"'], ["x"])],
    "startend:quotation": [({}, ['"a b"', ' "a" '], ["a", '"', '"a'])],
    "change_case:capital_word_frequency": [
        ({"capital_frequency": 2, "capital_relation": "at least"}, ["AN NGO-GROUP is"], ["AN ngo"]),
        ({"capital_frequency": 2, "capital_relation": "less than"}, ["AN ngo"], ["AN NGO"]),
    ],
    "change_case:english_capital": [({}, ["HELLO, 3!"], ["HELLo", "3"])],
    "change_case:english_lowercase": [({}, ["hello, 3!"], ["Hello", "3"])],
    "punctuation:no_comma": [({}, ["a; b"], ["a, b"])],
}  # fmt: skip


def test_every_kind_has_cases():
    assert CASES.keys() == instructions.KINDS.keys() and len(CASES) == 25


@pytest.mark.parametrize("kind", CASES)
def test_texts_that_follow_an_instruction_and_texts_that_do_not(kind):
    for arguments, good, bad in CASES[kind]:
        other = dict.fromkeys(("num_words", "keyword", "letter", "language"))  # as tables have every field
        given = {**other, **arguments}
        assert {text: instructions.follows(text, kind, given) for text in good} == dict.fromkeys(good, True)
        wrong = [*bad, "", " \n"]
        assert {text: instructions.follows(text, kind, given) for text in wrong} == dict.fromkeys(
            wrong, False
        )


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        ("keywords:nothing", {}, "'keywords:nothing' is not a kind"),
        ("keywords:existence", {}, "KeyError: 'keywords'"),
        ("keywords:existence", {"keywords": [3]}, "TypeError"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}, "not a letter"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "about"}, "KeyError: 'about'"),
        ("length_constraints:number_words", {"num_words": "many", "relation": "at least"}, "ValueError"),
        ("combination:repeat_prompt", {"prompt_to_repeat": None}, "KeyError"),
    ],
)  # fmt: skip
def test_what_is_no_instruction_is_refused(kind, arguments, message):
    with pytest.raises(instructions.BadInstruction, match=message):
        instructions.follows("text", kind, arguments)
