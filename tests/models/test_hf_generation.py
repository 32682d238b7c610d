"""generation_config.json: the ends of a completion, and the rest as it was."""

import json

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.models import hf_generation


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def write(folder, name, value):
    (folder / f"{name}.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [258, 256, 258]}, {}, [258, 256]),
        ({"eos_token_id": 7}, {"eos_token_id": 9}, [7]),  # one id of config.json is the tokenizer's
        ({}, {"eos_token_id": [3, 4]}, [3, 4]),
        (None, {"text_config": {"eos_token_id": [1, 106]}, "eos_token_id": [9]}, [1, 106]),
        ({"eos_token_id": [1]}, {"eos_token_id": [1, 106]}, [1, 106]),
        ({"eos_token_id": None}, {"eos_token_id": None}, None),
        (None, {"eos_token_id": 2}, None),
    ],
)
def test_the_ends_are_those_of_both_files(generation, config, ends, folder):
    write(folder, "config", config)
    if generation is not None:
        write(folder, "generation_config", generation)
    assert hf_generation.read(folder).get("eos_token_id") == ends


def test_the_rest_is_kept_and_what_a_writer_says_of_itself_is_not(folder):
    given = {
        "temperature": 0.6,
        "top_p": 0.9,
        "max_length": None,
        "transformers_version": "5.0",
        "bos_token_id": 1,
    }
    write(folder, "generation_config", given | {"_from_model_config": True, "eos_token_id": [2]})
    read = hf_generation.read(folder)
    assert read == {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [2]}
    written = hf_generation.write(read, {"bos": None, "eos": hf_generation.end_value((5, 2)), "pad": 0})
    assert written == {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [5, 2], "pad_token_id": 0}
    assert hf_generation.end_value((5,)) == 5 and hf_generation.end_value(()) is None


@pytest.mark.parametrize("value", ["</s>", [1, "2"], True, 1.5])
def test_what_is_no_token_is_refused_with_its_file(value, folder):
    write(folder, "generation_config", {"eos_token_id": value})
    with pytest.raises(ConfigError, match=r"generation_config\.json: eos_token_id=.*token's number"):
        hf_generation.read(folder)
