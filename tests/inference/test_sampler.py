"""Completions as text: where they end, and what their log-probability is of."""

import functools

import jax

from jaxtrain import config
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.inference.sampler import decoder, text_sampler
from jaxtrain.models import transformer
from jaxtrain.train import parallel
from tests import tiny

ARCH = tiny.shrink("gpt2", layers=1, vocab=320, max_len=48)
TEMPLATE = load_template("none", ByteTokenizer())
NEW = 12
ENDS = (TEMPLATE.end, *range(ord("a"), ord("m")))  # letters, which a tokenizer decodes, end answers too


@functools.cache
def sampler():
    plan = parallel.make(config.Run())
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)
    return text_sampler(plan, model, params, TEMPLATE, ENDS, NEW, ARCH.max_len)


def request(text, seeds, **changes):
    return SampleRequest(TEMPLATE.tokenizer.encode([text])[0], seeds, NEW)._replace(**changes)


def test_a_completion_depends_on_its_prompt_and_seed_alone():
    requests = [request("Hi", [1, 2]), request("How do I wash a bike?", [3, 4]), request("Hi", [5, 6])]
    whole = sampler().sample(requests)
    assert len(whole) == 6 and len({one.text for one in whole}) == 6
    assert [one.text for one in sampler().sample(requests[1:2])] == [one.text for one in whole[2:4]]
    for one in whole:
        assert one.text == decoder(TEMPLATE, ENDS)(one.ids) and one.logp < 0 and one.score is None
        assert one.ended == (one.ids[-1] in ENDS) and (one.ended or len(one.ids) == NEW)


def test_the_token_that_ends_an_answer_is_no_part_of_its_text():
    sampled = sampler().sample([request("Hi", range(40))])
    ended = [one for one in sampled if one.ids[-1] in ENDS[1:]]
    assert ended and all(one.ended for one in ended)
    for one in sampled:
        assert not {*one.text} & {*map(chr, ENDS[1:])} and not {*one.ids[:-1]} & {*ENDS}


def test_a_completion_ends_before_a_stop_also_where_it_is_streamed():
    (whole,) = sampler().sample([request("Hi", [1])])
    stop = next(c for c in whole.text[2:] if c not in whole.text[:2] and c != "\ufffd")
    stopped = request("Hi", [1], stops=(stop,))
    (one,) = sampler().sample([stopped])
    assert one.text == whole.text[: whole.text.index(stop)] and one.ended and one.logp > whole.logp
    assert [i for chunk in sampler().stream(stopped) for i in chunk] == one.ids == whole.ids[: len(one.ids)]


def test_the_white_space_that_a_template_begins_with_is_not_the_answers():
    ids = ByteTokenizer().encode(["  Yes. "])[0].tolist()
    assert decoder(load_template("plain", ByteTokenizer()), ())(ids) == " Yes. "
    assert decoder(TEMPLATE, ())(ids) == "  Yes. "
