"""A run whose completions a server samples: it gets the policy, it may die, and the run goes on."""

import numpy as np
import pytest

from jaxtrain import load
from jaxtrain.config import ConfigError
from jaxtrain.inference import rollout_endpoint
from jaxtrain.inference.config import EndpointFlags
from jaxtrain.stages import init_from
from jaxtrain.train import stop
from tests.inference.test_rollout_endpoint import choice
from tests.remote import Remote, fault
from tests.runs import quick, rows, same_arrays

FLAGS = (
    "--algorithm=grpo", "--group=2", "--steps=4", "--minibatches=2", "--lr=3e-2", "--max_new=4", "--keep=9",
    "--is_cap=2", "--checkpoint_every=100",
)  # fmt: skip


@pytest.fixture
def server(town, monkeypatch):
    """Completions that follow from prompt and seed alone, about as likely as the policy has them."""
    monkeypatch.setattr(
        rollout_endpoint.requests_of,
        "__defaults__",
        (EndpointFlags(timeout=9.0, retries=0, concurrency=4, use_cache=False),),
    )
    end = int(init_from.load_run(str(town / "sft")).tokenizer.eos)

    def reply(request):
        if "model_path" in request:
            return {"success": True}
        rng = np.random.default_rng([request["seed"], *request["prompt"]])
        ids = [int(i) for i in rng.integers(5, 200, int(rng.integers(1, 3)))] + [end]
        return choice(ids, logps=[-3.0] * len(ids))

    with Remote(reply) as remote:
        yield remote


@pytest.fixture
def reward(town):
    (town.folder / "odd.py").write_text(
        "def score(completions, **columns):\n    return [len(text) % 2 for text in completions]\n"
    )
    return f"--reward={town.folder / 'odd.py'}:score"


def test_the_server_gets_each_policy_and_a_run_whose_server_died_goes_on(town, reward, server):
    flags = (reward, *FLAGS, f"--rollout_endpoint={server.url}")
    whole = town.run("grpo", "served", *flags)
    found = [row for row in rows(whole) if "loss" in row]
    assert all(row["val/ratio"] == pytest.approx(1, abs=1e-4) for row in found[::2])
    assert all(row["sampling/logp_difference"] > 0.01 for row in found)
    pushed = [body["model_path"] for path, body, _ in server.seen if path == "/update_weights_from_disk"]
    assert pushed == [str(whole / "rollout_weights")] * 2
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= {
        file.name for file in (whole / "rollout_weights").iterdir()
    }
    # The server dies once it has the second iteration's policy.
    reply, asked = server.reply, []

    def dying(request):
        asked.append("model_path" in request)
        return (503, fault("going down")) if asked.count(True) == 2 and not asked[-1] else reply(request)

    server.reply = dying
    with pytest.raises(
        stop.SavedFailure, match=r"going down.*the state of the last whole iteration is saved"
    ):
        town.run("grpo", "died", *flags)
    assert [int(folder.name) for folder in (town / "died" / "checkpoints").iterdir()] == [2]
    server.reply = reply
    said = town.again("grpo", "died", *flags)
    assert "resuming from step 2 " in said and same_arrays(whole, town / "died", 4)
    assert rows(town / "died") == rows(whole)


def test_our_own_server_samples_what_the_trainer_takes_for_its_policy(town, reward):
    """Served is what training starts from: the first iteration is on-policy."""
    with quick():
        background = load(str(town / "sft")).serve(port=0)
    with background as served:
        flags = ("--group=2", "--steps=1", "--warmup=0", "--max_new=4", "--rollout_weights=")
        run = town.run("grpo", "ours", reward, *flags, f"--rollout_endpoint={served.url}")
    (row,) = (row for row in rows(run) if "loss" in row)
    assert row["sampling/logp_difference_max"] < 1e-3 and row["completions/clipped_ratio"] > 0


def served(town, port=0, **options):
    """Our own server of the model that training starts from, which may load weights from the runs' folder."""
    with quick():
        return load(str(town / "sft")).serve(
            port=port, **{"weights_dir": str(town.folder), "context": 64, "rows": 8, **options}
        )


def differences(run):
    return [row["sampling/logp_difference"] for row in rows(run) if "loss" in row]


LEARNS = ("--group=2", "--warmup=0", "--lr=3e-2", "--max_new=4", "--checkpoint_every=100", "--is_cap=2")


def test_our_own_server_samples_from_each_policy_that_is_pushed(town, reward):
    with served(town) as server:
        url = f"--rollout_endpoint={server.url}"
        pushed = town.run("grpo", "pushed", reward, *LEARNS, "--steps=4", url)
        kept = town.run("grpo", "unpushed", reward, *LEARNS, "--steps=4", "--rollout_weights=", url)
    assert max(differences(pushed)) < 1e-4
    # The server still has the last policy that was pushed, and this run's moves on from where it started.
    assert min(differences(kept)) > 1e-3 and len(differences(kept)) == 4


def test_a_run_whose_own_server_died_goes_on_with_a_new_one(town, reward, monkeypatch):
    impatient = EndpointFlags(timeout=60.0, retries=0, use_cache=False)
    monkeypatch.setattr(rollout_endpoint.requests_of, "__defaults__", (impatient,))
    complete, calls, server = rollout_endpoint._complete, [], served(town)
    port = int(server.url.removesuffix("/v1").rpartition(":")[2])

    def dying(*args):
        calls.append(1)
        if len(calls) == 2:
            server.close()
        return complete(*args)

    monkeypatch.setattr(rollout_endpoint, "_complete", dying)
    flags = (reward, *LEARNS, "--steps=4", "--minibatches=2", f"--rollout_endpoint={server.url}")
    with pytest.raises(stop.SavedFailure, match="the state of the last whole iteration is saved"):
        town.run("grpo", "unserved", *flags)
    with served(town, port):
        assert "resuming from step 2 " in town.again("grpo", "unserved", *flags)
    assert len(differences(town / "unserved")) == 4 and max(differences(town / "unserved")[::2]) < 1e-4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"api_key": "right"}, r"refused the key \(401\): Incorrect API key"),
        (
            {"weights_dir": ""},
            r"cannot load the policy by /update_weights_from_disk \(404: this server loads no",
        ),
        (
            {"weights_dir": "elsewhere"},
            r"\(400\): model_path: weights are loaded from folders below --weights_dir",
        ),
    ],
)
def test_a_server_that_does_not_load_what_is_pushed_says_why(
    town, reward, tmp_path, monkeypatch, options, message
):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    if options.get("weights_dir"):
        options = {"weights_dir": str(tmp_path)}
    with served(town, **options) as server, pytest.raises(ConfigError, match=message):
        name = f"refused-{len(message)}"
        town.run("grpo", name, reward, *LEARNS, "--steps=2", f"--rollout_endpoint={server.url}")
