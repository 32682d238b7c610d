"""--rollout_endpoint: completions of rollouts from an OpenAI-compatible server, token ids in and token ids out.

The policy is pushed as a folder: it is written as Hugging Face has it, and the server is told to load it. An endpoint
that dies ends the run once its state is saved, so that the same command goes on from the last whole iteration.
"""

import shutil
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxtrain.config import ConfigError, Failure
from jaxtrain.files import checksums, paths, progress
from jaxtrain.generate import batch_sampler
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.inference import endpoint_errors, endpoint_responses, remote
from jaxtrain.inference.config import EndpointFlags
from jaxtrain.inference.remote import Endpoint
from jaxtrain.models import quantized_weights, transformer
from jaxtrain.stages import export
from jaxtrain.stages.sampling import SampledTokens
from jaxtrain.stages.session import Session, print_lines
from jaxtrain.train import stop
from jaxtrain.types import Params

FLAG, FOLDER = "rollout_endpoint", "rollout_weights"
SETTINGS = EndpointFlags(timeout=600.0, concurrency=64, use_cache=False)
# What servers call it: vLLM and ours, then older ones of vLLM, whose log-probabilities name ids.
_ID_PARAMETERS = ("return_token_ids", "return_tokens_as_token_ids")
_ID_PREFIX = "token_id:"
_SHARD_BYTES = 5e9


def requests_of(cfg: Any, settings: EndpointFlags = SETTINGS) -> dict[str, Callable[..., Any]]:
    """The field `requests` of a RolloutConfig; empty without --rollout_endpoint.

    cfg is the config of an on-policy stage. Raises as `remote.connect` does.
    """
    text, route = cfg.sampler.rollout_endpoint, cfg.sampler.rollout_weights
    if not text:
        return {}
    endpoint = remote.connect(text, FLAG, settings)

    def make(session: Session, ends: Sequence[int], *, max_new: int) -> Callable[..., Any]:
        if session.plan.process[1] > 1:
            raise ConfigError(f"{endpoint.label}: it takes one process, which sends all requests")
        dtype = str(np.dtype(transformer.compute_dtype(cfg.model, session.plan.platform)))
        names = list(_ID_PARAMETERS)

        def start(
            params: Params, base: Params
        ) -> Callable[[Sequence[SampleRequest], int], list[SampledTokens]]:
            if route:
                _push(endpoint, session, params, base, dtype, route)

            def sample(requests: Sequence[SampleRequest], size: int) -> list[SampledTokens]:
                limits = batch_sampler.limits_of(requests, max_new, session.arch.max_len)
                wanted = [
                    (request, seed, int(limit))
                    for request, limit in zip(requests, limits, strict=True)
                    for seed in request.seeds
                ]
                return _complete(endpoint, wanted, ends, names)

            return sample

        if not route:
            print_lines(
                [f"{endpoint.label}: the server keeps its weights (--rollout_weights=)"], session.primary
            )
        return start

    return {"requests": make}


def _push(endpoint: Endpoint, session: Session, params: Params, base: Params, dtype: str, route: str) -> None:
    """Writes the policy to the run's folder and has the server load it. Raises SavedFailure where it does not."""
    import openai

    progress.report("writing the policy for the server", slow=True)
    folder = paths.absolute(session.path / FOLDER)
    shutil.rmtree(folder, ignore_errors=True)  # of the policy before, which the server has loaded
    axes = session.model.axes

    def policy(params: Params, base: Params) -> Params:
        return quantized_weights.unquantized(session.trained.whole(params, base), axes)

    whole = session.plan.init(policy, axes, params, base)
    export.write_model(
        folder, session.start, session.plan, {}, dtype=dtype, shard_bytes=_SHARD_BYTES, params=whole
    )
    checksums.write(folder)
    body = {"model_path": str(folder)} | ({"model": endpoint.model} if len(endpoint.models) > 1 else {})
    parts = urllib.parse.urlsplit(endpoint.url)
    url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, route, "", ""))
    try:
        response = endpoint.client.post(url, body=body, cast_to=object)
    except openai.NotFoundError as error:
        said = endpoint_errors.details(endpoint_errors.body_of(error)).message
        raise ConfigError(
            f"{endpoint.label}: it cannot load the policy by {route} (404: {said}): start "
            "./launch/run serve with --weights_dir, name another server's own route by --rollout_weights, or leave "
            "that empty for a server that keeps its weights"
        ) from error
    except openai.APIError as error:
        raise _failure(endpoint, error, "loading the policy") from error
    if isinstance(response, dict) and response.get("success") is False:
        raise stop.SavedFailure(
            f"{endpoint.label}: it did not load {folder}: {response.get('message', response)}"
        )


def _complete(
    endpoint: Endpoint,
    wanted: Sequence[tuple[SampleRequest, int, int]],
    ends: Sequence[int],
    names: list[str],
) -> list[SampledTokens]:
    """The completions of (request, seed, limit)s, `concurrency` at a time."""
    pool = ThreadPoolExecutor(endpoint.settings.concurrency)
    try:
        futures = [pool.submit(_one, endpoint, *each, ends, names) for each in wanted]
        done = []
        for future in futures:
            done.append(future.result())
            progress.stop_point(f"completion {len(done)} of {len(wanted)} from {endpoint.label}")
        return done
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _one(
    endpoint: Endpoint, request: SampleRequest, seed: int, limit: int, ends: Sequence[int], names: list[str]
) -> SampledTokens:
    import openai

    body = {
        "model": endpoint.model, "prompt": list(map(int, request.ids)), "seed": int(seed), "max_tokens": limit,
        "temperature": 1.0, "logprobs": 1,
    }  # fmt: skip
    while names:
        name = names[0]
        try:
            raw = endpoint.client.completions.with_raw_response.create(**body, extra_body={name: True})
            response = endpoint_responses.read_json(raw.text, "a completion")
            choice = endpoint_responses.read_list(response, "choices")[0]
            if (found := _tokens(choice)) is not None:
                ids, logps = found
                return SampledTokens(ids, _ended(endpoint, choice, ids, ends), logps)
        except openai.BadRequestError as error:
            if name not in str(error):
                raise _failure(endpoint, error, "sampling") from error
        except openai.APIError as error:
            raise _failure(endpoint, error, "sampling") from error
        except (endpoint_responses.MalformedResponse, LookupError, TypeError, ValueError) as error:
            raise stop.SavedFailure(f"{endpoint.label}: a malformed completion: {error}") from error
        if names[:1] == [name]:  # another thread may have learnt it
            del names[:1]
    raise ConfigError(
        f"{endpoint.label}: it returns no token ids ({', '.join(_ID_PARAMETERS)}), and rollouts are never tokenised "
        "again: use vLLM 0.10.2 or later, or ./launch/run serve"
    )


def _tokens(choice: dict[str, Any]) -> tuple[list[int], np.ndarray | None] | None:
    """(ids, their log-probabilities where there are as many) of a choice; None where it has no ids."""
    logprobs = choice.get("logprobs") or {}
    ids = choice.get("token_ids")
    if ids is None:
        names = logprobs.get("tokens") or []
        if not names or not all(str(name).startswith(_ID_PREFIX) for name in names):
            return None
        ids = [name.removeprefix(_ID_PREFIX) for name in names]
    ids, logps = [int(i) for i in ids], logprobs.get("token_logprobs") or []
    if not ids:
        raise ValueError("it has no token")
    whole = len(logps) == len(ids) and all(isinstance(x, int | float) for x in logps)
    return ids, np.array(logps, np.float32) if whole else None


def _ended(endpoint: Endpoint, choice: dict[str, Any], ids: list[int], ends: Sequence[int]) -> bool:
    """Whether a completion ended by itself. Raises SavedFailure where its last token is none that ends one here."""
    if choice.get("finish_reason") != "stop":
        return ids[-1] in ends
    if ids[-1] not in ends:
        raise stop.SavedFailure(
            f"{endpoint.label}: a completion ended with the token {ids[-1]}, and those that end one here are "
            f"{', '.join(map(str, ends))}: does it serve another model?"
        )
    return True


def _failure(endpoint: Endpoint, error: Any, what: str) -> Exception:
    """Our error of a client's: one that the same command would get again, or one after which the run goes on."""
    ours = remote.as_our_error(endpoint, error)
    if not isinstance(ours, Failure):
        return ours
    return stop.SavedFailure(
        f"{ours} It failed in {what}: the state of the last whole iteration is saved, and the same command goes on."
    )
