"""The ledger: every document is kept or listed, and precision and recall are exact."""

from tests.apps.filters import filtering


def test_every_document_is_kept_or_listed_with_its_reason(tmp_path):
    world = "tinytown:pretrain?documents=3000&originals=200&dup=.1&near_dup=.05&junk=.05&spam=.05&pii=.05"
    report, kept, lines = filtering.run(world, tmp_path / "out", "--shard=1100")
    assert report["read"] == 3000 and report["changed"] > 100
    assert {line["step"] for line in lines} >= {"junk", "pii", "spam", "exact", "near"}
    for line in lines:
        assert {"id", "action", "step", "rule", "score", "part", "span", "record"} <= set(line)
    masked = [line for line in lines if line["action"] == "mask"]
    assert all(
        line["record"]["planted"] in line["record"]["text"] for line in masked if line["record"]["planted"]
    )
    planted = {line["record"]["planted"] for line in masked} - {""}
    assert planted and not any(one in record["text"] for record in kept for one in planted)
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!")


def test_precision_and_recall_of_labelled_defects(tmp_path):
    """Exact, since the labels are. Near duplicates of this world are true ones, but by chance more than by plan."""
    world = "tinytown:pretrain?documents=6000&originals=400&dup=.1&near_dup=.05&junk=.05&spam=.05&pii=.05"
    report, _, _ = filtering.run(world, tmp_path / "out")
    measured = report["measured"]
    assert set(measured) == {"quality", "spam", "pii", "exact", "near"}
    for name, one in measured.items():
        assert one["labelled"] > 200, name
        least = 0.98 if name == "pii" else 0.95
        assert one["precision"] >= least and one["recall"] >= least, (name, one)
