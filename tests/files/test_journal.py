"""A journal: resumed after a kill, owned by one process, refused where it is damaged or of another command."""

import contextlib
import dataclasses

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
