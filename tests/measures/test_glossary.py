"""The glossary: every measure of the world, and every target of the lifecycle, has a title and a meaning."""

from jaxtrain import worlds
from jaxtrain.apps.lifecycle import plan
from jaxtrain.measures import glossary


def test_every_measure_that_reports_show_is_explained():
    shown = {*worlds.get().measures, "gold", "alike"} | {
        claim.measure for step in plan.steps() for claim in step.claims
    }
    assert shown - {*glossary.MEASURES} == set()
    titles = [one.title for one in glossary.MEASURES.values()]
    assert len({*titles}) == len(titles) and all(
        one.meaning.endswith(".") for one in glossary.MEASURES.values()
    )


def test_what_is_not_listed_keeps_its_name():
    assert glossary.get("eval/x") == ("eval/x", "", False)
    assert list(glossary.used(["warn", "eval/x", "gold", "warn"])) == ["gold", "warn"]
