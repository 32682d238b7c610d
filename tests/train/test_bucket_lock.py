"""The lock of a workdir in a bucket: one owner, taken over from the dead alone."""

import threading
import time

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import paths
from jaxtrain.train import bucket_lock
from tests import buckets


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request, tmp_path_factory):
    of = buckets.gcs() if request.param == "gs" else buckets.s3(tmp_path_factory.mktemp("buckets"))
    with of as environment, buckets.in_process(environment):
        yield paths.parse(f"{request.param}://{buckets.BUCKET}", "workdir")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEW_EVERY", 0.05)
    monkeypatch.setattr(bucket_lock, "DEAD_AFTER", 0.6)
    monkeypatch.setattr(bucket_lock, "SETTLES_WITHIN", 0.1)


def hold(run, name, **options):
    return bucket_lock.hold(run / "lock", run, name, **options)


def test_a_running_owner_is_named_and_keeps_it(bucket, quick, capsys):
    run = bucket / "running"
    with hold(run, "process 1 on here"):
        said = f"--workdir={run} is in use by process 1 on here, .*: wait for it"
        with pytest.raises(ConfigError, match=said), hold(run, "process 2 on there"):
            raise AssertionError
        assert "is locked by process 1 on here" in capsys.readouterr().err
    assert not (run / "lock").exists()
    with hold(run, "process 2 on there"):
        assert (run / "lock").read_text().startswith("process 2 on there, ")


def test_a_dead_owner_is_replaced(bucket, quick):
    run = bucket / "dead"
    (run / "lock").write_text("process 1 on here, 00000000\n7\n")
    begun = time.monotonic()
    with hold(run, "process 2 on there"):
        assert (run / "lock").read_text().startswith("process 2 on there, ")
    assert time.monotonic() - begun > bucket_lock.DEAD_AFTER


def test_of_two_that_take_over_one_owns_it(bucket, quick):
    run, owners, refused = bucket / "both", [], []
    (run / "lock").write_text("process 1 on here, 00000000\n7\n")
    done = threading.Barrier(2, timeout=30)

    def take(name):
        try:
            with hold(run, name):
                owners.append(name)
                done.wait()
        except ConfigError as error:
            refused.append(str(error))
            done.wait()

    threads = [threading.Thread(target=take, args=(f"process {i} on there",)) for i in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners) == len(refused) == 1 and owners[0] in refused[0]


def test_an_owner_that_lost_it_is_told_and_leaves_it(bucket, quick):
    run, lost = bucket / "lost", []
    with hold(run, "process 1 on here", lost=lost.append):
        (run / "lock").write_text("process 2 on there, 11111111\n0\n")
        until = time.monotonic() + 10
        while not lost and time.monotonic() < until:
            time.sleep(0.02)
    assert lost == [f"the lock {run}/lock was taken over by process 2 on there, 11111111"]
    assert (run / "lock").read_text().startswith("process 2 on there")
