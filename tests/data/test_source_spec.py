"""What --data and --tokenizer may say."""

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from jaxtrain.config import ConfigError, Corpus
from jaxtrain.data import source_spec
from jaxtrain.data.source_spec import DataSource


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("tinytown:pretrain", [DataSource("tinytown", "pretrain")]),
        (
            "tinytown:pretrain?documents=1000&seed=1*0.5",
            [DataSource("tinytown", "pretrain", "", (("documents", "1000"), ("seed", "1")), 0.5)],
        ),
        (
            "tfds:a*0.7,jsonl:b*0.3",
            [DataSource("tfds", "a", weight=0.7), DataSource("jsonl", "b", weight=0.3)],
        ),
        ("tfds:wiki40b/en:1.3.0:train[:50%]", [DataSource("tfds", "wiki40b/en:1.3.0", "train[:50%]")]),
        ("tfds:wiki40b/en:1.3.0", [DataSource("tfds", "wiki40b/en:1.3.0")]),
        ("tfds:a:train+test[10%:]", [DataSource("tfds", "a", "train+test[10%:]")]),
        (
            "hf:org/name:validation?config=en",
            [DataSource("hf", "org/name", "validation", (("config", "en"),))],
        ),
        ("jsonl:a,b.jsonl,hf:c", [DataSource("jsonl", "a,b.jsonl"), DataSource("hf", "c")]),
        ("jsonl:d/part?[0-9]*.jsonl.gz*2", [DataSource("jsonl", "d/part?[0-9]*.jsonl.gz", weight=2.0)]),
        ("jsonl:d/*", [DataSource("jsonl", "d/*")]),
        ("jsonl:a:b.jsonl", [DataSource("jsonl", "a:b.jsonl")]),
        ("jsonl:a.jsonl:train[:90%]", [DataSource("jsonl", "a.jsonl", "train[:90%]")]),
        (
            'jsonl:"/d/what? a=b, c.jsonl",hf:d',
            [DataSource("jsonl", "/d/what? a=b, c.jsonl", quoted=True), DataSource("hf", "d")],
        ),
        (
            r'store:"a,jsonl:\"b\\c*2":train[:50%]?model="x&y?"*.5',
            [DataSource("store", r'a,jsonl:"b\c*2', "train[:50%]", (("model", "x&y?"),), 0.5, quoted=True)],
        ),
        ('jsonl:a"b"c.jsonl', [DataSource("jsonl", 'a"b"c.jsonl')]),
        ("jsonl:a.jsonl?field=body*.5", [DataSource("jsonl", "a.jsonl", "", (("field", "body"),), 0.5)]),
    ],
)
def test_parse(text, sources):
    assert source_spec.parse(text) == tuple(sources)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("tinytow:pretrain", "did you mean tinytown:"),
        ("pretrain", "write KIND:NAME"),
        ("jsonl:", "write KIND:NAME"),
        ("tfds:?data_dir=x", "no name after tfds:"),
        ("jsonl:a.jsonl,parquet:b", "parquet:b: write KIND:NAME"),
        ("tfds:a*0", "must be a number above 0"),
        ("tfds:a*-1", "must be a number above 0"),
        ("tfds:a*nan", "must be a number above 0"),
        ("tfds:a*inf", "must be a number above 0"),
        ("tfds:a*many", "must be a number above 0"),
        ("jsonl:a.jsonl*0", "must be a number above 0"),
        ("tfds:a:train[:half]", "is not a split"),
        ("hf:a?split=train", "hf has no option 'split'; it has config, field"),
        ("tfds:a?field", "write options as"),
        ('jsonl:"a.jsonl', "the quote after jsonl: has no end"),
        ('jsonl:"a".jsonl', "after the closing quote only :SPLIT"),
        ("jsonl:a?b=c.jsonl", 'between double quotes, such as jsonl:"a?b=c.jsonl"'),
        ("tfds:a?field=x&field=y", "each key once"),
    ],
)
def test_a_wrong_spec_names_the_flag_and_the_remedy(text, says):
    with pytest.raises(ConfigError, match="--data") as error:
        source_spec.parse(text)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": "tinytown:pretrian"}, "pretrain, sft"),
        ({"data": "tinytown:pretrain?documets=5"}, "documents"),
        ({"data": "tinytown:pretrain?documents=many"}, "takes int"),
        ({"data": "tinytown:pretrain:dev"}, "train, validation, test"),
        ({"data": "jsonl:nowhere/*.jsonl"}, "no file matches 'nowhere/*.jsonl'"),
        ({"data": "tinytown:pretrain", "eval_data": "jsonl:nowhere.jsonl"}, "--eval_data: no file"),
        ({"eval_data": "tinytown:sft*2"}, "leave out the weight"),
        ({"data": "tfds:imdb_review"}, "did you mean imdb_reviews"),
        ({"data": "tfds:/nowhere/at/all"}, "dataset_info.json"),
        ({"tokenizer": "bpe:20"}, "300 or more"),
        ({"tokenizer": "bpe:lots"}, "300 or more"),
        ({"tokenizer": "words"}, "write byte, bpe:SIZE"),
        ({"tokenizer": ""}, "write byte, bpe:SIZE"),
    ],
)
def test_what_cannot_be_is_refused_at_once(changes, says):
    start = time.perf_counter()
    with pytest.raises(ConfigError) as error:
        source_spec.check(dataclasses.replace(Corpus(), **changes))
    assert says in str(error.value) and str(error.value).startswith("--")
    assert "tfds" in changes.get("data", "") or time.perf_counter() - start < 0.5


def test_a_folder_or_another_file_is_no_data_and_no_tokenizer(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"is a folder: name its files, .*/\*\.jsonl"):
        source_spec.check(Corpus(data=f"jsonl:{tmp_path}"))
    with pytest.raises(ConfigError, match=r"holds no tokenizer\.json"):
        source_spec.check(Corpus(tokenizer=str(tmp_path)))
    with pytest.raises(ConfigError, match="neither a"):
        source_spec.check(Corpus(tokenizer=str(tmp_path / "notes.txt")))


def test_a_missing_extra_is_named(tmp_path):
    # A fresh interpreter that cannot see the optional packages, whether or not they are installed here.
    (tmp_path / "m.model").write_bytes(b"")
    code = f"""
import importlib.util as util
real = util.find_spec
util.find_spec = lambda name, *rest: None if name in ("datasets", "sentencepiece") else real(name, *rest)
from jaxtrain.config import ConfigError, Corpus
from jaxtrain.data import source_spec
for changes in ({{"data": "hf:wikitext"}}, {{"tokenizer": {str(tmp_path / "m.model")!r}}}):
    try:
        source_spec.check(Corpus(**changes))
    except ConfigError as error:
        print(error)
"""
    lines = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(lines) == 2
    assert "--data=hf:wikitext" in lines[0] and "pip install 'jaxtrain[hf]'" in lines[0]
    assert "--tokenizer=" in lines[1] and "pip install 'jaxtrain[hf]'" in lines[1]


def test_checking_imports_nothing_heavy():
    code = """
import sys
from jaxtrain.config import Corpus
from jaxtrain.data import source_spec
source_spec.check(Corpus())
print([m for m in ("numpy", "jax", "grain", "tensorflow_datasets", "tokenizers") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_globs_are_sorted_and_exact_names_win(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c[1].jsonl"):
        (tmp_path / name).write_text("{}\n")
    found = source_spec.files(DataSource("jsonl", f"{tmp_path}/?.jsonl"))
    assert [path.name for path in found] == ["a.jsonl", "b.jsonl"]
    assert [path.name for path in source_spec.files(DataSource("jsonl", f"{tmp_path}/c[1].jsonl"))] == [
        "c[1].jsonl"
    ]


ODD = (
    "a?b=c.jsonl", "a,b:c.jsonl", "a, jsonl:x.jsonl", "w*0.5", "[1].jsonl", "what? a=b, c.jsonl", "#x", r'q"uo\te"',
    "a:train", "x%20y.jsonl", " lead", "ü é.jsonl", "{a}$b;&'c'.jsonl", "~x",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", source_spec.FILES)
def test_any_path_can_be_named_and_its_label_names_it_again(tmp_path, kind, name):
    path = tmp_path / name
    path.write_text('{"text": "x"}\n')
    text = source_spec.of_path(kind, path)
    for rest, changes in (("", {}), (":train[:9%]?field=b*2", {"split": "train[:9%]", "weight": 2.0})):
        (source,) = source_spec.parse(text + rest)
        assert (source.name, source.path_label) == (str(path), text)
        assert dataclasses.replace(source, options=()) == dataclasses.replace(
            source_spec.parse(text)[0], **changes
        )
        assert source_spec.parse(source.label)[0].label == source.label
        assert source_spec.files(source) == [path]
    both = f"{text},tinytown:pretrain*2,{text}*3"
    assert [one.name for one in source_spec.parse(both)] == [str(path), "pretrain", str(path)]


def test_quotes_are_written_only_where_they_are_needed():
    assert source_spec.of_path("jsonl", "/a b/c-1.2_~+@%.jsonl") == "jsonl:/a b/c-1.2_~+@%.jsonl"
    assert source_spec.of_path("jsonl", 'a"\\?') == r'jsonl:"a\"\\?"'


def test_a_quoted_path_is_no_pattern(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="no file matches"):
        source_spec.files(source_spec.parse(f'jsonl:"{tmp_path}/*.jsonl"')[0])
    with pytest.raises(ConfigError, match=r'between double quotes: jsonl:".*what\? x"'):
        source_spec.files(source_spec.parse(f"jsonl:{tmp_path}/what? x")[0])


def test_what_is_no_regular_file_is_said(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.parquet").write_text("")
    for name, says in (
        ("pipe", "is a pipe or a device, and data are read several times"),
        ("link", "is a link to a file that is not there"),
        ("folder", r"is a folder: name its files, jsonl:.*folder/\*\.parquet"),
    ):
        with pytest.raises(ConfigError, match=says):
            source_spec.check(Corpus(data=f"jsonl:{tmp_path}/{name}"))


def test_a_file_of_another_kind_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"%PDF-1.7\n")
    with pytest.raises(ConfigError, match=r"--eval_data: .*/a\.jsonl: a PDF document; extract its text"):
        source_spec.check(Corpus(eval_data=f"jsonl:{tmp_path}/a.jsonl"))


@pytest.mark.parametrize(
    ("name", "hint"), [("mine.jsonl", "jsonl:{}"), ("mine.txt", "name that file, jsonl:FILE")]
)
def test_a_path_without_a_kind_is_told_how_files_are_named(tmp_path, name, hint):
    file = tmp_path / name
    with pytest.raises(ConfigError) as caught:
        source_spec.parse(str(file), "data")
    assert "For the file" not in str(caught.value), "there is none"
    file.write_text("{}")
    with pytest.raises(ConfigError, match="For the file: ") as caught:
        source_spec.parse(str(file), "data")
    assert str(caught.value).endswith(hint.format(file))
