"""Prompts answered during training: the world's, the data's own, or none for plain texts."""

import pytest

from jaxtrain.config import ConfigError, Dialogs, Samples
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.stages import eval_prompts
from tests.data.corpus import write
from tests.data.talk import pair


class Config:
    """The groups of flags that the sampler reads."""

    def __init__(self, data, prompts="auto"):
        self.data, self.samples = data, Samples(prompts=prompts)


def test_plain_texts_have_no_prompts_unless_others_are_named(tmp_path):
    texts = write(tmp_path / "t.jsonl", [{"text": f"Text {i}."} for i in range(4)])
    data = Dialogs(data=texts, cache_dir=str(tmp_path / "cache"))
    template = load_template("plain", ByteTokenizer())
    given = (None, Config(data), template, ByteTokenizer().decode)
    assert eval_prompts.eval_sampler(*given, required=False) is None
    (line,) = eval_prompts.about(None)
    assert line[0] == "prompts" and "--prompts names others" in line[1]
    assert eval_prompts.about(lambda state, step: ("", {})) == []
    with pytest.raises(ConfigError, match=r"--data=jsonl:.*t.jsonl: its records have the fields text"):
        eval_prompts.eval_sampler(*given)
    named = Config(data, prompts=texts)
    with pytest.raises(ConfigError, match=r"--prompts=jsonl:.*t.jsonl: its records have the fields text"):
        eval_prompts.eval_sampler(None, named, template, ByteTokenizer().decode, required=False)


def test_the_source_of_prompts(tmp_path):
    own = Dialogs(data=write(tmp_path / "a.jsonl", [pair(0)]))
    assert eval_prompts.eval_source(Samples(), own) == (own.data, "data", None)
    held = Dialogs(data=own.data, eval_data="jsonl:held.jsonl")
    assert eval_prompts.eval_source(Samples(), held) == ("jsonl:held.jsonl", "eval_data", None)
    source = eval_prompts.eval_source(Samples(), Dialogs())
    assert source.setting == "--prompts=tinytown:prompts:test" and source.world is not None
    with pytest.raises(ConfigError, match="name one source"):
        eval_prompts.eval_source(Samples(prompts="jsonl:a,jsonl:b"), own)
