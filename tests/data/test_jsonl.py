"""JSON lines, plain and compressed, and bad lines of every kind."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from jaxtrain.config import ConfigError
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
