"""Decontamination: documents that share n-grams with an evaluation set."""

import pytest

from jaxtrain.config import ConfigError
from tests.apps.filters import filtering
from tests.apps.filters.filtering import QUIET
from tests.data.corpus import write


def test_documents_that_share_words_with_an_evaluation_set_go(tmp_path):
    question = "Which of the great whales did the old captain of the ship hunt around the cape"
    evals = write(tmp_path / "eval.jsonl", [{"prompt": question, "answer": "x"}, {"prompt": "too short"}])
    texts = [
        "Some other text. " + question.upper().replace(" ", ", ") + "? The white one.",
        "Which of the great whales did the old captain of the ship see",
        "Nothing of the kind is said in this text about anything that is in the other one at all.",
    ]
    more = (f"--decontaminate={evals}", *QUIET)
    report, kept, lines = filtering.run(filtering.source(tmp_path, texts), tmp_path / "out", *more)
    assert [record["n"] for record in kept] == [1, 2]
    assert lines[0]["rule"] == "ngram_13" and lines[0]["score"] == len(question.split()) - 12
    assert texts[0][slice(*lines[0]["span"])].startswith("WHICH, OF, THE, GREAT")
    assert report["evals"] == {"documents": 2, "too_short": 1, "ngrams": len(question.split()) - 12}
    report, kept, _ = filtering.run(
        filtering.source(tmp_path, texts), tmp_path / "out8", *more, "--decontaminate_ngram=8"
    )
    assert [record["n"] for record in kept] == [2]
    with pytest.raises(
        ConfigError, match=r"none of its 2 documents has 50 words.*lower --decontaminate_ngram"
    ):
        filtering.run(filtering.source(tmp_path, texts), tmp_path / "no", *more, "--decontaminate_ngram=50")
