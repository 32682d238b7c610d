"""Names of sources in metrics: short, and all different."""

import pytest

from jaxtrain.data import source_spec
from jaxtrain.data.source_names import short_names


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("tinytown:pretrain,hf:org/fineweb-edu:train[:1%]", ["tinytown-pretrain", "fineweb-edu"]),
        ("jsonl:a/web.jsonl.zst*0.7,jsonl:b/code-*.parquet*0.3", ["web", "code"]),
        ("jsonl:web/train.jsonl,jsonl:code/train-00000.parquet", ["web-train", "code-train-00000"]),
        ("jsonl:x/a/web.jsonl,jsonl:y/a/web.jsonl", ["jsonl-x-a-web", "jsonl-y-a-web"]),
        ("hf:o/wiki:train,hf:o/wiki:test", ["hf-o-wiki-train", "hf-o-wiki-test"]),
        ("hf:o/wiki?config=en,hf:o/wiki?config=de", ["hf-o-wiki-en", "hf-o-wiki-de"]),
        ("jsonl:*.jsonl,jsonl:data/*.jsonl", ["jsonl", "data"]),
        ('jsonl:"a b/ü.jsonl",jsonl:c.jsonl,jsonl:c.jsonl', ["jsonl-a-b-ü-1", "jsonl-c-2", "jsonl-c-3"]),
    ],
)
def test_a_name_is_the_last_part_of_the_path_or_more_of_it(data, names):
    found = short_names(source_spec.parse(data))
    assert len(set(found)) == len(found) and found == names
