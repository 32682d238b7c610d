"""What is learnt of an assistant's turn, under templates written as those of today's models are."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from jaxtrain.data import chat, special_text
from jaxtrain.data.chat import Template, load_template
from jaxtrain.data.messages import BadRecord, messages_of
from jaxtrain.data.tokenizer import ByteTokenizer, FastTokenizer
from tests.data.talk import chatml, said, shown, tokenizer_of

ASK = ("[ASK]", "[/ASK]")
CALLS = """{{- bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[ASK]' + m.content + '[/ASK]' }}
{%- elif m.role == 'tool' %}{{ '[RESULT]' + m.content + '[/RESULT]' }}
{%- elif m.tool_calls %}[CALLS] [
{%- for c in m.tool_calls %}{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}
{%- if not loop.last %}, {% endif %}{% endfor %}{{ ']' + eos_token }}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""
BLOCK = """{{- bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[ASK]' + m.content + '[/ASK]' }}
{%- else %}{% if m.thinking %}{{ '[T]' + m.thinking + '[/T]' }}{% endif %}{{ m.content + eos_token }}{% endif %}
{%- endfor %}"""
# The last turn has a block for the thought, earlier ones lose theirs.
THINKS = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.last %}{{ '<think>' + m.content.split('</think>')[0].split('<think>')[-1]
 + '</think>\\n\\n' if '</think>' in m.content else '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{{- m.content.split('</think>')[-1].strip() + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
# The prompt opens the thought; a finished turn never shows one.
OPENS = """{% for m in messages %}{% if m.role == 'user' %}{{ '[ASK]' + m.content + '[/ASK]' }}
{%- else %}{{ '[AI]' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '[AI]<think>\\n' }}{% endif %}"""
# Channels within one turn; the last turn has another end token than earlier ones, which lose their thoughts.
CHANNELS = """{% for m in messages %}{% if m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}
{%- else %}{% if loop.last and m.thinking %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}
{%- endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"""
# Something ends the conversation, behind the end of the turn.
CLOSES = """{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
CHATML_TOOLS = """{% if tools %}{{ '<|im_start|>system\\nTOOLS ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}
{%- for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TOOLS = [{"type": "function", "function": {"name": "gate_state", "parameters": {"type": "object"}}}]


def ask(text):
    return {"role": "user", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(arguments, name="gate_state"):
    return answer("", tool_calls=[{"type": "function", "function": {"name": name, "arguments": arguments}}])


def rows(template, messages, **template_kwargs):
    encoded = template.encode(messages, template_kwargs)
    return [shown(template.tokenizer, one.ids, one.loss_mask) for one in encoded]


def instruct(*more):
    return tokenizer_of(*ASK, *more, bos="<s>", eos="</s>")


@pytest.mark.parametrize("arguments", [{"gate": "g0"}, '{"gate": "g0"}'])
def test_a_call_is_learnt_whole_behind_the_special_token_that_opens_it(arguments):
    template = Template("calls", CALLS, instruct("[CALLS]", "[RESULT]", "[/RESULT]"))
    messages = [ask("Open?"), call(arguments), {"role": "tool", "content": "yes"}, answer("It is.")]
    assert rows(template, messages) == [
        '<s>[ASK]Open?[/ASK]«[CALLS] [{"name": "gate_state", "arguments": {"gate": "g0"}}]</s>»'
        "[RESULT]yes[/RESULT]« It is.</s>»"
    ]


@pytest.mark.parametrize("name", ["thinking", "reasoning_content", "reasoning"])
def test_a_thought_in_special_tokens_is_learnt_with_the_answer_behind_it(name):
    template = Template("block", BLOCK, instruct("[T]", "[/T]"))
    assert rows(template, [ask("1+1?"), answer("2", **{name: "one and one"})]) == [
        "<s>[ASK]1+1?[/ASK]«[T]one and one[/T]2</s>»"
    ]


def test_a_template_that_drops_earlier_thoughts_has_a_row_for_each_answer():
    template = Template("thinks", THINKS, chatml())
    messages = [ask("A?"), answer("<think>\na\n</think>B."), ask("C?"), answer("D.", reasoning_content="c")]
    assert rows(template, messages) == [
        "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n«<think>\na\n</think>\n\nB.<|im_end|>»",
        "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\nB.<|im_end|>\n<|im_start|>user\nC?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nc\n</think>\n\nD.<|im_end|>»",
    ]
    for many in range(1, 9, 2):  # a conversation goes on whatever the template does to its earlier turns
        turns = [messages[i % 2] for i in range(many)]
        assert said(template.tokenizer, template.encode_prompt(turns)).endswith("<|im_start|>assistant\n")


def test_rows_that_learn_nothing_are_left_out():
    template = Template("thinks", THINKS, chatml())
    messages = [ask("A?"), answer("B.", train=False), ask("C?"), answer("D.")]
    (row,) = rows(template, messages)
    assert row.count("«") == 1 and row.endswith("«<think>\n\n</think>\n\nD.<|im_end|>»")
    (row,) = rows(template, messages[:2])
    assert "«" not in row


@pytest.mark.parametrize(
    "given", [answer("<think>\nhm\n</think>\n\nYo."), answer("Yo.", reasoning_content="hm")]
)
def test_a_prompt_that_opens_the_thought_is_followed_by_its_rest(given):
    template = Template("opens", OPENS, tokenizer_of(*ASK, "[AI]", eos="</s>"))
    assert rows(template, [ask("Hi?"), given]) == ["[ASK]Hi?[/ASK][AI]<think>\n«hm\n</think>\n\nYo.</s>»"]
    prompt, (completion,), added = template.encode_completions([ask("Hi?")], [given])
    assert said(template.tokenizer, prompt) == "[ASK]Hi?[/ASK][AI]<think>\n" and added == 0
    assert said(template.tokenizer, completion) == "hm\n</think>\n\nYo.</s>"


def test_several_channels_of_one_turn_and_the_end_token_of_the_last():
    marks = ("<|start|>", "<|message|>", "<|end|>", "<|channel|>")
    template = Template("channels", CHANNELS, tokenizer_of(*marks, eos="<|return|>"))
    start = "<|start|>user<|message|>A?<|end|><|start|>assistant"
    messages = [ask("A?"), answer("B.", thinking="a"), ask("C?"), answer("D.", thinking="c")]
    final = "<|channel|>final<|message|>"
    assert rows(template, messages) == [
        f"{start}«<|channel|>analysis<|message|>a<|end|><|start|>assistant{final}B.<|return|>»",
        f"{start}{final}B.<|end|><|start|>user<|message|>C?<|end|><|start|>assistant"
        f"«<|channel|>analysis<|message|>c<|end|><|start|>assistant{final}D.<|return|>»",
    ]
    assert template.end == template.tokenizer.eos


def test_what_ends_the_conversation_is_not_of_the_turn():
    kind = tokenizer_of("<|user|>", "<|assistant|>", "<|end|>", eos="<|endoftext|>")
    template = Template("closes", CLOSES, kind)
    assert rows(template, [ask("A?"), answer("B."), ask("C?"), answer("D.")]) == [
        "<|user|>\nA?<|end|>\n<|assistant|>\n«B.<|end|>»\n<|user|>\nC?<|end|>\n<|assistant|>\n«D.<|end|>»"
    ]
    assert template.end == kind.specials["<|end|>"]


@pytest.mark.parametrize("name", chat.NAMED)
def test_a_call_that_the_template_has_no_place_for_is_a_bad_record(name):
    template = load_template(name, tokenizer_of("<|im_start|>", "<|im_end|>", bos="<s>", eos="</s>"))
    with pytest.raises(
        BadRecord, match="lost tool call: the chat template has no place for a call of 'gate_state'"
    ):
        template.encode([ask("Open?"), call("{}")])
    with pytest.raises(BadRecord, match="lost tool call"):
        template.encode_completions([ask("Open?")], [call("{}")])


def test_tools_reach_the_template_and_what_it_does_not_write_is_named():
    template = Template("tools", CHATML_TOOLS, chatml())
    (row,) = rows(template, [ask("Open?"), call({"gate": "g0"})], tools=TOOLS)
    assert row.startswith(f"<|im_start|>system\nTOOLS {json.dumps(TOOLS)}<|im_end|>\n<|im_start|>user\nOpen?")
    assert row.endswith(
        '«<tool_call>{"name": "gate_state", "arguments": {"gate": "g0"}}</tool_call><|im_end|>»'
    )
    (encoded,) = template.encode([ask("A?"), answer("B.")], {"tools": TOOLS})
    assert encoded.unwritten == ()
    (encoded,) = load_template("chatml", chatml()).encode(
        [ask("A?"), answer("B.", thinking="hm")], {"tools": TOOLS, "documents": [{"title": "T", "text": "U"}]}
    )
    assert encoded.unwritten == ("thoughts", "tools", "documents")
    ignores = "{% for m in messages if m.role != 'system' %}{{ m.content + eos_token }}{% endfor %}"
    system = {"role": "system", "content": "Be kind."}
    template = Template("ignores", ignores, chatml())
    assert template.encode([system, ask("A?"), answer("B.")])[0].unwritten == ("a system message",)
    assert template.unwritten([system, ask("A?")]) == ("a system message",)


def test_templates_get_what_transformers_gives():
    source = """{% if tools is not none %}TOOLS{% endif %}{% if documents is not none %}DOCS{% endif %}{{ bos_token }}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
    template = Template("notnone", source, instruct("<|im_start|>", "<|im_end|>"))
    start = "<s><|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n"
    assert template.prompt_text([ask("A?")]) == start
    assert template.prompt_text([ask("A?")], {"tools": TOOLS}) == f"TOOLS{start}"
    developer = {"role": "developer", "content": "Be kind."}
    assert template.prompt_text([developer]).startswith("<s><|im_start|>system\nBe kind.")
    knows = source.replace("m.role +", "('DEV' if m.role == 'developer' else m.role) +")
    assert "<|im_start|>DEV\n" in Template("knows", knows, chatml()).prompt_text([developer])


def test_arguments_are_an_object_or_text_as_the_template_takes_them():
    text = "{% for m in messages %}{{ '[ASK]' if m.role == 'user' }}{{ m.content }}"
    text += (
        "{% for c in m.tool_calls or [] %}{{ c.function.name + %s }}{% endfor %}{{ eos_token }}{% endfor %}"
    )
    for spelt in ("c.function.arguments", "'' ~ c.function.arguments", "(c.function.arguments | tojson)"):
        template = Template("mine", text.replace("%s", spelt), instruct())
        for arguments in ({"gate": "g0"}, '{"gate": "g0"}'):
            assert 'gate_state{"gate": "g0"}</s>' in rows(template, [ask("A?"), call(arguments)])[0]
    items = text.replace("%s", "(c.function.arguments.items() | list | string)")
    template = Template("mine", items, instruct())
    assert "[('gate', 'g0')]" in rows(template, [ask("A?"), call('{"gate": "g0"}')])[0]


def test_templates_that_want_other_contents():
    parts = (
        "{% for m in messages %}{{ m.role + ':' }}{% for p in m.content if p.type == 'text' %}{{ p.text }}"
    )
    parts += "{% endfor %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    assert rows(Template("parts", parts, instruct()), [ask("A?"), answer("B.")]) == [
        "user:A?</s>assistant:«B.</s>»"
    ]
    null = "{% for m in messages %}{{ '[ASK]' if m.role == 'user' }}{% if m.content is none %}"
    null += "{{ m.tool_calls[0].function | tojson }}{% else %}{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}"
    (row,) = rows(Template("null", null, instruct()), [ask("A?"), call({})])
    assert row == '[ASK]A?</s>«{"name": "gate_state", "arguments": {}}</s>»'


def metaspace(scheme, *, normalizer=None):
    """A tokenizer of ▁ for spaces and pairs with it, as SentencePiece's models are converted."""
    letters = [*map(chr, range(0x21, 0x7F)), "▁", "\n"]
    vocab = {text: i for i, text in enumerate(["<unk>", "<s>", "</s>", *letters])}
    merges = [("▁", one) for one in "AHIYt["]
    vocab |= {"".join(one): len(vocab) + i for i, one in enumerate(merges)}
    inner = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    if scheme:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.normalizer = normalizer
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    inner.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    )
    return FastTokenizer(inner, {"bos": "<s>", "eos": "</s>"})


LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


@pytest.mark.parametrize("name", ["llama2", "plain", "hh"])
@pytest.mark.parametrize(
    ("scheme", "normalizer"), [("first", None), ("always", None), ("never", None), ("", LLAMA)]
)
def test_ids_are_the_tokenizer_s_own_of_the_whole_text(scheme, normalizer, name):
    kind = metaspace(scheme, normalizer=normalizer)
    template = load_template(name, kind)
    messages = [ask("Hi?"), answer("Yes"), ask("  Is it?"), answer("t t")]
    (row,) = template.encode(messages)
    whole = "".join(
        template.prompt_text(messages[:-1]).rstrip() + template.completion_text(messages[:-1], messages[-1])
    )
    inner = Tokenizer.from_str(kind._inner.to_str())
    assert row.ids.tolist() == inner.encode(whole, add_special_tokens=False).ids
    prompt = template.encode_prompt(messages[:-1])
    assert row.ids[: row.starts[-1]].tolist() == prompt.tolist()
    _, (completion,), _ = template.encode_completions(messages[:-1], ["t t"])
    assert completion.tolist() == row.ids[len(prompt) :].tolist()


def test_a_special_token_that_takes_white_space_with_it():
    kind = chatml()
    kind._inner.add_special_tokens([AddedToken("<|im_end|>", special=True, lstrip=True, rstrip=True)])
    template = Template("mine", CHATML_TOOLS, kind)
    (row,) = template.encode([ask("A? "), answer("B. ")])
    inner = Tokenizer.from_str(kind._inner.to_str())
    whole = template.prompt_text([ask("A? ")]) + "B. <|im_end|>"
    assert row.ids.tolist() == inner.encode(whole, add_special_tokens=False).ids
    assert said(kind, row.ids[row.loss_mask]) == "B.<|im_end|>"


def test_no_token_crosses_from_the_prompt_into_the_answer():
    vocab = {text: i for i, text in enumerate(["</s>", ":", "a", "b", ":a", ":ab"])}
    inner = Tokenizer(models.BPE(vocab, [(":", "a"), (":a", "b")]))
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens(["</s>"])
    kind = FastTokenizer(inner, {"eos": "</s>"})
    source = "{% for m in messages %}{{ ':' if m.role == 'assistant' }}{{ m.content }}{% if m.role == 'assistant' %}"
    source += "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    template = Template("mine", source, whole_alphabet(kind))
    (row,) = template.encode([ask("b"), answer("ab"), ask("a"), answer("a")])
    names = [template.tokenizer._inner.id_to_token(i) for i in row.ids]
    assert names == ["b", ":", "a", "b", "</s>", "a", ":", "a", "</s>"]
    assert [names[i] for i in row.starts] == ["a", "a"]
    prompt, completions, _ = template.encode_completions([ask("b")], ["ab", "a"])
    assert prompt.tolist() == row.ids[:2].tolist() and completions[0].tolist() == row.ids[2:5].tolist()


def whole_alphabet(kind):
    state = json.loads(kind._inner.to_str())
    for char in map(chr, range(0x20, 0x7F)):
        state["model"]["vocab"].setdefault(char, 100 + ord(char))
    return FastTokenizer(Tokenizer.from_str(json.dumps(state)), {"eos": "</s>"})


def test_the_first_space_of_a_completion_stays():
    kind = metaspace("first")
    ids = [kind._inner.token_to_id("▁t")] * 3
    assert kind.decode(ids) == "t t t" and kind.decode_completion(ids) == " t t t"
    assert ByteTokenizer().decode_completion(b" t") == " t"
    shown = special_text.marked_decoder(kind)
    assert shown([kind.bos, *ids, kind.eos]) == "<s> t t t</s>"


def test_the_white_space_that_a_template_writes_before_an_answer():
    for name, lead in (("llama2", " "), ("plain", " "), ("none", "")):
        assert load_template(name, metaspace("first")).lead == lead
    assert load_template("chatml", chatml()).lead == ""


def test_no_bos_means_none():
    kind = tokenizer_of("<s>", "<|im_start|>", "<|im_end|>", eos="<|endoftext|>")
    null = FastTokenizer(kind._inner, {"eos": "<|endoftext|>", "bos": None})
    assert "bos_token" not in null.token_names and null.bos == null.eos
    (row,) = load_template("plain", null).encode([ask("Hi?"), answer("Yo.")])
    assert said(null, row.ids) == "Human: Hi?\nAI: Yo.<|endoftext|>"
    with pytest.raises(BadRecord, match="no prompt"):
        load_template("none", null).encode_prompt([ask("")])


def test_a_conversation_of_a_million_turns_ends_at_the_limit():
    template = load_template("chatml", chatml())
    messages = [ask("A?"), answer("B.")] * 500_000
    (row,) = template.encode(messages, limit=64)
    assert 64 < len(row.ids) < 1000 and row.omitted + len(row.ends) == 500_000


def test_nothing_of_a_record_gives_a_traceback():
    template = Template("tools", CHATML_TOOLS, chatml())
    half = json.loads('{"role": "assistant", "content": "\\ud83d"}')
    for messages in (
        [ask("A?"), half],
        [ask("A?"), call({"gate": "\ud83d"})],
        [
            ask("A?"),
            answer("", tool_calls=[{"function": {"arguments": "{", "name": "gate_state"}}]),
            ask("\ud83d"),
        ],
    ):
        with pytest.raises(BadRecord):
            template.encode([*messages, answer("B.")])
    with pytest.raises(BadRecord, match="half a surrogate"):
        messages_of([ask("A?"), call({"gate": ["\ud83d"]})], "messages")
