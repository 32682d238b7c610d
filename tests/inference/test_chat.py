"""A chat model's prompts, best-of-n and streamed text, without a model."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments import sample
from jaxtrain.config import ConfigError
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.generate import stop_strings
from jaxtrain.inference import chat
from jaxtrain.inference.chat import ChatModel
from jaxtrain.inference.sampler import SampledText
from jaxtrain.rewards.models import CompletionScorer


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def chat_model(context, max_new=8, template="plain"):
    """A chat model as the rules of a conversation see it: nothing is loaded."""
    cfg = SimpleNamespace(
        asked=sample.SamplePrompts(), drawing=sample.SampleSampling(max_new=max_new), chosen=sample.BestOf()
    )
    fields = dict.fromkeys(ChatModel._fields) | {
        "cfg": cfg,
        "template": load_template(template, ByteTokenizer()),
        "context": context,
        "process": (0, 1),
    }
    return ChatModel(**fields)


def test_a_full_context_drops_the_oldest_exchanges():
    messages = [turn for i in range(4) for turn in (user(f"question {i}"), assistant(f"answer {i}"))]
    messages.append(user("the last"))
    sizes = [len(chat_model(0).template.encode_prompt(messages[start:])) for start in range(0, 9, 2)]
    for context, dropped in ((sizes[0] + 8, 0), (sizes[0] + 7, 2), (sizes[2] + 9, 4), (sizes[4] + 1, 8)):
        prompt, count = chat.fit_conversation(chat_model(context), messages)
        assert count == dropped and list(prompt.messages) == messages[dropped:], context
        assert len(prompt.ids) == sizes[dropped // 2]
    assert chat.fit_conversation(chat_model(0), messages)[1] == 0
    with pytest.raises(
        ConfigError, match=f"the last turn: {sizes[4]} tokens leave no room .* context of {sizes[4]}"
    ):
        chat.fit_conversation(chat_model(sizes[4]), messages)


@pytest.mark.parametrize("stops", [(), ("wörld",), ("\n", "ö w"), ("zz", "h", "lo w")])
def test_streamed_text_is_the_whole_text_up_to_a_stop(stops):
    """However the tokens, here bytes, come in chunks: no half of a character, nothing of a stop."""
    tokenizer, rng = ByteTokenizer(), np.random.default_rng(0)
    text = "öh hellö wörld ☃ and\na snow☃"
    ids = tokenizer.encode([text])[0].tolist()
    wanted = min((text[: text.index(stop)] for stop in stops if stop in text), key=len, default=text)
    for _ in range(50):
        cuts = np.sort(rng.integers(0, len(ids) + 1, rng.integers(0, 12)))
        chunks = [part.tolist() for part in np.split(np.array(ids), cuts)]
        parts = list(chat.text_pieces(chunks, tokenizer.decode, stops))
        assert "".join(parts) == wanted and stop_strings.UNKNOWN not in "".join(parts)
    assert len(list(chat.text_pieces([[i] for i in ids], tokenizer.decode, ()))) > 20, (
        "it comes as soon as it can"
    )


def test_a_cut_character_is_shown_at_the_end():
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(["a☃"])[0].tolist()
    assert "".join(chat.text_pieces([ids[:2], ids[2:3]], tokenizer.decode, ())) == tokenizer.decode(ids[:3])


def with_scorer(best_of, samples=1):
    """A chat model whose completions are their seeds' last digits, and score them."""
    model = chat_model(0)

    def completions(prompts, seeds):
        digits = [seed % 10 for each in seeds for seed in each]
        return [SampledText(str(digit), [65 + digit], True, -1.0) for digit in digits]

    def scores(rows, prompts, texts):
        assert len(rows["tokens"]) == len(prompts) == len(texts) and len(texts) % 4 == 0
        return np.array([float(text) for text in texts])

    cfg = SimpleNamespace(**vars(model.cfg))
    cfg.chosen = sample.BestOf(best_of=best_of, reward="gold")
    cfg.drawing = sample.SampleSampling(samples=samples)
    return model._replace(cfg=cfg, sample=completions, scorer=CompletionScorer(scores, []), scorer_batch=4)


def test_the_best_of_several_completions_has_the_highest_score():
    model = with_scorer(best_of=5)
    prompts = [chat.chat_prompt(model, [user(f"question {i}")]) for i in range(3)]
    best = chat.answers(model, prompts)
    several = chat.answers(with_scorer(best_of=1, samples=5), prompts)
    assert [len(group) for group in several] == [5, 5, 5] and [len(group) for group in best] == [1, 1, 1]
    assert [one.score for (one,) in best] == [max(one.score for one in group) for group in several]
    assert chat.answers(model, prompts[1:], place=1) == best[1:], "a completion depends on its prompt's place"


def test_only_a_single_completion_that_nothing_scores_is_streamed():
    assert chat.can_stream(chat_model(0)) and not chat.can_stream(with_scorer(best_of=1))
    assert not chat.can_stream(chat_model(0)._replace(process=(0, 2)))
