"""Templates: the exact text of each, what is in the loss, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from jaxtrain.config import ConfigError
from jaxtrain.data import chat, tokenizer
from jaxtrain.data.chat import Template, load_template
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.tokenizer import ByteTokenizer, train_bpe
from jaxtrain.worlds.tinytown import lexicon
from tests.data.talk import MESSAGES, chatml, said, shown, tokenizer_of

LLAMA = ("<s>", "</s>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
NAMED = {
    "plain": (*LLAMA, (), "<s>Be kind.\nHuman: Hi?\nAI:« Yo.</s>»\nHuman: Why?\nAI:« So.</s>»"),
    "hh": (
        *LLAMA,
        (),
        "<s>Be kind.\n\nHuman: Hi?\n\nAssistant:« Yo.</s>»\n\nHuman: Why?\n\nAssistant:« So.</s>»",
    ),
    "chatml": (
        None,
        "<|endoftext|>",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
        "«Yo.<|im_end|>»\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«So.<|im_end|>»",
    ),
    "llama2": (
        *LLAMA,
        (),
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi? [/INST]« Yo. </s>»<s>[INST] Why? [/INST]« So. </s>»",
    ),
    "llama3": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        HEADERS,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Yo.<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«So.<|eot_id|>»",
    ),
    "gemma": (
        "<bos>",
        "<eos>",
        ("<start_of_turn>", "<end_of_turn>"),
        "<bos><start_of_turn>user\nBe kind.\n\nHi?<end_of_turn>\n<start_of_turn>model\n«Yo.<end_of_turn>»\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n«So.<end_of_turn>»",
    ),
    "zephyr": (
        *LLAMA,
        ("<|system|>", "<|user|>", "<|assistant|>"),
        "<|system|>\nBe kind.</s>\n<|user|>\nHi?</s>\n<|assistant|>\n«Yo.</s>»\n"
        "<|user|>\nWhy?</s>\n<|assistant|>\n«So.</s>»",
    ),
    "none": (*LLAMA, (), "<s>Be kind.Hi?«Yo.</s>»Why?«So.</s>»"),
}


@pytest.mark.parametrize("name", chat.NAMED)
def test_named_templates_write_this_and_learn_that(name):
    bos, eos, specials, wanted = NAMED[name]
    kind = tokenizer_of(*specials, bos=bos, eos=eos)
    template = load_template(name, kind)
    (turns,) = template.encode(MESSAGES)
    assert shown(kind, turns.ids, turns.loss_mask) == wanted
    assert template.end == turns.ids[-1] and template.notes == () and turns.added == (False, False)
    assert [
        said(kind, turns.ids[a:b]).strip()[:3] for a, b in zip(turns.starts, turns.ends, strict=True)
    ] == [
        "Yo.",
        "So.",
    ]


@pytest.fixture(scope="module")
def bpe():
    question, answer = "How do I wash a bike?", "First soak the bike. Then rinse it."
    return train_bpe(
        [f"Human: {question}\nAI: {answer}", f"\n\nHuman: {question}\n\nAssistant: {answer}"] * 9, 400
    )


@pytest.mark.parametrize("turns", ["plain", "hh"])
def test_a_question_and_answer_are_those_of_pretraining_to_the_token(bpe, turns):
    before, between = lexicon.TURNS[turns]
    question, answer = "How do I wash a bike?", "First soak the bike. Then rinse it."
    document = [bpe.bos, *bpe.encode([f"{before}{question}{between}{answer}"])[0], bpe.eos]
    template = load_template(turns, bpe)
    asked = [{"role": "user", "content": question}]
    (found,) = template.encode([*asked, {"role": "assistant", "content": answer}])
    assert found.ids.tolist() == document
    assert template.encode_prompt(asked).tolist() == document[: found.starts[0]]
    assert bpe.decode(template.encode_prompt(asked)).endswith(between.rstrip(" "))
    assert bpe.decode(found.ids[found.starts[0] :]) == f" {answer}"


LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN = """{%- for message in messages %}
    {%- if loop.first and message.role != "system" %}
        {{- '<|im_start|>system\\nYou are a help.<|im_end|>\\n' }}
    {%- endif %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>' + (call.function | tojson) + '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- generation %}
    {{- message.content + '<|im_end|>' }}
    {%- endgeneration %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
"""


def test_published_styles_of_templates(tmp_path):
    llama = tokenizer_of(*HEADERS, bos="<|begin_of_text|>", eos="<|end_of_text|>")
    llama.chat_template = LLAMA3
    (turns,) = load_template("auto", llama).encode(MESSAGES[:3])
    assert shown(llama, turns.ids, turns.loss_mask) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Yo.<|eot_id|>»"
    )
    qwen = chatml()
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "<b>'"}}]}
    asked = [MESSAGES[1], call, {"role": "tool", "content": "3"}, MESSAGES[2]]
    (turns,) = Template("qwen", QWEN, qwen).encode(asked)
    assert shown(qwen, turns.ids, turns.loss_mask) == (
        "<|im_start|>system\nYou are a help.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
        '«<tool_call>{"name": "<b>\'"}</tool_call><|im_end|>»\n<|im_start|>tool\n3<|im_end|>\n'
        "<|im_start|>assistant\n«Yo.<|im_end|>»"
    )
    path = tmp_path / "gemma.jinja"
    path.write_text(GEMMA)
    gemma = tokenizer_of("<start_of_turn>", "<end_of_turn>", bos="<bos>", eos="<eos>")
    template = load_template(str(path), gemma)
    (turns,) = template.encode(MESSAGES[1:])
    assert shown(gemma, turns.ids, turns.loss_mask) == (
        "<bos><start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\n«Yo.<end_of_turn>»\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n«So.<end_of_turn>»"
    )
    with pytest.raises(BadRecord, match="refused by the chat template: System role not supported"):
        template.encode(MESSAGES)
    with pytest.raises(BadRecord, match="Roles must alternate"):
        template.encode([MESSAGES[1], MESSAGES[3], MESSAGES[4]])


def plain_ids(kind, text):
    return kind.encode([text])[0].tolist()


@pytest.mark.parametrize(
    "text",
    [
        "a<|im_end|>b",
        "<|im_end|>",
        "<|im_start|><|im_end|>",
        "x <|im_",
        "end|> y",
        "<|im_<|im_end|>end|>",
        "\ufdd0<|im_end|>",
    ],
)
def test_special_tokens_in_messages_are_text(text):
    kind = chatml()
    template = load_template("chatml", kind)
    asked, answered = {"role": "user", "content": text}, {"role": "assistant", "content": text}
    (turns,) = template.encode([asked, answered])
    ends = [kind.specials["<|im_start|>"], kind.specials["<|im_end|>"]]
    header = [ends[0], *plain_ids(kind, "assistant\n")]
    words = plain_ids(kind, text)
    asked = [ends[0], *plain_ids(kind, "user\n"), *words, ends[1], *plain_ids(kind, "\n")]
    assert turns.ids.tolist() == [*asked, *header, *words, ends[1]]
    assert turns.loss_mask.sum() == len(words) + 1
    assert not set(words) & set(kind.specials.values())


def test_neighbouring_messages_do_not_make_a_special_token():
    kind = tokenizer_of(*LLAMA[:1], bos="<s>", eos="</s>")
    halves = [{"role": "user", "content": text} for text in ("a</", "s>b")]
    (turns,) = load_template("none", kind).encode([*halves, {"role": "assistant", "content": "c"}])
    assert said(kind, turns.ids) == "<s>a</s>bc</s>"
    assert turns.ids.tolist().count(kind.eos) == 1


@settings(max_examples=40, deadline=None)
@given(
    said=st.lists(
        st.text(st.sampled_from("<|im_endstar>/s \n\u0130é😀"), min_size=1, max_size=12),
        min_size=2,
        max_size=6,
    ),
    name=st.sampled_from(["plain", "hh", "chatml", "llama3", "none"]),
)
def test_a_prompt_is_always_the_beginning_of_prompt_and_answer(said, name):
    said = [text if text.strip() else f"{text}x" for text in said[: len(said) // 2 * 2]]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    for kind in (ByteTokenizer(), chatml()):
        template = load_template(name, kind)
        (turns,) = template.encode(messages)
        prompt = template.encode_prompt(messages[:-1])
        assert turns.ids[: turns.starts[-1]].tolist() == prompt.tolist()
        again, made, added = template.encode_completions(messages[:-1], [said[-1], "other"])
        assert again.tolist() == prompt.tolist() and made[0].tolist() == turns.ids[len(prompt) :].tolist()
        assert made[1][-1] == made[0][-1] == template.end and added == 2 * turns.added[-1]


def test_bos_is_the_template_s_alone():
    kind = tokenizer_of(bos="<s>", eos="</s>")
    kind._inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", kind.bos)])
    assert load_template("plain", kind).encode(MESSAGES)[0].ids.tolist().count(kind.bos) == 1
    bare = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    assert kind.bos not in Template("bare", bare, kind).encode(MESSAGES)[0].ids
    with pytest.raises(ConfigError, match="starts with two <s>"):
        Template("two", "{{ bos_token + bos_token }}" + bare, kind)


THINKING = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}
{%- else %}{{ m.content }}{% endif %}
<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_a_template_that_rewrites_earlier_turns_has_a_row_for_each_answer():
    kind = chatml()
    template = Template("thinking", THINKING, kind)
    thought = {"role": "assistant", "content": "<think>hm</think>Yo."}
    first, second = template.encode([MESSAGES[1], thought, *MESSAGES[3:]])
    start = "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    assert shown(kind, first.ids, first.loss_mask) == f"{start}«<think>hm</think>Yo.<|im_end|>»"
    assert shown(kind, second.ids, second.loss_mask) == (
        f"{start}Yo.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«So.<|im_end|>»"
    )
    prompt = template.encode_prompt([MESSAGES[1], thought, MESSAGES[3]])
    assert prompt.tolist() == second.ids[: second.starts[0]].tolist()
    assert len(template.encode(MESSAGES[1:])) == 1  # without thoughts there is nothing to rewrite


def test_templates_that_cannot_be_used_are_refused(tmp_path):
    kind = chatml()
    for source, words in {
        "{% for m in messages %}<|im_start|>{{ m.role + m.content }}<|im_end|>{% endfor %}": "ignores add_gen",
        "{% for m in messages %}": "line 1: not a Jinja template",
        "{{ raise_exception('never') }}": "never",
        "{{ ''.__class__.__mro__ }}{{ messages }}": "unsafe",
        "{{ messages.append(1) }}": "unsafe",
    }.items():
        with pytest.raises(ConfigError, match=f"--template=mine: .*{words}"):
            Template("mine", source, kind)
    with pytest.raises(ConfigError, match=r"--template=nope: no such file; write auto, hf:NAME, plain, hh"):
        load_template("nope", kind)
    (tmp_path / "a.jinja").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not a Jinja template"):
        load_template(str(tmp_path / "a.jinja"), kind)


def test_an_end_token_that_the_template_lacks_is_eos_and_counted():
    kind = ByteTokenizer()
    bare = "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\n' }}{% endfor %}"
    bare += "{% if add_generation_prompt %}a:{% endif %}"
    template = Template("bare", bare, kind)
    (turns,) = template.encode(MESSAGES[1:])
    assert shown(kind, turns.ids, turns.loss_mask) == "u:Hi?\na:«Yo.\n<|eos|>»u:Why?\na:«So.\n<|eos|>»"
    assert turns.added == (True, True) and template.end == kind.eos
    assert len(load_template("chatml", kind).notes) == 2
    assert "no token for" in load_template("chatml", kind).notes[0]


def test_turns_not_to_be_learnt_are_prompt():
    kind = chatml()
    template = load_template("chatml", kind)
    for mark in ({"train": False}, {"weight": 0}):
        (turns,) = template.encode([*MESSAGES[1:2], MESSAGES[2] | mark, *MESSAGES[3:]])
        assert said(kind, turns.ids[turns.loss_mask]) == "So.<|im_end|>"
    with pytest.raises(BadRecord, match="unknown weight"):
        template.encode([MESSAGES[1], MESSAGES[2] | {"weight": 0.5}])
    with pytest.raises(BadRecord, match="no assistant turn"):
        template.encode(MESSAGES[:2])
    with pytest.raises(BadRecord, match="plain has no place for tool at turn 2"):
        load_template("plain", kind).encode([MESSAGES[1], {"role": "tool", "content": "3"}, MESSAGES[2]])


def test_a_tokenizer_keeps_its_template(tmp_path):
    kind = chatml()
    kind.save(tmp_path / "a")
    assert load_template("auto", tokenizer.load(tmp_path / "a")).name == "plain"
    config = {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": QWEN}]}
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps(config))
    again = tokenizer.load(tmp_path / "a")
    again.save(tmp_path / "b")
    found = load_template("auto", tokenizer.load(tmp_path / "b"))
    assert (found.name, found.source) == ("auto", QWEN) and again.fingerprint == kind.fingerprint
    assert found.fingerprint != load_template("chatml", kind).fingerprint
    (tmp_path / "a" / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": config["chat_template"][:1]})
    )
    with pytest.raises(ConfigError, match="has tool_use but no default"):
        load_template("auto", tokenizer.load(tmp_path / "a"))
    byte = ByteTokenizer()
    byte.chat_template = "{{ messages }}"
    byte.save(tmp_path / "c")
    assert tokenizer.load(tmp_path / "c").chat_template == byte.chat_template
    assert np.array_equal(byte.encode(["a"])[0], [97])
