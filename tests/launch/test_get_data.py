"""launch/get_data on packages of a few records, written in the real packages' layouts."""

import gzip
import hashlib
import json
import lzma
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "get_data"


@pytest.fixture(scope="module")
def get_data() -> types.ModuleType:
    module = types.ModuleType("get_data")
    exec(compile(SCRIPT.read_text(), str(SCRIPT), "exec"), vars(module))
    return module


def write(root: Path, name: str, data: bytes | str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def test_sotu_is_ordered_by_file_name(get_data, tmp_path):
    write(tmp_path, "data/1801_thomas_jefferson_dr.txt", "Second.\n")
    write(tmp_path, "data/1790_george_washington_n.txt", "First “one”.\n")
    write(tmp_path, "data/data.csv", "not a speech")
    assert list(get_data.sotu(tmp_path)) == [
        {"id": "1790_george_washington_n", "text": "First “one”.", "source": "sotu"},
        {"id": "1801_thomas_jefferson_dr", "text": "Second.", "source": "sotu"},
    ]


def test_moby_is_split_at_chapters(get_data, tmp_path):
    book = "CHAPTER 1. Loomings.\n\nCall me. CHAPTER 9. is not here.\n\n\nCHAPTER 2. The Bag.\n\nI stuffed.\n"
    write(tmp_path, "data/data.txt", book)
    assert list(get_data.moby(tmp_path)) == [
        {
            "id": "moby-0",
            "text": "CHAPTER 1. Loomings.\n\nCall me. CHAPTER 9. is not here.",
            "source": "moby-dick",
        },
        {"id": "moby-1", "text": "CHAPTER 2. The Bag.\n\nI stuffed.", "source": "moby-dick"},
    ]


def test_wordnet_asks_for_a_definition(get_data, tmp_path):
    entries = {
        "noun": "  1 licence text\n"
        '00001740 03 n 02 thing 0 whole_thing 1 001 @ 0 n 0 | a separate entity; "it was"; "b"\n'
        "00001930 03 n 01 plain 0 000 | a definition without an example\n"
        '00001931 03 n 01 short 0 000 | too short; "x"\n',
        "verb": "",
        "adj": '00003131 00 s 0b a(p) 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 k 0 000 | having eleven words; "here"\n',
        "adv": "",
    }
    for suffix, text in entries.items():
        write(tmp_path, f"dict/data.{suffix}", text)
    records = [(r["id"], *(m["content"] for m in r["messages"])) for r in get_data.wordnet(tmp_path)]
    assert records == [
        (
            "wn-0",
            'Define the noun "thing".',
            'A separate entity. Example: "it was" Synonyms: whole thing.',
        ),
        # The count of words is hexadecimal; three synonyms are named; (p) is a marker.
        ("wn-3", 'Define the adjective "a".', 'Having eleven words. Example: "here" Synonyms: b, c, d.'),
    ]


def test_jargon_reads_a_dictd_database(get_data, tmp_path):
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    entries = {
        "00-database-info": "about this database, which is not an entry of it at all\n",
        "op": "OP\n //\n\n    [Usenet] Abbreviation for {original\n    poster}, of a thread.\n\n",
        "op ": "op\n /op/, n.\n\n    An operator, see {sysop }.\n\n    Second paragraph.\n\n",
        "stub": "stub\n n.\n\n    Too short.\n\n",
    }
    index, book = "", b""
    for key, text in entries.items():
        offset, length = ((digits[n // 64] + digits[n % 64]) for n in (len(book), len(text.encode())))
        index += f"{key.strip()}\t{offset}\t{length}\n"
        book += text.encode()
    write(tmp_path, "usr/share/dictd/jargon.index", index)
    write(tmp_path, "usr/share/dictd/jargon.dict.dz", gzip.compress(book))
    records = [(r["id"], *(m["content"] for m in r["messages"])) for r in get_data.jargon(tmp_path)]
    assert records == [
        (
            "jargon-op",
            'What does "OP" mean in hacker slang?',
            "//\n\n[Usenet] Abbreviation for original poster, of a thread.",
        ),
        (
            "jargon-op-2",
            'What does "op" mean in hacker slang?',
            "/op/, n.\n\nAn operator, see sysop.\n\nSecond paragraph.",
        ),
    ]


def call(*arguments: str, cwd: Path, path: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=cwd, env={"PATH": path}, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "client"), [("sotu", "npm"), ("jargon", "apt-get")])
def test_a_missing_client_is_named_with_the_remedy(tmp_path, name, client):
    done = call(name, cwd=tmp_path, path=str(tmp_path))
    assert done.returncode == 1
    assert f"{client} is not on PATH: " in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "data").iterdir()) == []


def test_usage_errors(tmp_path):
    done = call("nonsense", cwd=tmp_path, path="")
    assert done.returncode == 2 and "invalid choice: 'nonsense'" in done.stderr
    done = call("moby", "wordnet", "--join=all", cwd=tmp_path, path="")
    assert done.returncode == 2 and "--join takes texts with the same fields" in done.stderr


def registry(tmp_path: Path, text: str) -> str:
    """A PATH with an npm that packs `text` as the package's book."""
    write(tmp_path, "package/data/data.txt", text)
    shutil.make_archive(str(tmp_path / "book"), "gztar", tmp_path, "package")
    # Called as: npm pack --silent --pack-destination FOLDER PACKAGE
    npm = f"import shutil, sys; shutil.copy({str(tmp_path / 'book.tar.gz')!r}, sys.argv[4] + '/a.tgz')"
    write(tmp_path, "bin/npm", f"#!{sys.executable}\n{npm}\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    return str(tmp_path / "bin")


def test_writes_what_it_says(tmp_path):
    path = registry(tmp_path, "CHAPTER 1. A.\n\nOne.\n\nCHAPTER 2. B.\n\nTwo.\n")
    done = call("moby", "--out=here", cwd=tmp_path, path=path)
    assert done.returncode == 0, done.stderr
    jsonl = lzma.decompress((tmp_path / "here" / "moby.jsonl.xz").read_bytes())
    texts = [json.loads(line)["text"] for line in jsonl.splitlines()]
    assert texts == ["CHAPTER 1. A.\n\nOne.", "CHAPTER 2. B.\n\nTwo."]
    assert (
        f"2 records, {len(jsonl)} bytes of JSONL, sha256 {hashlib.sha256(jsonl).hexdigest()}" in done.stdout
    )
    assert "PDDL-1.0" in done.stdout and "here/moby.jsonl.xz" in done.stdout
    # It is not the book that the digest in the script stands for.
    assert "not the tested content" in done.stderr
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["moby.jsonl.xz"]


def test_a_package_in_another_layout_leaves_the_old_file(tmp_path):
    write(tmp_path, "data/moby.jsonl.xz", b"old")
    done = call("moby", cwd=tmp_path, path=registry(tmp_path, "no chapters"))
    assert done.returncode == 1 and "is it another version?" in done.stderr
    assert (tmp_path / "data" / "moby.jsonl.xz").read_bytes() == b"old"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches these texts")
@pytest.mark.parametrize("name", ["moby", "wordnet"])
def test_the_registry_still_has_it(tmp_path, name):
    done = subprocess.run([sys.executable, str(SCRIPT), name], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "data" / f"{name}.jsonl.xz").stat().st_size > 100_000
