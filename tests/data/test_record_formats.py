"""Every record format, how it is found, and every record that is refused."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxtrain.config import ConfigError, Corpus, Dialogs
from jaxtrain.data import record_formats, source_spec, sources
from jaxtrain.data.compared_completions import Comparison, JudgedCompletion
from jaxtrain.data.conversations import Dialog
from jaxtrain.data.messages import BadRecord, messages_of
from jaxtrain.data.record_formats import Text
from jaxtrain.data.sources import Records

KNOWN = (*record_formats.chat("text"), *record_formats.COMPARED)
ASK = {"role": "user", "content": "Hi?"}
ANSWER = {"role": "assistant", "content": "Yo."}
OTHER = {"role": "assistant", "content": "No."}
ASKED = (ASK,)


def opened(*records):
    return Records("test", "mark", lambda numbers: [records[i] for i in numbers], len(records))


def read(record, known=KNOWN, options=()):
    form = record_formats.detect(opened(record), source_spec.DataSource("jsonl", "x", options=options), known)
    return form.name, record_formats.read(record, form)


HH = "\n\nHuman: Hi?\n\nAssistant: Yo.\n\nHuman: Why?\n\nAssistant:"
CHAT = {
    "messages": ({"messages": [ASK, ANSWER]}, Dialog((ASK, ANSWER))),
    "conversations": (
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yo."}], "id": 3},
        Dialog((ASK, ANSWER)),
    ),
    "completion": ({"prompt": "Hi?", "completion": "Yo."}, Dialog((ASK | {"train": False}, ANSWER))),
    "instruction": ({"instruction": "Hi?", "response": "Yo.", "text": "x"}, Dialog((ASK, ANSWER))),
    "text": ({"text": "Hi."}, Text("Hi.")),
}
COMPARED = {
    "chosen": (
        {"prompt": "Hi?", "chosen": "Yo.", "rejected": "No.", "p_win": 0.75, "margin": 2, "family": "f"},
        Comparison(ASKED, ("Yo.", "No."), (0, 1), 0.75, 2.0),
    ),
    "responses": (
        {"prompt": "Hi?", "response_a": "Yo.", "response_b": "No.", "preferred": " B", "reason": "why"},
        Comparison(ASKED, ("No.", "Yo."), (0, 1), None, None),
    ),
    "ranked": (
        {"prompt": "Hi?", "completions": ["c", "a", "b", "d"], "ranking": [3, 1, 1, 4]},
        Comparison(ASKED, ("a", "b", "c", "d"), (0, 0, 1, 2), None, None),
    ),
    "judged": ({"prompt": "Hi?", "completion": "Yo.", "label": False}, JudgedCompletion(ASKED, "Yo.", False)),
}


@pytest.mark.parametrize("name", [*CHAT, *COMPARED])
def test_each_format_is_found_and_read(name):
    record, wanted = (CHAT | COMPARED)[name]
    assert read(record) == (name, wanted)


WHY = {"role": "user", "content": "Why?"}
PAIR = Comparison(ASKED, ("Yo.", "No."), (0, 1), None, None)
DIALOG = Dialog((ASK, ANSWER))
EITHER = {"prompt": "Hi?", "response_a": "Yo.", "response_b": "No."}
PARTS = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "?"}]
SHARED = [("human", "Hi?"), ("observation", "3"), ("gpt", "Yo.")]
SUM = ({"role": "user", "content": "Add.\n\n1, 2"}, {"role": "assistant", "content": "3"})
VARIANTS = [
    ({"instruction": "Add.", "input": " 1, 2 ", "output": "3"}, Dialog(SUM)),
    ({"instruction": "Hi?", "input": None, "output": "Yo."}, DIALOG),
    ({"prompt": [ASK], "completion": [ANSWER]}, Dialog((ASK | {"train": False}, ANSWER))),
    ({"messages": {"role": ["user", "assistant"], "content": ["Hi?", "Yo."]}}, DIALOG),
    ({"messages": [ASK | {"content": PARTS}, ANSWER]}, DIALOG),
    (
        {"conversations": [{"from": role, "value": text} for role, text in SHARED]},
        Dialog((ASK, {"role": "tool", "content": "3"}, ANSWER)),
    ),
    ({"chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]}, PAIR),
    ({"prompt": "Hi?", "chosen": [ASK, ANSWER], "rejected": [OTHER]}, PAIR),
    (
        {"chosen": f"{HH} So.", "rejected": f"{HH} Sit."},
        Comparison((ASK, ANSWER, WHY), ("So.", "Sit."), (0, 1), None, None),
    ),
    (
        {"chosen": f"{HH} So.", "rejected": f"{HH} So."},
        Comparison((ASK, ANSWER, WHY), ("So.", "So."), (0, 1), None, None),
    ),
    (EITHER | {"preferred": "TIE"}, PAIR._replace(rank=(0, 0))),
    (EITHER | {"p_win": 0.25}, PAIR._replace(completions=("No.", "Yo."), p_win=0.75)),
]


@pytest.mark.parametrize(("record", "wanted"), VARIANTS)
def test_variants(record, wanted):
    assert read(record)[1] == wanted


def message(**changes):
    return {"messages": [ASK, ANSWER | changes]}


BAD = [
    ({"messages": [ASK]}, "no assistant turn: "),
    ({"messages": []}, "no messages: .* empty"),
    ({"messages": "Hi"}, "no messages: messages is not a list"),
    ({"messages": [3]}, r"no messages: messages\[0\] is not an object"),
    (message(role="robot"), r"unknown role: messages\[1\] has 'robot'; known are system"),
    (message(role=None), "unknown role: .* has None"),
    (message(content=" \n"), r"empty completion: messages\[1\]"),
    (message(content=3), r"no text: content of messages\[1\] is not a string but int"),
    (message(content="\ud800"), "no text: .* half a surrogate"),
    (message(content=[{"type": "image"}]), "no text: .* part that is not of type text"),
    ({"prompt": "Hi?", "completion": ""}, "empty completion: completion"),
    ({"prompt": "Hi?", "completion": [ASK]}, "no assistant turn: "),
    ({"prompt": "Hi?", "chosen": [ASK], "rejected": "No."}, "wrong roles: chosen is not one assistant"),
    ({"prompt": None, "completion": "Yo."}, "other fields: .* has completion, and prompt without a value"),
    ({"instruction": "Hi?", "output": "  "}, "empty completion: output"),
    ({"prompt": "Hi?", "chosen": "Yo.", "rejected": " "}, "empty completion: rejected"),
    ({"prompt": "Hi?", "chosen": "Yo.", "rejected": "No.", "p_win": 1.5}, "p_win is 1.5, not a probability"),
    ({"prompt": "Hi?", "chosen": "Yo.", "rejected": "No.", "margin": float("nan")}, "unknown margin: nan"),
    ({"prompt": "Why?", "chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]}, "does not start with prompt"),
    ({"chosen": "Yo.", "rejected": "No."}, "no common prompt: there is no prompt"),
    (
        {"chosen": f"{HH} So.", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."},
        "differ before their last turn",
    ),
    ({"chosen": [ASK, ANSWER], "rejected": [ASK | {"content": "Why?"}, OTHER]}, "differ before their last"),
    ({"prompt": "Hi?", "completions": ["a", "b"], "ranking": [0, 1]}, r"no ranking: \[0, 1\].* 1 the best"),
    ({"prompt": "Hi?", "completions": ["a", "b"], "ranking": [1]}, "no ranking: .* for 2 completions"),
    ({"prompt": "Hi?", "completions": ["a", "b"], "ranking": [1, 2.5]}, "no ranking: "),
    ({"prompt": "Hi?", "completions": ["a"], "ranking": [1]}, "no ranking: "),
    ({"prompt": "Hi?", "completions": "ab", "ranking": [1, 2]}, "must be lists"),
    ({"prompt": "Hi?", "completion": "Yo.", "label": "good"}, "unknown label: 'good'"),
]
BAD += [(EITHER | {"preferred": value}, f"preferred is {value!r}, not a, b or tie") for value in ("c", "", 1)]
BAD += [(EITHER | {"preferred": None}, "the record has .*, and preferred without a value")]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_bad_records_say_why(record, reason):
    with pytest.raises(BadRecord, match=reason):
        read(record)


def test_a_turn_that_calls_a_tool_or_is_not_learnt_may_be_empty():
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    assert read({"messages": [ASK, call]})[1].messages[1]["content"] == ""
    silent = {"role": "assistant", "content": "", "train": False}
    assert read({"messages": [ASK, silent, ASK, ANSWER]})[1].messages[1] == silent


def test_the_order_of_formats_decides_and_a_name_overrules():
    both = {"messages": [ASK, ANSWER], "prompt": "p", "completion": "c", "text": "t"}
    assert read(both)[0] == "messages"
    assert read(both, options=(("format", "text"),))[1] == Text("t")
    assert read(both, options=(("format", "completion"),))[0] == "completion"
    # A judged completion may be a bad one: it is imitated only where the format is named.
    judged = {"prompt": "Hi?", "completion": "Yo.", "label": False}
    for label in (False, None):
        with pytest.raises(ConfigError, match="label, prompt; known formats: messages"):
            read(judged | {"label": label}, record_formats.chat("text"))
    assert read(judged, record_formats.chat("text"), (("format", "completion"),))[1].messages[1] == ANSWER


def test_the_chosen_answer_of_a_pair_is_learnt_only_where_the_format_is_named():
    pair = {"chosen": HH + " A.", "rejected": HH + " B."}
    assert read(pair)[0] == "chosen"
    name, dialog = read(pair, options=(("format", "preferred"),))
    assert name == "preferred"
    assert [m["content"] for m in dialog.messages] == ["Hi?", "Yo.", "Why?", "A."]


def test_a_source_that_fits_nothing_names_its_fields_and_the_formats():
    with pytest.raises(
        ConfigError, match=r"--data=jsonl:x: its records have the fields a, b; known formats: .*chosen \("
    ):
        record_formats.detect(
            opened({"a": 1}, {"b": 2}), source_spec.DataSource("jsonl", "x"), record_formats.COMPARED
        )
    with pytest.raises(ConfigError, match=r"format=text: not read here; choose one of chosen"):
        read({"text": "x"}, record_formats.COMPARED, (("format", "text"),))
    form = record_formats.detect(
        opened({"a": 1}, CHAT["messages"][0]), source_spec.DataSource("jsonl", "x"), KNOWN
    )
    with pytest.raises(BadRecord, match=r"other fields: the source's format is messages .* the record has a"):
        record_formats.read({"a": 1}, form)


def test_a_format_is_checked_early_and_acts_only_on_dialogs(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    source = f"jsonl:{tmp_path}/a.jsonl?format="
    source_spec.check(Dialogs(data=f"{source}chosen"))
    with pytest.raises(ConfigError, match="no such format; choose one of messages, conversations"):
        source_spec.check(Dialogs(data=f"{source}alpaca"))
    with pytest.raises(ConfigError, match="acts only where conversations are read"):
        source_spec.check(Corpus(data=f"{source}text"))


def test_records_are_whole_where_all_fields_are_asked_for(tmp_path):
    cfg = Dialogs(data="tinytown:preferences?documents=8&held_out=4", cache_dir=str(tmp_path))
    found, held = sources.train_and_held_out(source_spec.parse(cfg.data)[0], cfg, None)
    assert (len(found), len(held)) == (8, 4)
    assert found[0].keys() == {
        "prompt",
        "chosen",
        "rejected",
        "family",
        "p_win",
        "reward_chosen",
        "reward_rejected",
    }
    assert type(found[0]["chosen"]) is str and type(found[0]["reward_chosen"]) is float
    narrow, _ = sources.train_and_held_out(source_spec.parse(cfg.data)[0], cfg, {"prompt": str})
    assert narrow[0].keys() == {"prompt"}


class Chats(tfds.core.GeneratorBasedBuilder):
    """Conversations, and the pairs of texts that hh-rlhf has."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"chosen": text, "rejected": text, "n": tfds.features.Scalar(np.int64)}
        features |= {"turns": tfds.features.Sequence({"role": text, "content": text})}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for i in range(4):
            pair = {"chosen": f"{HH} So {i}é.", "rejected": f"{HH} Sit."}
            yield i, pair | {"n": i, "turns": [ASK, ANSWER]}


def test_a_prepared_data_set_of_tfds_is_read_whole(tmp_path):
    Chats(data_dir=str(tmp_path / "made"), file_format="array_record").download_and_prepare()
    (folder,) = (tmp_path / "made").glob("*/1.0.0")
    cfg = Dialogs(data=f"tfds:{folder}", cache_dir=str(tmp_path / "cache"))
    found, held = sources.train_and_held_out(source_spec.parse(cfg.data)[0], cfg, None)
    record = next(one for one in found.many(range(4)) if one["n"] == 2)
    assert len(held) == 4 and messages_of(record["turns"], "turns") == (ASK, ANSWER)
    name, compared = read(record)
    assert name == "chosen" and compared.completions == ("So 2é.", "Sit.")
    assert [one["content"] for one in compared.prompt] == ["Hi?", "Yo.", "Why?"]


def test_nested_features_of_tfds_come_as_plain_values():
    nested = {
        "role": np.array([b"user", b"assistant"], object),
        "content": np.array([b"Hi?", b"Yo."], object),
    }
    plain = sources._plain({"messages": nested, "n": np.int64(3), "ids": np.arange(2), "bad": b"\xff"})
    assert plain == {
        "messages": {"role": ["user", "assistant"], "content": ["Hi?", "Yo."]},
        "n": 3,
        "ids": [0, 1],
        "bad": b"\xff",
    }
    assert read(plain)[1] == Dialog((ASK, ANSWER))
