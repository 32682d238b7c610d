"""The charts of an on-policy run, from the lines of a metrics.jsonl."""

from jaxtrain.rl import curves

ROWS = [
    {"step": step, "objective/scores": step / 10, "objective/scores_capped": share, "objective/kl": 1.0}
    for step, share in enumerate((0.0, 0.25, 0.5), 1)
]


def test_a_share_is_drawn_in_percent_and_what_is_not_measured_has_no_chart():
    drawn = {chart["title"]: chart for chart in curves.charts(ROWS, best=2)}
    assert set(drawn) == {"Score of the trained reward", "KL from the reference", "Scores above the cap"}
    capped = drawn["Scores above the cap"]
    assert capped["units"] == ["% of the completions"] and capped["series"][0]["y"] == [0.0, 25.0, 50.0]
    assert drawn["KL from the reference"]["series"][0]["y"] == [1.0, 1.0, 1.0]
    assert [mark["label"] for mark in capped["marks"]] == ["best, step 2"]
    assert "Scores above the cap" in curves.page(list(drawn.values()), "a run")
