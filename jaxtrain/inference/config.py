"""Flag groups of commands that run a model for inference."""

import dataclasses
import os
from typing import Any

from jaxtrain import config
from jaxtrain.config import ConfigError

MODEL_HELP = (
    "a run (WORKDIR, WORKDIR@STEP, hf:DIR, hf:ORG/NAME) or an endpoint (http://HOST:PORT/v1?model=NAME)"
)


VERDICT_TOKENS = 512
JUDGE_TEMPERATURE = "Temperature of a model that judges; -1: 0, and 0.7 with several --votes"
JUDGE_MAX_NEW = "Most tokens of a verdict with its reasons, and with the thought of a model that thinks"


@dataclasses.dataclass(frozen=True)
class QualityFlags(config.Group):
    # fmt: off
    judge: str = config.arg("",
        "What scores rows: gold or correct (Tinytown's), MODULE:FUNCTION, FILE.py:FUNCTION, a reward model's run, or "
        f"what reads a rubric: {MODEL_HELP}")
    min_score: float = config.arg(7.0, "Least score of a row that is kept; a model's are from 1 to 10")
    rubric: str = config.arg("", "What a model scores by, a text or FILE.txt; empty: correct, complete, harmless")
    votes: int = config.arg(1, "Scores of each row, of which the median counts, where a model is the judge", low=1)
    soft: bool = config.arg(False,
        "Take the expected score over the model's log-probabilities, where a model is the judge")
    judge_temperature: float = config.arg(-1.0, JUDGE_TEMPERATURE, low=-1)
    judge_max_new: int = config.arg(VERDICT_TOKENS, JUDGE_MAX_NEW, low=1)
    agreement: float = config.arg(0.5, "Least share of a question's samples that come to the same answer", low=0,
        only=("kind", ("reasoning",)))
    answer_field: str = config.arg("", "Field of --source's records with the answer that reasoning must come to",
        only=("kind", ("reasoning",)))
    min_chars: int = config.arg(1, "Fewest characters of an answer", low=1)
    max_chars: int = config.arg(0, "Most characters of an answer; 0: any", low=0)
    near: float = config.arg(0.8, "Reject a row whose word 3-grams are those of an earlier one by this Jaccard index; "
        "1: the same words only, above 1: nothing", low=0.1)
    language: str = config.arg("", "Reject rows in another language than this ISO 639-1 code (extra filters)")
    # fmt: on

    def check(self):
        check_judge(self, self.is_llm_judge())
        if self.min_score != type(self).min_score and not self.judge:
            raise ConfigError("--min_score: acts only with --judge")
        if self.agreement > 1:
            raise ConfigError(f"--agreement={self.agreement}: a share, at most 1")
        if self.max_chars and self.max_chars < self.min_chars:
            raise ConfigError(f"--max_chars={self.max_chars}: below --min_chars={self.min_chars}")

    def is_llm_judge(self) -> bool:
        """Whether the judge is a model."""
        function = self.judge in ("", "gold", "correct") or (
            ":" in self.judge and not self.judge.startswith("hf:")
        )
        return is_url(self.judge) or not function


def check_judge(flags: Any, reads: bool) -> None:
    """Raises ConfigError for flags of a judge that reads a rubric where none `reads`, and for votes that are alike."""
    names = ("rubric", "votes", "soft", "judge_temperature", "judge_max_new")
    changed = [f"--{name}" for name in names if getattr(flags, name) != getattr(type(flags), name)]
    if changed and not reads:
        raise ConfigError(f"{', '.join(changed)}: acts only where a model is the --judge")
    if -1 < flags.judge_temperature < 0:
        raise ConfigError(f"--judge_temperature={flags.judge_temperature}: at least 0, or -1 for the default")
    if flags.votes > 1 and not flags.judge_temperature:
        raise ConfigError(f"--judge_temperature=0: {flags.votes} --votes at temperature 0 are one vote")


@dataclasses.dataclass(frozen=True)
class MachineFlags(config.Group):
    # fmt: off
    dtype: str = config.arg("auto", "Compute type. auto: bfloat16 on GPU and TPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"))
    matmul_dtype: str = config.arg("auto",
        "Type of the products with the decoder's kernels. auto: --dtype; int8, fp8: 8 bits, as a run trained with it "
        "computes them", choices=("auto", "int8", "fp8"))
    kv_cache: str = config.arg("auto",
        "Type of the KV cache. auto: that of computation; int8: a half of bfloat16's memory, rounded",
        choices=("auto", "int8"))
    mesh: str = config.arg("", "Mesh axes and sizes, data:2,fsdp:4,tensor:1; empty: the model on every device")
    cache_dir: str = config.arg(config.CACHE_DIR, "Where prepared data sets and compiled programs are kept")
    # fmt: on

    def check(self):
        config.parse_mesh(self.mesh)

    def model(self) -> config.Model:
        """How a model is computed here."""
        return config.Model(dtype=self.dtype, kv_cache=self.kv_cache, matmul_dtype=self.matmul_dtype)

    def require(self, *models: str) -> None:
        """Raises ConfigError for changed flags where all of the models are endpoints."""
        if all(is_url(model) for model in models if model):
            names = ["dtype", "matmul_dtype", "kv_cache", "mesh"]
            config.require_default(self, "acts only with a model on this machine", names)


KEY = "JAXTRAIN_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class HttpAddress(config.Group):
    # fmt: off
    host: str = config.arg("127.0.0.1", "Address to listen on; all but this machine's own need an API key", live=True)
    port: int = config.arg(8000, "Port to listen on; 0: any free one", low=0, live=True)
    api_key: str = config.arg("", f"Key that requests must have; better set in the environment, {KEY}", live=True)
    # fmt: on

    def check(self):
        if self.port > 65535:
            raise ConfigError(f"--port={self.port}: the highest is 65535")
        if not self.key() and self.host not in LOOPBACK:
            raise ConfigError(
                f"--host={self.host}: others can reach it, so it needs a key: set {KEY}, or --api_key"
            )

    def key(self) -> str:
        """The API key of the flag or the environment; empty: none."""
        return self.api_key or os.environ.get(KEY, "")


@dataclasses.dataclass(frozen=True)
class EndpointFlags(config.Group):
    # fmt: off
    api_key_env: str = config.arg("OPENAI_API_KEY", "Environment variable with the endpoints' key", live=True)
    timeout: float = config.arg(120.0, "Seconds that an endpoint may take for one answer", low=0.01, live=True)
    retries: int = config.arg(6, "Times that the client sends a request again, each time waiting longer", low=0,
        live=True)
    concurrency: int = config.arg(8, "Requests under way at once", low=1, live=True)
    use_cache: bool = config.arg(True, "Keep answers in --cache_dir, and take those that are there", live=True)
    price_in: float = config.arg(0.0, "Price of a million tokens that endpoints read", low=0, live=True)
    price_out: float = config.arg(0.0, "Price of a million tokens that endpoints write", low=0, live=True)
    # fmt: on

    def require(self, *models: str) -> None:
        """Raises ConfigError for changed flags where none of the models is an endpoint."""
        if not any(map(is_url, models)):
            config.require_default(self, "acts only with an endpoint as a model")

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))
