"""Token numbers, tokenizer files and model card of an export; the files as transformers reads them."""

import json

import numpy as np
import pytest

from jaxtrain.data import chat, dialogs
from jaxtrain.data.tokenizer import ByteTokenizer, load
from jaxtrain.models import zoo
from jaxtrain.stages import export_files, init_from
from tests import hf_folders

TURNS = [
    {"role": "user", "content": "Hello, <b>you</b>\n ok? é 日本"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Bye"},
]


def trained(start, template):
    """The model as a run under this template leaves it."""
    tokenizer = dialogs.with_template(start.tokenizer, chat.load_template(template, start.tokenizer))
    return start._replace(tokenizer=tokenizer)


def written(folder, start):
    """(token ids, tokenizer_config.json) of the export, whose tokenizer files stand in a folder then."""
    template = export_files.chat_template(start)
    folder.mkdir()
    for name, data in export_files.tokenizer_files(start.tokenizer, template).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    return export_files.token_ids(start, template), config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model: its eos ends documents, and it has no template."""
    return hf_folders.write(tmp_path_factory.mktemp("base") / "hf", roles=hf_folders.BASE, template=None)


def test_the_end_of_a_chat_models_template_is_its_eos_in_all_files(base, tmp_path):
    ids, config = written(tmp_path / "out", trained(init_from.load_run(f"hf:{base}"), "chatml"))
    assert ids == {"bos": 256, "eos": 258, "pad": 256}
    assert config["eos_token"] == "<|im_end|>" and config["bos_token"] == "<|endoftext|>"


def test_further_ends_of_the_model_that_it_came_from_stay(tmp_path):
    folder = hf_folders.write(
        tmp_path / "hf", roles=hf_folders.BASE, template=None, generation={"eos_token_id": [256, 258]}
    )
    start = init_from.load_run(f"hf:{folder}")
    assert written(tmp_path / "base", start)[0]["eos"] == [256, 258]
    assert written(tmp_path / "chat", trained(start, "chatml"))[0]["eos"] == [258, 256]


def test_a_template_that_writes_eos_token_keeps_its_meaning(base, tmp_path):
    start = init_from.load_run(f"hf:{base}")
    source = "{{ eos_token }}" + hf_folders.CHATML
    (tmp_path / "t.jinja").write_text(source)
    ids, config = written(tmp_path / "out", trained(start, str(tmp_path / "t.jinja")))
    assert ids["eos"] == 258 and config["eos_token"] == "<|endoftext|>"


def test_a_model_without_a_bos_stays_without_one(tmp_path):
    start = init_from.load_run(f"hf:{hf_folders.write(tmp_path / 'hf')}")
    ids, config = written(tmp_path / "out", start)
    assert ids == {"bos": None, "eos": 258, "pad": 256}
    assert config["bos_token"] is None and config["pad_token"] == "<|endoftext|>"


def test_the_tokenizer_comes_back_the_same(base, tmp_path):
    start = trained(init_from.load_run(f"hf:{base}"), "chatml")
    written(tmp_path / "out", start)
    again = load(tmp_path / "out")
    assert again.fingerprint == start.tokenizer.fingerprint
    assert again.chat_template == start.tokenizer.chat_template


def byte_start():
    return trained(init_from.InitFrom(zoo.ZOO["nano"], ByteTokenizer(), {}), "plain")


@pytest.mark.parametrize("kind", ["bytes", "chatml", "eos_token"])
def test_transformers_tokenises_conversations_as_we_do(kind, base, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "t.jinja").write_text("{{ eos_token }}" + hf_folders.CHATML)
    start = {
        "bytes": byte_start,
        "chatml": lambda: trained(init_from.load_run(f"hf:{base}"), "chatml"),
        "eos_token": lambda: trained(init_from.load_run(f"hf:{base}"), str(tmp_path / "t.jinja")),
    }[kind]()
    ids, _ = written(tmp_path / "out", start)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    found = theirs.apply_chat_template(TURNS, add_generation_prompt=True, tokenize=True, return_dict=False)
    wanted = export_files.chat_template(start).encode_prompt(TURNS)
    np.testing.assert_array_equal(found, wanted)
    assert theirs.pad_token_id == ids["pad"] and theirs.bos_token_id == ids["bos"]
    text = "Any text: é 日本, \t tabs\n and <|im_end|x"
    assert theirs(text, add_special_tokens=False)["input_ids"] == start.tokenizer.encode([text])[0].tolist()
    assert theirs.decode(start.tokenizer.encode([text])[0]) == text


def test_the_card_names_what_the_model_came_from_and_no_folder_of_this_machine(tmp_path):
    run = tmp_path / "runs/sft"
    run.mkdir(parents=True)
    record = {
        "stage": "sft", "data": None, "resumed": [],
        "config": {"data": {"data": f"jsonl:{tmp_path}/private/chats.jsonl*0.5,tinytown:sft*0.5"}},
    }  # fmt: skip
    (run / "config.json").write_text(json.dumps(record))
    lineage = {
        "run": str(run), "stage": "sft", "step": 30,
        "parent": {"origin": f"{tmp_path}/runs/base@9", "parent": {"run": None, "origin": "hf:org/base@abc"}},
    }  # fmt: skip
    start = init_from.InitFrom(zoo.ZOO["nano"], None, lineage)
    assert export_files.base_model(start) == ("org/base", "abc")
    card = export_files.model_card(start, "mine").decode()
    assert "base_model: org/base\n" in card and "# mine" in card and "library_name: transformers" in card
    assert "- Run: sft, step 30" in card and "- Stage: sft" in card and "- Licence: unknown" in card
    assert "- Data: jsonl:chats.jsonl*0.5,tinytown:sft*0.5" in card and str(tmp_path) not in card
    local = start._replace(
        lineage={"run": None, "stage": "hf", "step": None, "origin": f"hf:{tmp_path}/model"}
    )
    assert export_files.base_model(local) == (f"{tmp_path}/model", "")
    card = export_files.model_card(local, "mine", adapter_of=f"{tmp_path}/model").decode()
    assert "- Base model: model\n" in card and "base_model:" not in card and "library_name: peft" in card
