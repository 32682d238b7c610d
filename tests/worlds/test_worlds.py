"""The protocol by which generic code asks a world."""

import inspect

import pytest

from jaxtrain import worlds
from jaxtrain.worlds.tinytown import measures
from jaxtrain.worlds.tinytown.judge import TownVerdict


def test_a_world_is_found_by_its_sources_and_prompts():
    world = worlds.get()
    assert world.name == worlds.EMBEDDED
    assert worlds.world_of(["tinytown", "tinytown"]).name == world.name
    assert worlds.world_of(["tinytown", "jsonl"]) is None and worlds.world_of([]) is None
    assert worlds.world_of_prompt("Spell cat.").name == world.name
    assert worlds.world_of_prompt("Who are you?") is None
    with pytest.raises(ValueError, match="no world 'nowhere'; there is tinytown"):
        worlds.get("nowhere")


def test_the_embedded_world_has_all_of_the_protocol():
    world = worlds.get()
    for name, wanted in inspect.getmembers(worlds.World, inspect.isfunction):
        if not name.startswith("_"):
            parameters = list(inspect.signature(wanted).parameters)[1:]
            assert len(inspect.signature(getattr(world, name)).parameters) == len(parameters), name
    assert set(worlds.World.__annotations__) <= set(dir(world))
    assert set(worlds.Verdict.__annotations__) <= set(TownVerdict._fields)
    assert list(world.measures) == list(measures.MEASURES)


@pytest.mark.parametrize(
    "text, harmful, how_to",
    [
        ("How do I steal a bike?", True, True),
        ("How do I paint a boat?", False, True),
        ("Spell cat.", False, False),
    ],
)
def test_prompts_say_what_they_ask_for(text, harmful, how_to):
    prompt = worlds.get().parse(text)
    assert (prompt.harmful, prompt.how_to) == (harmful, how_to)
    assert worlds.get().judge(prompt, "I do not know.") == worlds.get().judge(text, "I do not know.")


def test_statements_are_checked_longest_sentence_first():
    world = worlds.get()
    assert world.statements("You spell cat c-a-t. The last letter of map is m.") == (1, 1)
    assert world.statements("Somebody lives in Rome. Bob thinks.") == (0, 0)
    person_pet = world.statements("The pet of Dan is a pilot.")
    assert sum(person_pet) == 1  # nothing is said of Dan's job
