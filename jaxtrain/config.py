"""Config: frozen dataclasses and JSON. The only place where a default lives.

A stage's config is a frozen dataclass whose fields are groups (`Data`, `Optim`, ...), each a frozen dataclass made
with `arg`. Every leaf becomes one flag of the same name (flags.py); one name has one meaning in all stages. Nothing
heavy is imported here, so that a wrong command line fails before jax is loaded.
"""

import dataclasses
import math
import re
from typing import Any, Protocol

# All of them are used as config.NAME.
from jaxtrain.config_fields import (  # noqa: F401
    BUCKETS,
    HUB,
    ConfigError,
    ConfigT,
    Failure,
    Group,
    arg,
    difference,
    dumps,
    fixed_flags,
    group,
    is_bucket_error,
    is_remote,
    leaves,
    listed,
    require_default,
    to_dict,
)  # fmt: skip

CACHE_DIR = "~/.cache/jaxtrain"
SEED_MAX = 2**32 - 1  # a jax.random.key of a seed has 32 bits: of a greater one it takes the lower bits
JITTER_MIN = 2.0**-23  # a float32 is not moved by less than this share of itself


@dataclasses.dataclass(frozen=True)
class Model(Group):
    # fmt: off
    model: str = arg("tinytown-1m",
        "Named size, with changes after commas: nano,layers=8,window=128 (models/zoo.py)",
        only=("init_from", ("",)))
    init_from: str = arg("",
        "Start from this run's parameters, model and tokenizer (WORKDIR, WORKDIR@STEP, WORKDIR@best, hf:DIR, "
        "hf:ORG/NAME)", remote=True)
    dtype: str = arg("auto",
        "Compute type (mixed precision: parameters stay f32). auto: bfloat16 on GPU and TPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"), live=True)
    matmul_dtype: str = arg("auto",
        "Type of the products with the decoder's kernels, forward and backward, in training and sampling. auto: "
        "--dtype; int8, fp8: 8 bits, scaled by the values at hand (docs/models.md); parameters stay f32",
        choices=("auto", "int8", "fp8"), live=True)
    attention: str = arg("auto",
        "Attention kernel. auto: cudnn on GPU, splash on TPU, else flash; on CPU blocked, or flash from T=2048 on",
        choices=("auto", "blocked", "xla", "flash", "cudnn", "splash"), live=True)
    kv_cache: str = arg("auto",
        "Type of the KV cache of sampling. auto: that of computation; int8: a half of bfloat16's memory, rounded",
        choices=("auto", "int8"))
    scan_layers: str = arg("auto",
        "Scan over layers: compiles faster, runs 2.2 times slower on a CPU. auto: off on CPU, and in decode on GPU",
        choices=("auto", "true", "false"), live=True)
    remat: str = arg("auto",
        "What the backward pass recomputes: nothing, all but matmuls and attention, all. auto: dots, none on CPU",
        choices=("auto", "none", "dots", "full"), live=True)
    logits_limit_mb: int = arg(1024,
        "Most MiB of f32[B, T, V] a device may hold; above it the vocabulary op works in chunks of T",
        low=1, live=True)
    jitter: float = arg(0.0,
        "Move each fresh parameter by a normal draw times this share of itself (1e-6 does what another machine's "
        "rounding does); 0: not at all", low=0)
    # fmt: on

    def check(self):
        check_jitter(self.jitter)
        if self.jitter and self.init_from:
            raise ConfigError(
                f"--jitter={self.jitter:g} moves the parameters that a run draws, and those of --init_from="
                f"{self.init_from} are not drawn: leave out one of them"
            )


def check_jitter(value: float) -> None:
    """Raises ConfigError for a --jitter that moves no parameter, or leaves nothing of it."""
    if value and not JITTER_MIN <= value <= 0.1:
        raise ConfigError(
            f"--jitter={value:g}: a relative amount, 0 or from {JITTER_MIN:.2g}, the precision of a float32, to 0.1"
        )


@dataclasses.dataclass(frozen=True)
class Reading(Group):
    """How records are read of files, in every command that reads some."""

    # fmt: off
    on_bad_record: str = arg("raise",
        "A record that is broken or lacks the field: stop, or skip, count and list it",
        choices=("raise", "skip"))
    max_line_mb: int = arg(64, "MiB that a line, or another record of a file, may have; a longer one is a bad record",
        low=1)
    max_expansion: float = arg(500.0,
        "Bytes that a byte of a compressed file may stand for, once they are more than 256 MiB", low=1, live=True)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Sources(Group):
    # fmt: off
    data: str = arg("tinytown:pretrain",
        "Training data: tinytown:CONFIG, tfds:NAME[:SPLIT], hf:NAME[:SPLIT], jsonl:GLOB (JSON, Parquet, Arrow, "
        "CSV), store:PATH (stored completions), preferences:PATH (people's votes); mixed by weight: a*0.7,b*0.3",
        remote=True)
    eval_data: str = arg("",
        "Held-out data of the same form; empty: the data's own validation or test split, or eval_share of it",
        remote=True)
    eval_share: float = arg(0.02, "Share of the documents held out where the data has no test split", low=0,
        only=("eval_data", ("",)))
    tokenizer: str = arg("bpe:1024",
        "byte, bpe:SIZE (trained on the data), a tokenizer.json or SentencePiece file, or hf:NAME",
        only=("init_from", ("",)), remote=True)
    text_field: str = arg("text", "Field of a record that holds the text, where it is plain text")
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Data(Reading, Sources):  # the flags of the last come first
    # fmt: off
    seq_len: int = arg(128, "Tokens in a row (T)", low=2)
    batch_size: int = arg(8, "Rows in a global batch (B), over all devices, hosts and microbatches", low=1)
    cache_dir: str = arg(CACHE_DIR, "Folder of prepared data sets and packed tokens",
        live=True)
    # fmt: on

    def check(self):
        for name in ("mask_rate", "fim_rate", "eval_share"):
            if getattr(self, name, 0) > 1:
                raise ConfigError(f"--{name}={getattr(self, name)}: a share, at most 1")


@dataclasses.dataclass(frozen=True)
class Corpus(Data):
    # fmt: off
    objective: str = arg("next_token",
        "What is predicted: the next token, masked tokens (bidirectional attention), or the next "
        "token with middles moved last", choices=("next_token", "masked", "fim"))
    mask_rate: float = arg(0.15, "Share of tokens to predict", low=0, only=("objective", ("masked",)))
    fim_rate: float = arg(0.5, "Share of documents rearranged", low=0, only=("objective", ("fim",)))
    streaming: bool = arg(False, "Train while --data is still being tokenised: rows are shuffled within consecutive "
        "windows of documents, not over all of them")
    data_workers: int = arg(0, "Processes that tokenise --data; 0: one a core of this machine", low=0, live=True)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Dialogs(Data):
    # fmt: off
    data: str = arg("tinytown:sft",
        Data.__dataclass_fields__["data"].metadata["help"] + ". Record formats are detected, or named: "
        "?format=NAME after a source (data/record_formats.py)", remote=True)
    template: str = arg("auto",
        "Chat template: plain, hh, chatml, llama2, llama3, gemma, zephyr, none (texts as they are), hf:NAME (one of "
        "the tokenizer's own that have a name), or a Jinja file. auto: the tokenizer's own if it has one, else plain",
        remote=True)
    columns: str = arg("", "Names of a record's fields, OURS:THEIRS, such as prompt:question,chosen:chosen_response; "
        "THEIRS may be a path, input.messages, or empty: not read")
    system: str = arg("", "System message put before conversations that have none")
    too_long: str = arg("cut",
        "What does not fit seq_len: cut (last turns, then the prompt's left; never a completion), or drop; "
        "both are counted", choices=("cut", "drop"))
    # fmt: on


def dialogs_of(reading: Reading, cache_dir: str, **options: Any) -> Dialogs:
    """The group that the data package reads conversations by, for a command that trains nothing."""
    return Dialogs(**dataclasses.asdict(reading), cache_dir=cache_dir, **options)


@dataclasses.dataclass(frozen=True)
class Sampling(Group):
    """The sampling parameters that all commands for inference share; a command adds its own."""

    max_new: int = arg(256, "Most tokens of a completion", low=1)
    temperature: float = arg(1.0, "Temperature; 0 takes the likeliest token", low=0)
    seed: int = arg(
        0, "Seed; a completion depends on it, its prompt and its place alone", low=0, high=SEED_MAX
    )


@dataclasses.dataclass(frozen=True)
class Samples(Group):
    # fmt: off
    prompts: str = arg("auto",
        "Data whose prompts are answered during training. auto: tinytown:prompts:test where --data is Tinytown's, "
        "whose judge then measures the answers, else the held-out data", live=True, remote=True)
    prompt_count: int = arg(256, "Most prompts answered", low=1, live=True)
    max_new: int = arg(64, "Most tokens of an answer", low=1, live=True)
    temperature: float = arg(1.0, "Temperature of the answers; 0 takes the likeliest token", low=0, live=True)
    # fmt: on

    def answer_temperature(self) -> float:
        """The temperature of the answers to --prompts."""
        return self.temperature


@dataclasses.dataclass(frozen=True)
class Rollouts(Samples):
    # fmt: off
    max_new: int = arg(32, "Most tokens of a completion; --seq_len less this is what a prompt may have", low=1)
    temperature: float = arg(1.0, "Temperature of sampling; divides the logits in all log-probabilities", low=0.01)
    eval_temperature: float = arg(1.0, "Temperature of the answers to --prompts; 0 takes the likeliest token", low=0,
        live=True)
    group: int = arg(1, "Completions of each prompt (G)", low=1)
    minibatches: int = arg(1, "Updates in an epoch: an iteration samples --batch_size times this completions", low=1)
    epochs: int = arg(1, "Passes over an iteration's completions", low=1)
    stop_kl: float = arg(0.0,
        "Leave out the rest of an iteration's updates once policy/approxkl_avg is above this; 0: never", low=0)
    stop_at_end: bool = arg(True, "End a completion at its end token; false samples max_new tokens and cuts there")
    resample: int = arg(0, "Times that prompts are sampled again in place of groups whose scores are all equal", low=0)
    # fmt: on

    def answer_temperature(self) -> float:
        return self.eval_temperature

    def check(self):
        if self.stop_kl and self.epochs * self.minibatches == 1:
            raise ConfigError(
                f"--stop_kl={self.stop_kl}: an iteration has one update; raise --epochs or --minibatches"
            )
        if self.resample and self.group < 2:
            raise ConfigError(
                f"--resample={self.resample}: it replaces groups of equal scores, which --group=1 does not have"
            )


@dataclasses.dataclass(frozen=True)
class Scores(Group):
    # fmt: off
    reward_model: str = arg("", "Score completions with this run's reward model (a workdir, or WORKDIR@STEP)",
        remote=True)
    reward: str = arg("",
        "Score completions with a function: math, format, regex, ifeval, code, classifier?model=hf:NAME (a "
        "classifier, such as one of sentiment), gold or correct (Tinytown's judge), "
        "module:function, or FILE.py:function; several joined by commas are added, each *WEIGHT")
    ensemble: str = arg("auto", "One score of a reward model's members. auto: as the reward run has it",
        choices=("auto", "mean", "min", "penalised"))
    price: float = arg(0.1, "Price of the members' variance", low=0, only=("ensemble", ("penalised",)))
    score_cap: float = arg(-1.0,
        "Clip scores above this, counted: a reward model's highest are often far from its data. 0: as they are; "
        "-1: 2 with --reward_model, whose scores have variance 1, else 0", low=-1)
    truncated: str = arg("score",
        "A completion without an end: score it as any, subtract --truncated_penalty, replace its score by minus "
        "that, or mask: leave it out of the loss", choices=("score", "subtract", "replace", "mask"))
    truncated_penalty: float = arg(1.0, "What a missing end costs", low=0,
        only=("truncated", ("subtract", "replace")))
    truncate_at: str = arg("",
        "A completion is scored up to the first token with this text from --truncate_from on, and ends there")
    truncate_from: int = arg(16, "First token of a completion at which --truncate_at acts, from 0", low=0)
    overlong_buffer: int = arg(0, "Tokens before --max_new over which a soft penalty grows to 1 (DAPO); 0: none", low=0)
    # fmt: on

    def check(self):
        if self.truncate_from != type(self).truncate_from and not self.truncate_at:
            raise ConfigError(f"--truncate_from={self.truncate_from}: acts only with --truncate_at")
        if self.ensemble != "auto" and self.reward:
            raise ConfigError(f"--ensemble={self.ensemble}: --reward={self.reward} has no members")

    def cap(self) -> float:
        """The value above which scores are clipped; 0: never."""
        return self.score_cap if self.score_cap >= 0 else 2.0 * bool(self.reward_model)

    def require(self):
        """Raises ConfigError unless exactly one source of scores is named."""
        if bool(self.reward_model) == bool(self.reward):
            raise ConfigError(
                "--reward_model, --reward: name one of them, such as --reward_model=runs/reward"
            )


@dataclasses.dataclass(frozen=True)
class Lora(Group):
    # fmt: off
    lora_rank: int = arg(0, "Train low-rank adapters of this rank instead of the weights; 0: the weights", low=0)
    lora_alpha: float = arg(16.0, "The adapters' product is multiplied by this / rank", low=0)
    lora_targets: str = arg("attention,mlp",
        "Which kernels have adapters: regular expressions joined by commas, searched in names such as "
        "layers/attention/q/kernel")
    dora: bool = arg(False, "Train the kernels' column norms too (DoRA)")
    base_weights: str = arg("float32",
        "Type of the frozen kernels under the adapters: int8 (a scale for each output), or nf4 (4 bits and a scale for "
        "each 64: QLoRA)", choices=("float32", "int8", "nf4"))
    # fmt: on

    def check(self):
        if self.base_weights != "float32" and not self.lora_rank:
            raise ConfigError(
                f"--base_weights={self.base_weights}: quantized weights are frozen: add --lora_rank=16, or leave it out"
            )
        changed = [f"--{f.name}" for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        if changed and not self.lora_rank:
            raise ConfigError(f"{', '.join(changed)}: acts only with --lora_rank above 0")


@dataclasses.dataclass(frozen=True)
class Optim(Group):
    # fmt: off
    optimizer: str = arg("adamw", "Optimizer",
        choices=("adamw", "adam_tf", "lion", "adafactor", "sgd", "rmsprop", "muon"))
    lr: float = arg(4e-3, "Peak learning rate", low=0)
    adam_lr: float = arg(0.0,
        "Peak learning rate of what muon leaves to Adam: embeddings, unembedding, norms, biases; 0: --lr", low=0,
        only=("optimizer", ("muon",)))
    schedule: str = arg("cosine",
        "Learning rate after warm-up; wsd: constant, then linear to the end over decay_share",
        choices=("constant", "linear", "cosine", "wsd"))
    warmup: int = arg(50, "Steps of linear warm-up from 0", low=0)
    end_lr: float = arg(0.1, "Final learning rate as a share of lr", low=0,
        only=("schedule", ("linear", "cosine", "wsd")))
    decay_share: float = arg(0.2, "Share of the steps in which the rate decays", low=0,
        only=("schedule", ("wsd",)))
    weight_decay: float = arg(0.1,
        "Decoupled weight decay, on matrices only: not on norms, biases or embeddings", low=0)
    b1: float = arg(0.9, "Decay of the first moment (momentum, for sgd, rmsprop and muon)", low=0,
        only=("optimizer", ("adamw", "adam_tf", "lion", "sgd", "rmsprop", "muon")))
    b2: float = arg(0.98, "Decay of the second moment", low=0,
        only=("optimizer", ("adamw", "adam_tf", "lion", "rmsprop", "muon")))
    eps: float = arg(1e-8, "Added to the root of the second moment (adam_tf: before its bias is corrected)", low=0,
        only=("optimizer", ("adamw", "adam_tf", "rmsprop", "muon")))
    clip: float = arg(1.0, "Most global norm of a gradient; 0 does not clip", low=0)
    ema: float = arg(0.0, "Decay of the moving average of the parameters; 0 keeps none", low=0)
    microbatches: int = arg(1, "Gradient accumulation: parts that a batch is computed in; same result", low=1,
        live=True)
    # fmt: on

    def check(self):
        for name in ("b1", "b2", "ema"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"--{name}={getattr(self, name)}: must be below 1")
        if self.decay_share > 1:
            raise ConfigError(f"--decay_share={self.decay_share}: a share, at most 1")


TRACKERS = ("wandb", "trackio", "mlflow")  # of --track; train/trackers.py opens them


@dataclasses.dataclass(frozen=True)
class Run(Group):
    # fmt: off
    workdir: str = arg("auto",
        "The run's folder; the same command resumes it. auto: runs/STAGE, and behind it -MODEL and "
        "-DATA where they are not the default ones", live=True, remote=True)
    steps: int = arg(1500, "Training steps", low=1)
    seed: int = arg(0, "Seed of initialisation, data order and sampling", low=0, high=SEED_MAX)
    parallel: str = arg("auto",
        "pmap (replicated), or mesh (sharded). auto: pmap for one process without --mesh",
        choices=("auto", "pmap", "mesh"), live=True)
    mesh: str = arg("",
        "Mesh axes (data, fsdp, expert, context, tensor) and sizes, data:2,fsdp:4; -1 takes the rest of the devices",
        live=True)
    eval_every: int = arg(500, "Steps between evaluations; 0: only at the end", low=0, live=True)
    eval_batches: int = arg(16, "Most held-out batches in an evaluation; 0: all", low=0, live=True)
    eval_tasks: str = arg("",
        "Benchmarks of an evaluation, joined by commas: core (DCLM's CORE), and tasks of lm-eval (extra lm-eval) such "
        "as arc_easy; their measures are metrics, eval/TASK/MEASURE", live=True)
    eval_tasks_dir: str = arg("",
        "Folder with task files of lm-eval, *.yaml, or with DCLM's evaluation bundle (core.yaml)", live=True)
    eval_tasks_every: int = arg(0, "Steps between evaluations with --eval_tasks, a multiple of --eval_every; 0: each",
        low=0, live=True)
    eval_tasks_limit: int = arg(0, "Most questions of a task; 0: all", low=0, live=True)
    sample_every: int = arg(500, "Steps between samples; 0: only at the end", low=0, live=True,
        only=("objective", ("next_token", "fim")))
    checkpoint_every: int = arg(500, "Steps between checkpoints; 0: only at the end", low=0, live=True)
    keep: int = arg(2, "Checkpoints kept, the newest ones; of 1, until the run ends, the one before it, too", low=1,
        live=True)
    keep_best: str = arg("",
        "Keep the best checkpoint, too: METRIC[:max|min], a metric of evaluation as metrics.jsonl calls it, such as "
        "eval/loss; RUN@best names it. Without a direction its name decides: a loss is to be low", live=True)
    log_every: int = arg(10, "Steps between lines of metrics", low=1, live=True)
    max_skips: int = arg(10,
        "Steps in a row that are not applied, after which the run stops", low=1, live=True)
    skip_spikes: float = arg(0.0,
        "Do not apply a step whose loss or gradient norm is this many standard deviations above the last 128 applied "
        "steps' (6 is usual); 0: apply it", low=0, live=True)
    step_timeout: str = arg("auto",
        "Seconds without a finished step, batch or save after which a run ends with status 42 and its threads' stacks "
        "(compilations and saves have an hour). auto: 600, or 20 times the median step; 0: never", live=True)
    track: str = arg("",
        "Trackers that get the metrics, too, joined by commas: wandb, trackio, mlflow (extras of these names)",
        live=True)
    profile: str = arg("",
        "STEP:COUNT: write a trace and a memory profile of COUNT steps, from STEP on, into profile/ of the run",
        live=True)
    dry_run: bool = arg(False,
        "Show the data, the sizes and the cost of a step, check the first step, and stop", live=True)
    # fmt: on

    def task_names(self) -> list[str]:
        """The parts of --eval_tasks, each once."""
        return list(dict.fromkeys(listed(self.eval_tasks)))

    def trackers(self) -> tuple[str, ...]:
        """The parts of --track. Raises ConfigError for one that there is not."""
        names = tuple(one.strip() for one in self.track.split(",")) if self.track else ()
        for name in names:
            if name not in TRACKERS:
                raise ConfigError(f"--track={self.track}: {name!r} is none of {', '.join(TRACKERS)}")
        return tuple(dict.fromkeys(names))

    def profile_window(self) -> tuple[int, int] | None:
        """(first step, number of steps) of --profile, None without it. Raises ConfigError."""
        if not self.profile:
            return None
        first, count = (int(n) if n.isdecimal() else 0 for n in self.profile.partition(":")[::2])
        if not (first and count) or first + count - 1 > self.steps:
            raise ConfigError(
                f"--profile={self.profile}: write STEP:COUNT, such as 20:3 for steps 20 to 22, of --steps={self.steps}"
            )
        if is_remote(self.workdir):
            raise ConfigError(
                f"--profile: its files are for a folder, and --workdir={self.workdir} is in a bucket"
            )
        return first, count

    def timeout(self) -> float | None:
        """Seconds of --step_timeout, None for auto. Raises ConfigError."""
        try:
            seconds = None if self.step_timeout == "auto" else float(self.step_timeout)
        except ValueError:
            seconds = -1.0
        if seconds is not None and not 0 <= seconds < math.inf:
            raise ConfigError(f"--step_timeout={self.step_timeout}: write auto, seconds, or 0 for never")
        return seconds

    def check(self):
        self.timeout()
        self.trackers()
        self.profile_window()
        flags = ("eval_tasks_dir", "eval_tasks_every", "eval_tasks_limit")
        if not self.task_names() and (changed := [f"--{name}" for name in flags if getattr(self, name)]):
            raise ConfigError(f"{', '.join(changed)}: acts only with --eval_tasks; leave it out")
        if (every := self.eval_tasks_every) and (not self.eval_every or every % self.eval_every):
            raise ConfigError(
                f"--eval_tasks_every={every}: write a multiple of --eval_every={self.eval_every}, above 0"
            )
        sizes = parse_mesh(self.mesh)
        if self.parallel == "pmap" and any(sizes.get(axis, 1) != 1 for axis in MESH_AXES[1:]):
            raise ConfigError(
                f"--parallel=pmap replicates the model and keeps rows whole, --mesh={self.mesh} does not: "
                "use --parallel=mesh, or only the data axis"
            )


class StageConfig(Protocol):
    """What the config of every training command has; a command adds its own groups."""

    model: Model
    data: Data
    optim: Optim
    lora: Lora
    run: Run


class DialogStageConfig(StageConfig, Protocol):
    """The config of a stage on conversations, which answers --prompts as training goes on."""

    data: Dialogs
    samples: Samples


class RolloutStageConfig(DialogStageConfig, Protocol):
    """The config of an on-policy stage."""

    samples: Rollouts
    scores: Scores


MESH_AXES = ("data", "fsdp", "expert", "context", "tensor")
ROW_AXES = MESH_AXES[:3]  # those that a batch's rows are split over


def parse_mesh(text: str) -> dict[str, int]:
    """`data:2,fsdp:-1` as {"data": 2, "fsdp": -1}."""
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition(":")
        if axis not in MESH_AXES or axis in sizes or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise ConfigError(
                f"--mesh={text}: write AXIS:SIZE,... with axes {', '.join(MESH_AXES)}, each once, "
                "sizes of 1 or more, or -1 for the rest"
            )
        sizes[axis] = int(size)
    if list(sizes.values()).count(-1) > 1:
        raise ConfigError(f"--mesh={text}: only one axis can take the rest (-1)")
    return sizes
