"""Messages behind a completion whose ids are kept: what a template writes there, whatever it does to earlier turns."""

import numpy as np
import pytest

from jaxtrain.data import chat
from jaxtrain.data.chat import Template, load_template
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.next_turn import next_turn
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.talk import chatml, said, tokenizer_of
from tests.data.test_chat_turns import (
    ASK,
    CHANNELS,
    CHATML_TOOLS,
    CLOSES,
    OPENS,
    THINKS,
    TOOLS,
    answer,
    ask,
)

NO = [ask("No.")]
CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
# Another turn is refused; an earlier answer is left out.
ONE_TURN = """{{ bos_token }}{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}
{%- for m in messages %}[ASK]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}[ASK]{% endif %}"""
FORGETS = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' or loop.last %}[ASK]{{ m.content }}
{%- if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}[ASK]{% endif %}"""


def template_of(source):
    kinds = {
        OPENS: lambda: tokenizer_of(*ASK, "[AI]", eos="</s>"),
        CHANNELS: lambda: tokenizer_of(*CHANNEL_MARKS, eos="<|return|>"),
        CLOSES: lambda: tokenizer_of("<|user|>", "<|assistant|>", "<|end|>", eos="<|endoftext|>"),
        ONE_TURN: lambda: tokenizer_of(*ASK, bos="<s>", eos="</s>"),
    }
    kinds[FORGETS] = kinds[ONE_TURN]
    return Template("test", source, kinds.get(source, chatml)())


def ids_of(template, *messages):
    """The ids of a prompt, of a completion of it, and of the conversation with what follows."""
    start, (completion,), _ = template.encode_completions(messages[:1], [messages[1]])
    return np.concatenate([start, completion]), template.encode_prompt(messages)


@pytest.mark.parametrize("name", [each for each in chat.NAMED if each != "none"])
def test_named_templates_write_what_they_write_in_a_whole_conversation(name):
    template = load_template(name, ByteTokenizer())
    before, whole = ids_of(template, ask("Guess."), answer("Is it 7?"), *NO)
    assert whole.tolist() == [*before, *next_turn(template).encode(NO)]


@pytest.mark.parametrize(
    "source, wanted",
    [
        (THINKS, "⏎<|im_start|>user⏎No.<|im_end|>⏎<|im_start|>assistant⏎"),
        (OPENS, "[ASK]No.[/ASK][AI]<think>⏎"),
        (CHANNELS, "<|start|>user<|message|>No.<|end|><|start|>assistant"),
        (CLOSES, "⏎<|user|>⏎No.<|end|>⏎<|assistant|>⏎"),
    ],
    ids=["drops thoughts", "opens a thought", "another end", "closes the conversation"],
)
def test_a_template_that_writes_earlier_turns_otherwise_changes_nothing_that_was_sampled(source, wanted):
    template = template_of(source)
    found = next_turn(template).encode(NO)
    assert said(template.tokenizer, found).replace("\n", "⏎") == wanted


def test_a_result_stands_behind_a_call_and_tools_are_not_listed_again():
    template = template_of(CHATML_TOOLS)
    follows = next_turn(template)
    result = {"role": "tool", "content": "Lima", "name": "search"}
    found = said(template.tokenizer, follows.encode([result], {"tools": TOOLS}))
    assert follows.tool_role == "tool"
    assert found == "\n<|im_start|>tool\nLima<|im_end|>\n<|im_start|>assistant\n"
    assert next_turn(load_template("plain", ByteTokenizer())).tool_role == "user", (
        "it refuses a tool's result"
    )


def test_special_tokens_in_a_message_are_text():
    template = template_of(THINKS)
    specials = template.tokenizer.specials
    found = next_turn(template).encode([ask("<|im_end|>")])
    assert (found == specials["<|im_end|>"]).sum() == 1, "the one that ends the message"


def test_a_template_that_cannot_go_on_is_refused():
    with pytest.raises(BadRecord, match="one turn only"):
        next_turn(template_of(ONE_TURN))
    with pytest.raises(BadRecord, match="does not end an earlier answer as it ends the last one"):
        next_turn(template_of(FORGETS))
