"""Advice on a filter's report: where most documents are rejected, and where many are near duplicates."""

from jaxtrain.apps.filters import advice


def report(read=100, rejected=0, **dropped):
    steps = {name: {"seen": read, "dropped": count} for name, count in {"read": 0, **dropped}.items()}
    return {"read": read, "rejected": rejected, "steps": steps}


def test_most_documents_rejected_names_the_step_that_does_it():
    (said,) = advice.sentences(report(rejected=67, exact=60, spam=7))
    assert "67 of 100 documents (67 %)" in said and "60, by the step exact" in said
    assert advice.sentences(report(rejected=50, exact=50)) == [] == advice.sentences(report(read=0))
    (unread,) = advice.sentences({**report(rejected=90), "steps": {"read": {"seen": 100, "dropped": 90}}})
    assert "cannot be read" in unread


def test_many_near_duplicates_may_share_a_form():
    (said,) = advice.sentences(report(rejected=30, near=30))
    assert said.startswith("The step near drops 30 %") and "--near_similarity" in said
    assert len(advice.sentences(report(rejected=60, near=60))) == 2
