"""Parts of a token cache: where they begin, and what happens to a damaged one."""

import numpy as np
import pytest

from jaxtrain.config import Failure
from jaxtrain.data import token_parts
from tests.data.cached_tokens import columns, tokenise


def test_bounds_depend_on_the_number_of_records_alone():
    assert token_parts.bounds(0).tolist() == [0, 0] and token_parts.bounds(2048).tolist() == [0, 2048]
    for records, size in ((2049, 512), (131_072, 512), (131_073, 1024), (10_000_001, 8192)):
        ends = token_parts.bounds(records)
        assert ends[0] == 0 and ends[-1] == records
        assert set(np.diff(ends)[:-1]) == {size} and 0 < np.diff(ends)[-1] <= size


def test_a_document_is_read_from_its_part(many, tmp_path):
    """Parts without a document among them."""
    for i in range(64, 128):
        many[i] = {"text": ""}
    found = tokenise(many, tmp_path, policy="skip")
    assert len(found.ids) == found.offsets[-1] and found.ids.dtype == np.uint16
    for i in (0, 63, 64, len(found) - 1):
        ids = found.ids[int(found.offsets[i]) : int(found.offsets[i + 1])]
        assert len(ids) == found.pairs[i] + 1


def test_a_part_that_is_cut_off_while_a_run_reads_it_stops_the_run(many, tmp_path):
    found = tokenise(many, tmp_path, policy="skip")
    _ = found.ids[0:5]
    (parts,) = (tmp_path / "tokens").iterdir()
    (parts / "00000" / "ids.bin").write_bytes(b"")
    with pytest.raises(Failure, match=r"ids\.bin was cut off meanwhile"):
        _ = found.ids[0:5]


@pytest.mark.parametrize("file", ["ids.bin", "offsets.npy", "meta.json", "checksums.json"])
def test_a_damaged_part_is_named_and_alone_written_anew(many, tmp_path, capsys, file):
    first = columns(tokenise(many, tmp_path, policy="skip"))
    (parts,) = (tmp_path / "tokens").iterdir()
    before = {path: path.stat().st_mtime_ns for path in parts.glob("*/ids.bin")}
    damaged = parts / "00003" / file
    bits = bytearray(damaged.read_bytes())
    bits[len(bits) // 2] ^= 4
    damaged.write_bytes(bits)
    capsys.readouterr()
    again = tokenise(many, tmp_path, policy="skip")
    found = columns(again)
    said = capsys.readouterr().err
    assert str(damaged) in said and said.rstrip().endswith("made anew")
    assert found[1] == first[1]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found[0], first[0], strict=True))
    changed = [path.parent.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed == ["00003"]


def test_a_part_that_differs_once_it_is_made_anew_stops_the_run(many, tmp_path):
    found = tokenise(many, tmp_path, policy="skip")
    (parts,) = (tmp_path / "tokens").iterdir()
    (parts / "00000" / "ids.bin").write_bytes(b"")
    many[3] = {"text": "another one, of another length"}
    with pytest.raises(Failure, match="made anew it differs from what was there"):
        _ = found.ids[0:5]
