"""A journal: resumed after a kill, owned by one process, refused where it is damaged or of another command."""

import contextlib
import dataclasses
import json

import pytest

from experiments.pretrain import Pretrain
from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.files import journal


def test_a_journal_is_one_process_s_and_damage_is_named(tmp_path):
    path, cfg = tmp_path / "a.part", Pretrain()
    first = journal.Journal(path, cfg)
    first.add({"rows": [{"text": "ä\u2028"}]})
    with pytest.raises(ConfigError, match=r"a\.part: another process writes it"):
        journal.Journal(path, cfg)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"rows": [{"text": "half')
    again = journal.Journal(path, cfg)
    assert again.batches == [{"rows": [{"text": "ä\u2028"}]}]
    again.add({"rows": []})
    again.close()
    with contextlib.closing(journal.Journal(path, cfg)) as whole:
        assert len(whole.batches) == 2
    path.write_bytes(path.read_bytes().replace(b"rows", b'"', 1))
    with pytest.raises(ConfigError, match=r"a\.part:2 is damaged .*remove the file to start again"):
        journal.Journal(path, cfg)


@pytest.mark.parametrize("line", [0, 1])
def test_a_flipped_bit_within_a_text_is_named(tmp_path, line):
    path, cfg = tmp_path / "a.part", Pretrain()
    with contextlib.closing(journal.Journal(path, cfg)) as first:
        first.add({"rows": [{"text": "some words"}]})
    lines = path.read_bytes().split(b"\n")
    at = lines[line].index(b"some words" if line else b"adam")
    lines[line] = lines[line][:at] + bytes([lines[line][at] ^ 1]) + lines[line][at + 1 :]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ConfigError, match=rf"a\.part:{line + 1} is damaged .*SHA-256"):
        journal.Journal(path, cfg)


def test_the_lines_of_an_earlier_release_are_read_and_a_run_has_one_name(tmp_path):
    path, cfg = tmp_path / "a.part", Pretrain()
    head, batch = {"config": config.to_dict(cfg)}, {"rows": []}
    path.write_text(f"{json.dumps(head)}\n{json.dumps(batch)}\n")
    with contextlib.closing(journal.Journal(path, cfg)) as old:
        assert old.batches == [batch] and old.run
    path.unlink()
    names = set()
    for _ in range(2):
        with contextlib.closing(journal.Journal(path, cfg)) as work:
            names.add(work.run)
    assert len(names) == 1


def test_another_command_is_refused_with_the_differences_and_a_finished_journal_goes(tmp_path):
    path, cfg = tmp_path / "a.part", Pretrain()
    journal.Journal(path, cfg).close()
    other = dataclasses.replace(cfg, optim=config.Optim(lr=0.5))
    with pytest.raises(
        ConfigError, match=r"a\.part is of another command; name another --out, or:\n +--lr: 0\.004"
    ):
        journal.Journal(path, other)
    done = journal.Journal(path, cfg)  # the refused one holds no lock
    done.remove()
    assert not path.exists()
