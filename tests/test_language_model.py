"""The Python interface: a run loaded once chats, samples, scores, judges and evaluates as the commands do."""

import math
import subprocess
import sys

import numpy as np
import openai
import pytest

from jaxtrain.inference.llm import REFUSED, Completion
from tests.runs import ROOT, call, quick

QUESTION = "How do I paint a boat?"


@pytest.fixture(scope="module")
def model(town):
    import jaxtrain

    with quick():
        return jaxtrain.load(str(town / "sft"), cache_dir=str(town.folder / "cache"))


def test_import_is_light_and_names_are_there():
    code = (
        "import sys, jaxtrain; assert dir(jaxtrain); "
        "print(sorted({'jax', 'numpy', 'absl', 'rich'} & {name.split('.')[0] for name in sys.modules})); "
        "import jaxtrain.language_model as door; assert jaxtrain.load is door.load"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    import jaxtrain

    with pytest.raises(AttributeError, match="no attribute 'loads'"):
        jaxtrain.loads  # noqa: B018
    assert not hasattr(jaxtrain, "__wrapped__")


def test_chat_is_what_the_command_prints(town, model):
    with quick():
        answer = model.chat(QUESTION, temperature=0.0, max_new=24)
        flags = (f"--init_from={town / 'sft'}", f"--prompt={QUESTION}", "--temperature=0", "--max_new=24")
        said = call("sample", *flags, town.cache)
        assert answer and answer == said.strip()
        messages = [{"role": "user", "content": QUESTION}]
        assert model.chat(messages, temperature=0.0, max_new=24) == answer
        longer = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": "Why?"}]
        turned = [model.sample([each], temperature=0.0, max_new=24)[0][0].text for each in (messages, longer)]
        assert turned[0].strip() == answer


def test_sampling_depends_on_seed_and_place_alone(model):
    with quick():
        (first, second), (third, _) = model.sample([QUESTION, QUESTION], samples=2, max_new=12, seed=3)
        again = model.sample([QUESTION], samples=2, max_new=12, seed=3)
        stopped = model.sample([QUESTION], max_new=12, seed=3, stop=first.text[2:4])
    assert again == [[first, second]]
    assert first != second and first != third
    assert stopped[0][0].text == first.text[: first.text.find(first.text[2:4])]
    assert model.sample([]) == []


def test_logprobs_are_those_of_sampling(model):
    with quick():
        sampled = model.sample([QUESTION], samples=8, max_new=24, temperature=0.4, top_logprobs=1)[0]
        ended = [one for one in sampled if one.finish_reason == "stop" and "\ufffd" not in one.text]
        pairs = [(one, model.logprobs(QUESTION, one.text)) for one in ended]
    # A model may sample another tokenization of a text than the tokenizer's.
    one, scored = next(
        (one, s) for one, s in pairs if [t.token for t in s] == [t.token for t in one.logprobs]
    )
    np.testing.assert_allclose(
        [each.logprob for each in scored], [each.logprob for each in one.logprobs], atol=1e-4
    )


def test_a_document_has_the_bits_of_its_tokens(model):
    text = "Q: How do I wash a bike?\nA: Just wipe the bike."
    with quick():
        tokens, bits = model.logprobs(text), model.bits_per_byte(text)
        end = model.loaded.source.tokenizer.eos
        rows = model.llm().local.logps([model._document(text), (model._document(text)[0], np.array([end]))])
    assert "".join(one.token for one in tokens) == text
    assert math.isclose(sum(one.logprob for one in tokens), float(rows[0][0].sum()), rel_tol=1e-5)
    nats = -sum(one.logprob for one in tokens)
    assert 0 < nats / math.log(2) / len(text) < bits, "the end of the document costs bits, too"


def test_a_judge_gives_scores(model, monkeypatch):
    llm, prompts = model.llm(512), []

    def generate(requests):
        prompts.extend(request.messages[0]["content"] for request in requests)
        return [
            [Completion("Score: 7" if "A good answer" in prompts[-1] else "no idea", "stop")]
            for _ in requests
        ]

    scripted = llm._replace(chat=True, generate=generate)
    monkeypatch.setattr(model, "llm", lambda max_new=256: scripted)
    assert model.judge(QUESTION, ["A good answer."], rubric="Is it good?") == [7.0]
    assert model.judge(QUESTION, ["A bad answer."], rubric="Is it short?") == [None]
    assert QUESTION in prompts[0] and "A good answer." in prompts[0] and "Is it good?" in prompts[0]


def test_evaluation_is_that_of_the_command(town, model):
    with quick():
        result = model.evaluate(
            [str(town / "base")], prompt_count=4, max_new=8, topics="", harmful="", cache_dir=str(town / "cache")
        )  # fmt: skip
    assert [one["label"] for one in result["models"]] == ["sft", "base"]
    assert result["judge"] == "gold" and result["prompts"]["count"] == 4
    assert set(result["measures"]) == {"sft", "base"} and 0 <= result["measures"]["base"]["ended"] <= 1
    answers = [row["answers"] for row in result["answers"]]
    assert len(answers) == 4 and all(len(each) == 2 for each in answers) and answers[0][0] != answers[0][1]


def test_it_serves_what_it_chats(town, model):
    with quick(), model.serve(port=0, context=64, rows=1, name="boats") as server:
        with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            assert [one.id for one in client.models.list()] == ["boats"]
            reply = client.chat.completions.create(
                model="boats", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=12
            )  # fmt: skip
        assert reply.choices[0].message.content.strip() == model.chat(QUESTION, temperature=0.0, max_new=12)
        port = int(server.url.split(":")[2].split("/")[0])
        with pytest.raises(ValueError, match=rf"^host=127\.0\.0\.1 port={port}: "):
            model.serve(port=port)
    assert not (town / "runs").exists()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m: m.chat(QUESTION, temperatur=0.5), r"temperatur: no option .*did you mean temperature\?"),
        (lambda m: m.chat(QUESTION, temperature=-1.0), r"^temperature=-1\.0: must be at least 0"),
        (lambda m: m.chat(QUESTION, max_new=0), r"^max_new=0: must be at least 1"),
        (lambda m: m.chat(QUESTION, samples=2), "^samples: chat returns one answer"),
        (lambda m: m.chat([{"role": "wizard", "content": "x"}]), "^prompt: unknown role"),
        (lambda m: m.sample(QUESTION), r"^prompts: a list of prompts"),
        (lambda m: m.sample([QUESTION], samples=0), "^samples=0"),
        (lambda m: m.sample([QUESTION], stop=("",)), "^stop: an empty text"),
        (lambda m: m.logprobs([{"role": "user", "content": "x"}]), "^completion: "),
        (lambda m: m.judge(QUESTION, ["x"], votes=2, judge_temperature=0.0), "^judge_temperature=0: 2 votes"),
        (lambda m: m.evaluate(prompt_cont=3), r"^prompt_cont: .*prompt_count"),
        (lambda m: m.serve(rows=0), "^rows=0: must be at least 1"),
        (lambda m: m.evaluate([m.name]), "^models=.*named twice"),
    ],
)
def test_wrong_arguments_are_named(model, use, message):
    with pytest.raises(ValueError, match=message):
        use(model)


def test_what_cannot_be_loaded_is_named(town):
    import jaxtrain

    with pytest.raises(ValueError, match=r"^name=.*nowhere"):
        jaxtrain.load(str(town / "nowhere"))
    with pytest.raises(ValueError, match=r"^dtype=float8: choose one of"):
        jaxtrain.load(str(town / "sft"), dtype="float8")


def test_a_prompt_that_fills_the_context_is_refused(model, monkeypatch):
    full = model.llm()._replace(
        generate=lambda requests: [[Completion("", REFUSED)] * one.samples for one in requests]
    )
    monkeypatch.setattr(model, "llm", lambda max_new=256: full)
    assert model.sample([QUESTION])[0][0].finish_reason == REFUSED
    with pytest.raises(ValueError, match=r"^prompt: its tokens fill the context"):
        model.chat(QUESTION)
