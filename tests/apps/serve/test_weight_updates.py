"""Other weights in a running server: who has which, and what is refused and changes nothing."""

import json
import shutil
import threading

import jax
import numpy as np
import openai
import pytest

from jaxtrain.apps.serve.scheduler import Scheduler, SchedulerClosed
from jaxtrain.generate.continuous_batching import DecodeRequest
from tests.apps.serve.conftest import HI, KEY, NAME, WAITING, make_server, model, running
from tests.apps.serve.test_openapi import send
from tests.apps.serve.test_weights_folder import WRONG, damaged, written

ROUTE = "/update_weights_from_disk"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    written(folder / "one")
    return folder


@pytest.fixture
def server(root):
    with running(make_server(None, weights=root)) as running_server:
        yield running_server


def update(server, path, **body):
    """(status, body) of a request to load weights."""
    status, _, content = send(server, "POST", ROUTE, {"model_path": str(path), **body})
    return status, json.loads(content)


def answer(client, **options):
    return client.chat.completions.create(model=NAME, messages=HI, seed=1, max_tokens=12, **options)


def prompt_logps(client):
    """The log-probabilities of a prompt's tokens by the weights that are served."""
    one = client.completions.create(model=NAME, prompt=[5, 9, 70, 200], max_tokens=0, echo=True, logprobs=1)
    return np.array(one.choices[0].logprobs.token_logprobs[1:])


def test_the_next_request_has_the_new_weights_and_what_runs_keeps_the_old(server, root):
    with server.client() as client:
        before, scored = answer(client), prompt_logps(client)
        whole = client.completions.create(model=NAME, prompt=[70, 71], seed=3, max_tokens=300)
        assert client.models.retrieve(NAME).weight_version == "initial"
        stream = client.completions.create(model=NAME, prompt=[70, 71], seed=3, max_tokens=300, stream=True)
        first = next(stream)
        replies = []
        thread = threading.Thread(target=lambda: replies.append(update(server, root / "one")))
        thread.start()
        text = first.choices[0].text + "".join(chunk.choices[0].text for chunk in stream)
        thread.join(60)
        ((status, reply),) = replies
        assert text == whole.choices[0].text and first.system_fingerprint == before.system_fingerprint
        assert status == 200 and reply["success"] and len(reply["weight_version"]) == 12
        assert client.models.retrieve(NAME).weight_version == reply["weight_version"]
        after = answer(client)
        assert after.choices[0].message.content != before.choices[0].message.content
        assert after.system_fingerprint != before.system_fingerprint
        lm, _, runner = model()
        new = runner.engine.ready(lm.init(jax.random.key(7)), ())
        wanted = runner.score_prompt(new, [5, 9, 70, 200]).token_logps
        np.testing.assert_allclose(prompt_logps(client), wanted, atol=1e-5)
        assert np.abs(scored - wanted).max() > 0.01
        # The same files are the same version, of a relative path too; a version that is given is taken.
        assert update(server, "one") == (200, reply | {"message": f"{NAME} has the weights of one"})
        assert update(server, root / "one", weight_version="step 9")[1]["weight_version"] == "step 9"


def test_what_cannot_be_loaded_is_named_and_the_old_weights_stay(server, root, tmp_path):
    cases = {"/etc": "from folders below --weights_dir only", "none": "there is no folder none"}
    for how in ("checksum", "missing", "shape", "link"):
        shutil.copytree(root / "one", root / how)
        damaged(root / how, how)
        cases[how] = WRONG[how].replace("\\", "")
    with server.client() as client:
        before = answer(client)
        for path, message in cases.items():
            status, body = update(server, path)
            assert status == 400 and body["error"]["param"] == "model_path", (path, body)
            assert message in body["error"]["message"], body
        assert update(server, "one", load_format="gguf")[0] == 400
        assert update(server, "one", abort_all_requests=True)[0] == 400
        assert update(server, "one", model="other")[0] == 404
        assert update(server, "one", weight_version="v" * 65)[0] == 400
        assert send(server, "POST", ROUTE, {"model_path": "one"}, Authorization=f"Bearer {KEY}x")[0] == 401
        assert client.models.retrieve(NAME).weight_version == "initial"
        after = answer(client)
    assert after.choices == before.choices and after.system_fingerprint == before.system_fingerprint


def test_it_is_off_without_the_flag(root):
    with running(make_server(None)) as server, server.client() as client:
        status, body = update(server, root / "one")
        assert status == 404 and "start it with --weights_dir=DIR" in body["error"]["message"]
        with pytest.raises(openai.NotFoundError):
            client.post(f"{server.url}{ROUTE}", body={"model_path": "one"}, cast_to=object)


def test_of_several_models_one_is_named(root):
    state = make_server(None, weights=root)
    other = make_server(None)
    state = state._replace(
        others=(other._replace(model=other.model._replace(name="b"), weights=state.weights),)
    )
    with running(state) as server, server.client() as client:
        assert update(server, "one")[0] == 400
        assert update(server, "one", model="b")[1]["message"] == "b has the weights of one"
        versions = {one.id: one.weight_version for one in client.models.list().data}
    assert versions[NAME] == "initial" != versions["b"]


def test_an_update_of_a_scheduler_that_ends_is_told_so(monkeypatch):
    scheduler, parts = Scheduler(model()[2], WAITING), []
    assert scheduler.update(scheduler.runner).result(30) is None
    scheduler.submit([DecodeRequest([5], 1, limit=2)], lambda i, part: parts.append(part))
    scheduler.close()
    assert parts[-1].ended
    with pytest.raises(SchedulerClosed):
        scheduler.update(scheduler.runner)
    broken = Scheduler(model()[2], WAITING)
    failing = broken.runner._replace(params=None)
    futures = [broken.update(failing), broken.update(broken.runner)]
    assert futures[0].result(30) is None
    with pytest.raises(SchedulerClosed):
        futures[1].result(30)
    assert broken.failure is not None and broken.counts.running == 0
