"""Files prepared as a data set: JSON lines, plain and compressed, and bad lines of every kind."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from jaxtrain.config import ConfigError
from jaxtrain.data import file_records, jsonl
from tests.data.corpus import numbers, opened, prose, text, write


def test_plain_and_compressed_files_are_the_same(cfg, tmp_path):
    prose(tmp_path / "a.jsonl", 40)
    raw = (tmp_path / "a.jsonl").read_bytes()
    frames = zstandard.ZstdCompressor().compress(raw[:999]) + zstandard.ZstdCompressor().compress(raw[999:])
    for name, content in (
        ("b.jsonl.gz", gzip.compress(raw)),
        ("c.jsonl.xz", lzma.compress(raw)),
        ("d.jsonl.zst", frames),
        ("e.jsonl", b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n") + b"\n \n"),
    ):
        (tmp_path / name).write_bytes(content)
    for name in "abcde":
        records, held = opened(cfg(f"jsonl:{tmp_path}/{name}.*", eval_share=0.1))
        everything = sorted(numbers(records) + numbers(held))
        assert everything == list(range(40))
        assert all(record["text"] == text(record["n"]) for _, block in records.blocks() for record in block)


GOOD = {"text": "a good line", "n": 0}


BAD = {
    "not JSON": ("{'text': 1}", "not JSON"),
    "cut off": ('{"text": "a', "not JSON"),
    "a list": ('["text"]', "not a JSON object but list"),
    "no field": ('{"body": "x"}', "no field 'text' (fields: body); name the right one with --text_field"),
    "a number": ('{"text": 5}', "field 'text' is not a string but int"),
    "null": ('{"text": null}', "field 'text' is not a string but NoneType"),
    "half a pair": ('{"text": "\\ud800"}', "half a surrogate pair"),
    "too deep": ("[" * 200_000, "not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_stops_naming_file_line_and_remedy(cfg, tmp_path, kind):
    line, says = BAD[kind]
    source = write(tmp_path / "a.jsonl", [GOOD, GOOD, line, GOOD])
    with pytest.raises(ConfigError) as error:
        opened(cfg(source))
    assert f"{tmp_path}/a.jsonl:3: " in str(error.value) and says in str(error.value)
    assert "--on_bad_record=skip" in str(error.value)
    left = [path.suffix for path in (tmp_path / "cache" / "records").iterdir()]
    assert left == [".lock"], "nothing half-read is kept"


def test_bad_lines_are_skipped_counted_and_listed_the_second_time_too(cfg, tmp_path):
    lines = [GOOD, *(line for line, _ in BAD.values()), GOOD | {"n": 1}]
    source = write(tmp_path / "a.jsonl", lines)
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"text": "\xff\xfe"}\n')
    for _ in range(2):
        records, held = opened(cfg(source, on_bad_record="skip"))
        assert sorted(numbers(records) + numbers(held)) == [0, 1]
        assert records.skipped == len(BAD) + 1
        listed = [json.loads(line) for line in Path(records.listed).read_text(encoding="utf-8").splitlines()]
        assert [item["where"] for item in listed] == [f"{tmp_path}/a.jsonl:{n}" for n in (*range(2, 10), 11)]
        assert listed[-1]["reason"] == "invalid UTF-8 at byte 10"


def test_invalid_utf8_stops(cfg, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: invalid UTF-8 at byte 10"):
        opened(cfg(f"jsonl:{tmp_path}/a.jsonl"))


def test_empty_files(cfg, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n \n")
    prose(tmp_path / "b.jsonl", 5)
    with pytest.raises(ConfigError, match=r"a\.jsonl: the file is empty"):
        opened(cfg(f"jsonl:{tmp_path}/*.jsonl"))
    records, _ = opened(cfg(f"jsonl:{tmp_path}/*.jsonl", on_bad_record="skip"))
    assert records.skipped == 1
    with pytest.raises(ConfigError, match="no record left"):
        opened(cfg(f"jsonl:{tmp_path}/a.jsonl", on_bad_record="skip"))


@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("suffix", ["gz", "xz", "zst"])
def test_a_cut_off_file_is_an_error_whatever_the_policy(cfg, tmp_path, suffix, policy):
    prose(tmp_path / "a.jsonl", 300)
    pack = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}[suffix]
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(pack((tmp_path / "a.jsonl").read_bytes())[:-40])
    with pytest.raises(
        ConfigError, match=rf"a\.jsonl\.{suffix}:\d+: broken \.{suffix} data .*fetch the file again"
    ):
        opened(cfg(f"jsonl:{path}", on_bad_record=policy))
    path.write_bytes(b"hello, not compressed at all\n" * 9)
    with pytest.raises(ConfigError, match=r"plain text without records .*'hello, not") as error:
        opened(cfg(f"jsonl:{path}", on_bad_record=policy))
    assert "on_bad_record" not in str(error.value)


def test_ten_thousand_bad_lines_are_one_short_message_and_a_list_of_all(cfg, tmp_path):
    bad = '{"text": "cut off\n' * 10_000
    (tmp_path / "a.jsonl").write_text(bad)
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: not JSON .*--on_bad_record=skip"):
        opened(cfg(f"jsonl:{tmp_path}/a.jsonl"))
    with pytest.raises(ConfigError) as error:
        opened(cfg(f"jsonl:{tmp_path}/a.jsonl", on_bad_record="skip"))
    says, _, listed = str(error.value).partition("; listed in ")
    assert says == (
        f"--data: no record left in {tmp_path}/a.jsonl: 10,000 bad records skipped, the first {tmp_path}/a.jsonl:1: "
        "not JSON (Unterminated string starting at column 10)"
    )
    rows = [json.loads(line) for line in Path(listed).read_text(encoding="utf-8").splitlines()]
    assert [row["where"] for row in rows] == [f"{tmp_path}/a.jsonl:{i}" for i in range(1, 10_001)]
    (tmp_path / "a.jsonl").write_text(bad + json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\n")
    records, _ = opened(cfg(f"jsonl:{tmp_path}/a.jsonl", on_bad_record="skip"))
    assert records.skipped == 10_000 and len(Path(records.listed).read_bytes().splitlines()) == 10_000


def test_bad_members_of_an_array_are_skipped_like_lines(cfg, tmp_path):
    (tmp_path / "a.json").write_text('[\n{"text": "a"},\n{"text": b},\n5,\n{"text": "c"}\n]')
    with pytest.raises(
        ConfigError, match=r"a\.json:3: not JSON \(Expecting value at column 10\); correct it"
    ):
        opened(cfg(f"jsonl:{tmp_path}/a.json"))
    records, held = opened(cfg(f"jsonl:{tmp_path}/a.json", on_bad_record="skip"))
    assert {records[0]["text"], held[0]["text"]} == {"a", "c"} and records.skipped == 2


def test_a_file_that_changes_while_it_is_read_is_not_kept(cfg, tmp_path, monkeypatch):
    source = prose(tmp_path / "a.jsonl", 5)
    real = file_records.records

    def growing(path, *rest):
        yield from real(path, *rest)
        with path.open("a") as file:
            file.write("{}\n")

    monkeypatch.setattr(file_records, "records", growing)
    with pytest.raises(ConfigError, match=r"a\.jsonl: it changed while it was read; start again"):
        opened(cfg(source))
    monkeypatch.undo()
    prose(tmp_path / "a.jsonl", 5)
    assert sum(map(len, opened(cfg(source)))) == 5


def test_a_file_that_vanishes_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.jsonl: cannot be read \(No such file or directory\)"):
        jsonl.prepare([tmp_path / "gone.jsonl"], {}, "raise", tmp_path / "cache")


def test_the_name_counts_where_the_content_fits_several_kinds(cfg, tmp_path):
    for name, count in (("a.csv", 3), ("b.txt", 0)):
        (tmp_path / name).write_text("text\none\ntwo\nthree\n")
        data = cfg(f"jsonl:{tmp_path}/{name}", eval_data="tinytown:pretrain")
        if count:
            assert len(opened(data)[0]) == count
        else:
            with pytest.raises(ConfigError, match="plain text without records"):
                opened(data)
