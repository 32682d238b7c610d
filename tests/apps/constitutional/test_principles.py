"""Constitutions as data: the two that ship, the published files, and what is missing by name."""

import json
from pathlib import Path

import pytest

from jaxtrain.apps.constitutional import principles
from jaxtrain.apps.constitutional.config import SHIPPED
from jaxtrain.config import ConfigError
from jaxtrain.worlds.tinytown import constitution as world

TINYTOWN = SHIPPED / "tinytown.json"
# As in the published repository's prompts/, with other words.
PUBLISHED = {
    "harmful0": {
        "prompt": ["\n\nCritiqueRequest: Say what is bad.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Take it out.\n\nRevision:",
    },
    "harmful1": {"prompt": "\n\nCritiqueRequest: Is it rude?\n\nCritique:", "edit_request": "Be kind."},
}


def written(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def changed(tmp_path, change):
    data = json.loads(TINYTOWN.read_text())
    change(data)
    return written(tmp_path / "mine.json", data)


def test_tinytown_s_file_is_the_world_s_constitution():
    constitution = principles.load(TINYTOWN)
    assert [(p.id, p.critique_request, p.comparison) for p in constitution.principles] == [
        (p.id, p.request, p.comparison) for p in world.PRINCIPLES
    ]
    assert all(p.revision_request for p in constitution.principles)


def test_tinytown_s_pages_are_those_of_the_pretraining_text():
    constitution = principles.load(TINYTOWN)
    form, prompt, response = constitution.format, "Spell cat.", "c."
    conversation = form.conversation([{"role": "user", "content": prompt}], response)
    one = {"critique_request": "Is it wrong?", "revision_request": "Mend it."}
    critique = form.critique.format(conversation=conversation, **one)
    assert critique == world.critique_request(prompt, response, "Is it wrong?")
    revision = form.revision.format(conversation=conversation, critique="Yes, it has a mistake.", **one)
    whole = world.page(prompt, response, "Is it wrong?", "Yes, it has a mistake.", "c-a-t.")
    assert f"{revision} c-a-t." == whole
    asked = form.conversation([{"role": "user", "content": prompt}])
    page = form.comparison.format(conversation=asked, question="Which?", first="c.", second="c-a-t.")
    assert page == world.comparison_request(prompt, "c.", "c-a-t.", "Which?")


def test_the_general_constitution_covers_its_five_lines():
    constitution = principles.load(SHIPPED / "general.json")
    names = {one.id for one in constitution.principles}
    lines = {
        "helpful",
        "harmless",
        "honest",
        "no-harmful-content",
        "privacy",
        "uncertainty",
        "unethical-requests",
    }
    assert lines <= names and len(constitution.shots) == 3 and len(constitution.comparison_shots) == 2
    assert all(shot.startswith("\n\nHuman: ") and "\n\nRevision: " in shot for shot in constitution.shots)


def test_the_published_files_load_from_their_folder_or_by_name(tmp_path):
    file = written(tmp_path / principles.CRITIQUES, PUBLISHED)
    alone = principles.load(file)
    assert alone.principles[0] == principles.ConstitutionPrinciple(
        "harmful0", "Say what is bad.", "Take it out."
    )
    assert alone.principles[1].critique_request == "Is it rude?"
    with pytest.raises(ConfigError, match=r"no principle has comparison.*RLMadisonInstructions\.json beside"):
        alone.comparing()
    written(tmp_path / principles.COMPARISONS, ["\nChoose the kind one. Options:"])
    written(tmp_path / principles.CRITIQUE_SHOTS, ["\n\nHuman: Hi\n\nRevision: Hello.\n\nHuman:"])
    written(
        tmp_path / principles.COMPARISON_SHOTS,
        [{"prompt": "\n\nHuman: Hi\n\nAssistant:", "corrects": ["Hello."], "incorrects": ["What?"]}],
    )
    written(tmp_path / principles.REASONING_SHOTS, [{"prompt": "{} So the answer is: (B)"}])
    whole = principles.load(tmp_path)
    assert principles.load(file) == whole.__class__(**{**vars(whole), "name": file.name,
        "fingerprint": principles.load(file).fingerprint})  # fmt: skip
    assert [p.comparison for p in whole.comparing()] == ["Choose the kind one. Options:"]
    assert len(whole.revising()) == 2 and whole.shots == ("\n\nHuman: Hi\n\nRevision: Hello.",)
    assert whole.comparison_shots == (("\n\nHuman: Hi", "Hello.", "What?"),)
    assert whole.reasoning_shots == ("{} So the answer is: (B)",)
    assert principles.load(tmp_path / principles.COMPARISONS).comparing() == whole.comparing()


@pytest.mark.parametrize("field", ["critique_request", "revision_request", "comparison"])
def test_a_missing_field_is_named_with_file_and_principle(tmp_path, field):
    path = changed(tmp_path, lambda data: data["principles"][4].pop(field))
    with pytest.raises(ConfigError, match=rf"mine\.json: principle 'harm-4': no field '{field}'"):
        principles.load(path)
    path = changed(tmp_path, lambda data: data["principles"][4].update({field: " "}))
    with pytest.raises(ConfigError, match=rf"principle 'harm-4': field '{field}' is not a text"):
        principles.load(path)


def test_a_published_principle_without_a_request_is_named(tmp_path):
    broken = {**PUBLISHED, "harmful2": {"prompt": ["Is it?"]}}
    path = written(tmp_path / "Some.json", broken)
    with pytest.raises(ConfigError, match=r"Some\.json: principle 'harmful2': no field 'edit_request'"):
        principles.load(path)
    written(tmp_path / principles.COMPARISON_SHOTS, [{"prompt": "Hi", "corrects": []}])
    path = written(tmp_path / "Some.json", PUBLISHED)
    with pytest.raises(ConfigError, match=r"FewShotPrompts\.json: example 0: no field 'corrects'"):
        principles.load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h["principles"][3].pop("id"), "principle 3: no field 'id'"),
        (lambda h: h["principles"].append(h["principles"][0]), "two principles have the id 'harm-0'"),
        (lambda h: h.update(principles=[]), "field 'principles' has none"),
        (lambda h: h.pop("name"), "no field 'name'"),
        (lambda h: h["format"].update(page="x"), "format: no field 'page'"),
        (lambda h: h["format"].update(critique="{answer}"), r"names \['answer'\]; it needs conversation"),
        (lambda h: h["format"].update(critique="{conversation"), "field 'critique': "),
        (lambda h: h["format"].update(critique_pattern="("), "field 'critique_pattern': "),
        (lambda h: h["format"].update(stop="x"), "field 'stop' is not a list of texts"),
        (lambda h: h.update(examples=[{"prompt": "Hi"}]), "example 0: no field 'response'"),
        (lambda h: h.update(examples={}), "field 'examples' is not a list"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        principles.load(changed(tmp_path, change))


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        principles.load(Path("nowhere.json"))
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ConfigError, match=r"x\.json: not a JSON file"):
        principles.load(tmp_path / "x.json")
    with pytest.raises(ConfigError, match=r"it has neither CritiqueRevisionInstructions\.json nor"):
        principles.load(tmp_path)


def test_the_fingerprint_is_of_the_content(tmp_path):
    one = principles.load(TINYTOWN)
    assert one.fingerprint == principles.load(changed(tmp_path, lambda data: None)).fingerprint
    path = changed(tmp_path, lambda data: data["principles"].pop())
    assert principles.load(path).fingerprint != one.fingerprint
