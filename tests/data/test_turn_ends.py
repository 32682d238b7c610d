"""EOS tokens behind the answers of a prompt: those that rendering turn by turn gives, in few renderings."""

import itertools

import pytest

from jaxtrain.data import turn_ends
from jaxtrain.data.chat import Template, load_template
from jaxtrain.data.chat_jinja import ChatJinja
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.talk import said, tokenizer_of

HEAD = "{% for m in messages %}[{{ m.role }}]"
SOURCES = {
    "as it is": HEAD + "{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    "trimmed": HEAD
    + "{{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    "last one otherwise": HEAD
    + "{{ m.content }}{% if loop.last %}.{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
}
ANSWERS = ("Yo.", " Yes. ", "No\n", "[user]x")


def talk(answers):
    turns = [({"role": "user", "content": "Hi?"}, {"role": "assistant", "content": one}) for one in answers]
    return [message for turn in turns for message in turn] + [{"role": "user", "content": "Bye?"}]


@pytest.mark.parametrize("name", SOURCES)
def test_ends_are_where_turn_by_turn_rendering_puts_them(name, monkeypatch):
    template = Template(name, SOURCES[name], tokenizer_of(bos="<s>", eos="</s>"))
    certain = []
    for answers in itertools.product(ANSWERS, repeat=2):
        quick = template.encode_prompt(talk(answers)).tolist()
        with monkeypatch.context() as patch:
            patch.setattr(turn_ends, "with_ends", lambda *_: certain.append(None))
            assert template.encode_prompt(talk(answers)).tolist() == quick, answers
    assert len(certain) == len(ANSWERS) ** 2


def test_each_answer_has_an_end_whatever_white_space_it_ends_with():
    template = Template("mine", SOURCES["as it is"], tokenizer_of(bos="<s>", eos="</s>"))
    text = said(template.tokenizer, template.encode_prompt(talk(("Yo.", "No\n"))))
    assert text == "[user]Hi?\n[assistant]Yo.\n</s>[user]Hi?\n[assistant]No\n\n</s>[user]Bye?\n[assistant]"


def test_renderings_do_not_grow_with_the_conversation(monkeypatch):
    template, rendered = load_template("chatml", ByteTokenizer()), []
    render = ChatJinja.render

    def counted(self, messages, variables):
        rendered.append(len(messages))
        return render(self, messages, variables)

    monkeypatch.setattr(ChatJinja, "render", counted)
    template.encode_prompt(talk(["Yo."] * 500))
    assert len(rendered) <= 4 and sum(rendered) < 4 * 1001
