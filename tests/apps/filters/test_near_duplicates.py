"""Duplicates against the truth: brute force over all pairs, and planted edits of known size."""

import itertools
import random

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from jaxtrain.apps.filters import fingerprints, near_duplicates
from jaxtrain.apps.filters.near_duplicates import NearDuplicates
from jaxtrain.config import ConfigError
from tests.apps.filters.duplicates import WORDS, edited, find_copies, zipf_words
from tests.apps.filters.test_notices import HEADER


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.15, 0.2])
@pytest.mark.parametrize("length", [15, 150])
def test_planted_near_duplicates_are_found_and_nothing_else(tmp_path, share, length):
    rng = random.Random(int(share * 100) + length)
    originals = [zipf_words(rng, rng.randint(length // 2, length * 2)) for _ in range(300)]
    copies = [edited(rng, words, share) for words in originals[:150]]
    texts = [" ".join(words) for words in originals + copies]
    exact, leader = find_copies(tmp_path, texts, NearDuplicates())
    planted = np.arange(300, 450)
    got = np.where(exact[planted] >= 0, exact[planted], leader[planted])
    recall = (got == np.arange(150)).mean()
    flagged = (leader >= 0) | (exact >= 0)
    precision = flagged[planted].sum() / flagged.sum()
    assert recall >= 0.95 and precision >= 0.95, (recall, precision)


def test_against_all_pairs_of_a_world_of_templates(tmp_path):
    rng = random.Random(1)
    forms = [
        "the home of {} is {} and the pet is a {} as all know",
        "how do you {} a {} in the town of {} these days",
    ]
    texts = [rng.choice(forms).format(*rng.choices(WORDS[:40], k=3)) for _ in range(600)]
    exact, leader = find_copies(tmp_path, texts, NearDuplicates())
    kept, wrong, missed = [], 0, 0
    for i, words in enumerate(text.split() for text in texts):
        if exact[i] >= 0:
            assert texts[i] == texts[exact[i]] and exact[i] < i
            continue
        alike = any(Levenshtein.normalized_similarity(words, texts[k].split()) >= 0.8 for k in kept)
        wrong += leader[i] >= 0 and not alike
        missed += leader[i] < 0 and alike
        if leader[i] >= 0:
            assert leader[i] in kept, "the copy of a duplicate is one that stays"
        else:
            kept.append(i)
    dropped = (leader >= 0).sum()
    assert dropped > 50 and wrong == 0 and missed <= 0.05 * (dropped + missed)


def test_the_result_does_not_depend_on_shards(tmp_path):
    rng = random.Random(2)
    texts = [" ".join(zipf_words(rng, 40)) for _ in range(60)]
    texts += [" ".join(edited(rng, text.split(), 0.1)) for text in texts] + texts[:20] + ["", " ", "one"]
    one, three = (
        find_copies(tmp_path, texts, NearDuplicates()),
        find_copies(tmp_path, texts, NearDuplicates(), shards=3),
    )
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_bound_holds_for_any_edits():
    rng = random.Random(3)
    for _ in range(300):
        words = rng.sample(WORDS, rng.randint(20, 60))
        other = edited(rng, words, 0.2)
        sets = [set(itertools.pairwise(one)) for one in (words, other)]
        share = 1 - Levenshtein.normalized_similarity(words, other)
        jaccard = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        # Exact for texts of many words; a few shingles fewer than words move it a little.
        assert jaccard >= near_duplicates.min_jaccard(1 - share, 2) - 2 / len(words)


@pytest.mark.parametrize("similarity", [0.7, 0.8, 0.9, 0.95])
def test_the_bands_find_a_pair_at_the_threshold(similarity):
    settings = NearDuplicates(near_similarity=similarity)
    plan, J = near_duplicates.minhash_plan(settings), near_duplicates.min_jaccard(similarity, 2)
    assert (
        1 - (1 - J**plan.rows) ** plan.bands
        >= 0.97
        > 1 - (1 - J ** (plan.rows + 1)) ** (settings.near_hashes // (plan.rows + 1))
    )


def test_long_documents_are_judged_by_their_ngrams(monkeypatch):
    rng = random.Random(4)
    a = zipf_words(rng, 400)
    coded = [
        "".join(map(chr, fingerprints.encode_words([" ".join(x)])[0]))
        for x in (a, edited(rng, a, 0.05), zipf_words(rng, 400))
    ]
    monkeypatch.setattr(near_duplicates, "_MAX_EDIT_WORDS", 100)
    assert near_duplicates.similarity(coded[0], coded[1], NearDuplicates()) > 0.9
    assert near_duplicates.similarity(coded[0], coded[2], NearDuplicates()) == 0
    assert near_duplicates.similarity(coded[0], coded[0], NearDuplicates()) == 1


def test_records_of_one_form_with_other_numbers_are_no_duplicates(tmp_path):
    form = (
        "Weather report for {}. On Monday it was {} degrees by day and {} at night. The wind came from the north "
        "with {} kilometres an hour, and {} millimetres of rain were read at the gauge. "
        "The sun rose at {} and set at {}."
    )
    towns = ("Aldmouth", "Brackley", "Corran", "Dunmere")
    texts = [
        form.format(t, 11 + i, i - 3, 12 + 5 * i, 3 * i, f"6:1{i}", f"19:3{i}") for i, t in enumerate(towns)
    ]
    copy = texts[0].replace("Weather report", "A weather report").replace("6:10", "6:11")
    _, leader = find_copies(tmp_path, [*texts, copy], NearDuplicates())
    assert leader.tolist() == [-1, -1, -1, -1, 0]
    (tmp_path / "off").mkdir()
    _, leader = find_copies(tmp_path / "off", texts, NearDuplicates(near_numbers=0.0))
    assert (leader[1:] >= 0).all()
    with pytest.raises(ConfigError, match="--near_numbers"):
        NearDuplicates(near_numbers=1.5)


def test_files_of_one_licence_are_no_duplicates_by_it(tmp_path):
    codes = [
        "LIMIT = 40\nSTEP = 2\n",
        "def greet(name):\n    print('good day', name)\n",
        "class Gate:\n    open = False\n",
    ]
    texts = [HEADER + code for code in codes] + [HEADER.replace("Gate", "Door") + codes[1]]
    _, leader = find_copies(tmp_path, texts, NearDuplicates())
    assert leader.tolist() == [-1, -1, -1, 1], "the same code under another licence is a copy"


def test_a_threshold_that_leaves_no_shingle_is_refused():
    with pytest.raises(ConfigError, match=r"--near_ngram=5.*lower it"):
        NearDuplicates(near_ngram=5)


@pytest.mark.slow
def test_speed_against_datasketch_with_the_same_shingles_hashes_and_bands(tmp_path):
    """On 10,000 documents of 1 kB: 44 to 61 times its update a shingle, 7 to 15 (median 11) times that a document."""
    datasketch = pytest.importorskip("datasketch")
    import time

    rng, plan = random.Random(6), near_duplicates.minhash_plan(NearDuplicates())
    texts = [" ".join(zipf_words(rng, 250)) for _ in range(10_000)]
    began = time.process_time()
    find_copies(tmp_path, texts, NearDuplicates())
    ours = time.process_time() - began

    def theirs(update):
        index = datasketch.MinHashLSH(params=(plan.bands, plan.rows), num_perm=plan.hashes)
        began = time.process_time()
        for i, text in enumerate(texts[:400]):
            one = datasketch.MinHash(num_perm=plan.hashes)
            update(one, [" ".join(pair).encode() for pair in itertools.pairwise(text.split())])
            index.query(one)
            index.insert(str(i), one)
        return len(texts) / 400 * (time.process_time() - began)

    def each(one, shingles):
        for shingle in shingles:
            one.update(shingle)

    assert theirs(each) > 10 * ours and theirs(lambda one, shingles: one.update_batch(shingles)) > 5 * ours
