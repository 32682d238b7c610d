import math
import re
import time
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from jaxtrain.worlds.tinytown import documents as docs
from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.configs import Pretrain
from jaxtrain.worlds.tinytown.documents import compose, document, documents
from jaxtrain.worlds.tinytown.draws import draws, outcomes, stream
from jaxtrain.worlds.tinytown.prompts import pair_held_out, space, sum_held_out

CLEAN = Pretrain()


@pytest.fixture(scope="module")
def corpus():
    return list(documents(CLEAN, 0, 0, 40_000))


def total_probability(logps):
    return math.fsum(math.exp(logp) for logp in logps)


def assert_exact(generate):
    """Probabilities sum to one and no text has two derivations; returns them by text."""
    by_text = {}
    for text, logp in outcomes(generate):
        assert text not in by_text, f"two derivations of {text!r}"
        by_text[text] = logp
    assert total_probability(by_text.values()) == pytest.approx(1.0, abs=1e-9)
    return by_text


def test_whole_grammar_is_exact_and_is_what_is_sampled(small_world):
    exact = assert_exact(lambda rng: compose(rng, small_world, "plain")[0])
    n = 30_000
    counts = Counter()
    for rng in draws(stream(0, "test", "small"), 0, n):
        text, _ = compose(rng, small_world, "plain")
        assert rng.logp == pytest.approx(exact[text], abs=1e-9)
        counts[text] += 1
    frequent = {text: n * math.exp(logp) for text, logp in exact.items() if n * math.exp(logp) >= 8}
    chi2 = sum((counts[text] - expected) ** 2 / expected for text, expected in frequent.items())
    assert len(frequent) > 200
    assert chi2 == pytest.approx(len(frequent), abs=5 * math.sqrt(2 * len(frequent)))


@pytest.mark.parametrize("maker", [docs._person, docs._recipe, docs._crime, docs._care])
@pytest.mark.parametrize("test", [False, True])
def test_prose_of_the_full_lexicon_is_exact(maker, test):
    assert len(assert_exact(lambda rng: maker(rng, space(9, test)))) > 50


def test_forum_answers_of_the_full_lexicon_are_exact():
    whole = space()
    few = replace(whole, prompts={family: found[::141] for family, found in whole.prompts.items()})
    exact = assert_exact(lambda rng: docs.forum(rng, few, "plain"))
    assert len(exact) > 50_000


def test_equal_texts_are_as_frequent_as_their_probability_says(corpus):
    """Σp², estimated by the mean of p, predicts how often two documents agree."""
    logp_of = {}
    for made in corpus:
        assert made.logp == pytest.approx(logp_of.setdefault(made.text, made.logp), abs=1e-9)
    pairs = sum(c * (c - 1) / 2 for c in Counter(made.text for made in corpus).values())
    n = len(corpus)
    predicted = n * (n - 1) / 2 * math.fsum(math.exp(made.logp) for made in corpus) / n
    assert pairs == pytest.approx(predicted, rel=0.05)


def test_document_depends_on_seed_and_index_alone(corpus):
    for i in (0, 1, 255, 256, 39_999):
        assert document(CLEAN, 0, i) == corpus[i]
    assert list(documents(CLEAN, 0, 300, 310)) == corpus[300:310]
    assert document(CLEAN, 1, 0) != corpus[0]
    assert document(CLEAN, 0, 0, "validation") != corpus[0]
    assert document(replace(CLEAN, documents=7, held_out=3), 0, 12_345) == corpus[12_345]


def test_mixture_is_as_described(corpus):
    n = len(corpus)
    kinds = Counter(made.kind for made in corpus)
    for name, (share, _) in docs.KINDS.items():
        assert kinds[name] / n == pytest.approx(share, abs=0.01)
    pages = [made.text for made in corpus if made.kind == "critique"]
    assert sum("\nRevision: " in text for text in pages) == len(pages)
    faulty = sum(bool(re.search(r"\nCritic: [^?]*\? Yes", text)) for text in pages) / len(pages)
    assert 0.6 <= faulty <= 0.7
    letters = Counter(made.text[-2:] for made in corpus if made.kind == "comparison")
    assert set(letters) == {"A)", "B)"}
    assert letters["A)"] / kinds["comparison"] == pytest.approx(0.5, abs=0.05)
    assert 0.05 <= kinds["comparison"] / n <= 0.10
    assert any(re.fullmatch(r"(To|Do not) steal .*: it is theft\.|To steal .*", made.text) for made in corpus)


_FORMS = {form: name for name, verb in lex.VERBS.items() for form in verb.forms}
_PAIR = re.compile(rf"\b({'|'.join(_FORMS)}) a ({'|'.join(lex.OBJECTS)})\b")
_SUM = re.compile(r"(\d+) (?:\+|plus|and) (\d+)")


def shown(made):
    texts = [document.text for document in made]
    pairs = {(_FORMS[v], o) for text in texts for v, o in _PAIR.findall(text)}
    sums = {(int(a), int(b)) for text in texts for a, b in _SUM.findall(text)}
    return pairs, sums


def test_held_out_pairs_and_sums_are_in_test_alone(corpus):
    all_pairs, all_sums = set(product(lex.VERBS, lex.OBJECTS)), set(product(range(10), repeat=2))
    held_pairs = {pair for pair in all_pairs if pair_held_out(*pair)}
    held_sums = {pair for pair in all_sums if sum_held_out(*pair)}
    assert len(held_pairs) == len(all_pairs) // 8
    pairs, sums = shown(corpus)
    assert (pairs, sums) == (all_pairs - held_pairs, all_sums - held_sums)
    pairs, sums = shown(documents(CLEAN, 0, 0, 10_000, "test"))
    assert (pairs, sums) == (held_pairs, held_sums)
    pairs, _ = shown(documents(CLEAN, 0, 0, 10_000, "validation"))
    assert not pairs & held_pairs


def test_turns_and_sums_are_options():
    made = list(documents(Pretrain(turns="hh", sums=19), 0, 0, 3_000))
    assert not any("AI: " in d.text for d in made)
    assert any("\n\nHuman: " in d.text and "\n\nAssistant: " in d.text for d in made)
    _, sums = shown(made)
    assert max(max(pair) for pair in sums) == 19


@pytest.mark.slow
def test_a_million_documents_take_under_a_minute_of_cpu_time():
    begin = time.process_time()
    count = sum(1 for _ in documents(CLEAN, 0, 0, 1_000_000))
    assert count == 1_000_000
    assert time.process_time() - begin < 60
