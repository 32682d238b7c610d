"""Two real processes, whose devices are interleaved in the mesh: what they send each other, and what they refuse."""

import json

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.train import multihost
from tests.runs import in_two_processes

HOST = """
import json, os, sys
from dataclasses import dataclass, field, replace
from pathlib import Path
import jax, numpy as np
from jaxtrain import config
from jaxtrain.config import ConfigError, Failure
from jaxtrain.train import multihost, parallel, processes

folder = Path(sys.argv[1])
processes.initialize()
here, found = jax.process_index(), {}

def raised(call):
    try:
        return call()
    except (ConfigError, Failure) as error:
        return [type(error).__name__, str(error)]

found["gathered"] = multihost.gather({"host": here, "text": "x" * (5 + 1000 * here), "nan": float("nan")})
found["share"] = [*range(7)[multihost.share(7)]]
found["results"] = multihost.gather_results(lambda: here + 1)

def fails():
    if here:
        raise Failure("no judge")
    return 1

found["failed"] = raised(lambda: multihost.gather_results(fails))

@dataclass(frozen=True)
class Stage:
    run: config.Run = config.group(config.Run)
    optim: config.Optim = config.group(config.Optim)
    data: config.Data = config.group(config.Data)

cfg = Stage(data=config.Data(cache_dir=str(here)))
found["same"] = raised(lambda: multihost.require_same_start(cfg, "pretrain"))
other = replace(cfg, optim=config.Optim(lr=0.1 + here), run=config.Run(mesh="fsdp:-1" if here else ""))
found["flags"] = raised(lambda: multihost.require_same_start(other, "pretrain"))
code = multihost._code
multihost._code = lambda: code() | ({"jaxtrain/train/loop.py": "edited"} if here else {})
found["code"] = raised(lambda: multihost.require_same_start(cfg, "pretrain"))
multihost.SEEN_WITHIN = 0.3
found["shared"] = raised(lambda: multihost.require_seen(folder, "workdir"))
own = folder / f"own{here}"
own.mkdir()
found["own"] = raised(lambda: multihost.require_seen(own, "workdir"))
multihost.barrier()
found["left"] = [str(path) for path in sorted(folder.rglob(".seen*"))]

devices = sorted(jax.devices(), key=lambda d: (d.id % 2048, d.process_index))
assert [d.process_index for d in devices] == [0, 1, 0, 1]
for mesh in ("fsdp:4", "data:2,tensor:2", "tensor:4", "data:2,context:2"):
    plan = parallel.make(config.Run(mesh=mesh), devices)
    own_rows = plan.local_rows(8)
    tokens = np.arange(32, dtype=np.float32).reshape(8, 4)[own_rows]
    batch = {"row": own_rows.astype(np.int32), "tokens": tokens}
    doubled = plan.rows(lambda tree, frozen, batch: {"row": batch["row"], "tokens": 2 * batch["tokens"]})
    whole = plan.get(doubled((), (), plan.put(batch)))
    total = plan.step(lambda tree, frozen, batch: (batch["tokens"] * (1 + batch["row"][:, None])).sum(), donate=False)
    found[mesh] = {
        "rows": own_rows.tolist(), "row": whole["row"].tolist(), "tokens": whole["tokens"].ravel().tolist(),
        "total": float(plan.get(total((), (), plan.put(batch)))), "platform": plan.platform,
    }
(folder / f"{here}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes of two devices each found."""
    folder = tmp_path_factory.mktemp("hosts")
    in_two_processes(HOST, folder, timeout=120)
    return [json.loads((folder / f"{i}.json").read_text()) for i in range(2)]


def test_values_of_any_size_reach_every_host(found):
    for each in found:
        assert [len(one["text"]) for one in each["gathered"]] == [5, 1005]
        assert [one["host"] for one in each["gathered"]] == [0, 1] and np.isnan(each["gathered"][0]["nan"])
        assert each["results"] == [1, 2]
    assert found[0]["share"] + found[1]["share"] == list(range(7))


def test_what_fails_on_one_host_fails_on_all(found):
    assert found[0]["failed"] == ["Failure", "host 1 stopped: no judge"]
    assert found[1]["failed"] == ["Failure", "no judge"]


def test_other_flags_or_another_code_are_refused_on_every_host(found):
    for each in found:
        assert each["same"] is None, "--cache_dir may differ"
        kind, flags = each["flags"]
        assert kind == "ConfigError" and "--lr is 0.1 on host 0, 1.1 on host 1" in flags
        assert "--mesh is '' on host 0, 'fsdp:-1' on host 1" in flags and "the same command" in flags
        assert "jaxtrain/train/loop.py is " in each["code"][1] and "'edited' on host 1" in each["code"][1]


def test_a_folder_that_not_all_hosts_see_is_refused(found):
    for number, each in enumerate(found):
        assert each["shared"] is None and each["left"] == []
        kind, text = each["own"]
        assert (
            kind == "ConfigError" and f"own{number}: host 1 of 2 cannot see what host 0 writes there" in text
        )
        assert "name a folder on a disk that all hosts mount" in text


@pytest.mark.parametrize(
    ("mesh", "rows"),
    [
        ("fsdp:4", ([0, 1, 4, 5], [2, 3, 6, 7])),
        ("data:2,tensor:2", (list(range(8)), list(range(8)))),  # each tensor pair spans both hosts
        ("tensor:4", (list(range(8)), list(range(8)))),
        ("data:2,context:2", (list(range(8)), list(range(8)))),  # each host has a part of each row's time
    ],
)
def test_rows_of_interleaved_hosts_are_those_of_one_batch(found, mesh, rows):
    tokens = np.arange(32, dtype=np.float32).reshape(8, 4)
    for each, own in zip(found, rows, strict=True):
        assert each[mesh]["rows"] == own and each[mesh]["row"] == list(range(8))
        assert each[mesh]["tokens"] == (2 * tokens).ravel().tolist() and each[mesh]["platform"] == "cpu"
        assert each[mesh]["total"] == (tokens * (1 + np.arange(8))[:, None]).sum()


def test_one_host_sends_nothing(tmp_path):
    value = object()
    assert multihost.gather(value)[0] is value
    assert multihost.share(7) == slice(0, 7)
    multihost.require_same({"a": 1}, "remedy")
    multihost.require_seen(tmp_path / "none", "workdir")
    multihost.require_same_start(config.Run(), "pretrain")
    with pytest.raises(ConfigError, match="wrong"):
        multihost.gather_results(lambda: (_ for _ in ()).throw(ConfigError("wrong")))
