"""An attack by malformed records: each stage's preparation of data, and other commands that read some, under
--on_bad_record=skip and raise.

What is promised of any record: it is used, or skipped with a count and a reason, or the command stops with a
ConfigError that names its file and line. And the numbers add up: read = used + left out by reason.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import json
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.apps.soak import record_commands
from jaxtrain.apps.soak.outcome import Outcome
from jaxtrain.config import ConfigError, Corpus, Dialogs
from jaxtrain.data import chat, dialogs, pipeline, preferences, prompts, source_spec, sources
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.distillation import logprob_data

Prepare = Callable[[str, str, str], None]  # (--data, --on_bad_record, --cache_dir); raises ConfigError

_RANKED = ("chosen", "responses", "ranked", "marked", "tree", "rows of a tree")
_JUDGED = ("chosen", "responses", "judged")
_CHAT = (
    "messages",
    "conversations",
    "completion",
    "instruction",
    "question",
    "stored",
    "tree",
    "rows of a tree",
    "text",
)
_SHARE = 0.3  # held out
_T = 64  # of a row


class RecordStage(NamedTuple):
    """A stage's preparation of data, the formats that it is attacked with, and its policies for bad records."""

    prepare: Prepare
    formats: tuple[str, ...]
    policies: tuple[str, ...] = ("skip", "raise")
    named: bool = True  # whether ?format= may be there
    data_sets: bool = False  # whether its records are in TFDS data sets rather than files


def _corpus(**options: Any) -> Prepare:
    def prepare(data: str, policy: str, cache_dir: str) -> None:
        tokenizer = ByteTokenizer() if "tokenizer" not in options else None
        cfg = Corpus(
            data=data,
            on_bad_record=policy,
            cache_dir=cache_dir,
            eval_share=_SHARE,
            seq_len=_T,
            batch_size=2,
            **options,
        )
        _drawn(pipeline.prepare(cfg, seed=0, tokenizer=tokenizer))
        if policy == "skip":
            _check_documents(cfg)

    return prepare


def _dialogs(data: str, policy: str, cache_dir: str) -> Dialogs:
    return Dialogs(
        data=data, on_bad_record=policy, cache_dir=cache_dir, eval_share=_SHARE, seq_len=_T, batch_size=2,
        too_long="cut",
    )  # fmt: skip


def _template(data: str) -> chat.Template:
    """A template, another one for other data."""
    names = ("plain", "hh", "chatml", "llama2", "llama3", "gemma")
    digest = hashlib.blake2b(Path(data.partition(":")[2].partition("?")[0]).name.encode()).digest()
    return chat.load_template(names[digest[0] % len(names)], ByteTokenizer())


def _chat(make: Callable[..., Any], folder: str, **options: Any) -> Prepare:
    def prepare(data: str, policy: str, cache_dir: str) -> None:
        template = _template(data)
        cfg = _dialogs(data, policy, cache_dir)
        _drawn(make(cfg, seed=0, tokenizer=template.tokenizer, template=template, **options))
        if policy == "skip" and folder:
            _check_counts(Path(cache_dir) / folder)

    return prepare


def _prompts(data: str, policy: str, cache_dir: str) -> None:
    template, cfg = _template(data), _dialogs(data, policy, cache_dir)
    prompts.read_prompts(data, cfg, template, flag="data", train=True, notes=[])
    prompts.read_prompts(data, cfg, template, limit=3, required=False, notes=[])


def _conversations(data: str, policy: str, cache_dir: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # a line for each batch
        prompts.read_conversations(data, "data", _dialogs(data, policy, cache_dir), 0)


STAGES: Mapping[str, RecordStage] = {
    "pretrain": RecordStage(_corpus(), ("text",), named=False),
    "pretrain, fill in the middle": RecordStage(_corpus(tokenizer="bpe:300", objective="fim"), ("text",), named=False),
    "sft": RecordStage(_chat(dialogs.prepare, "dialogs"), _CHAT),
    "reward and dpo": RecordStage(_chat(preferences.prepare, "comparisons"), _RANKED),
    "reward of rankings": RecordStage(_chat(preferences.prepare, "comparisons", kind="ranked"), _RANKED),
    "dpo of single completions": RecordStage(_chat(preferences.prepare, "", kind="unpaired"), _JUDGED),
    "prompts of ppo, grpo and evaluate": RecordStage(_prompts, (*_CHAT, *_RANKED, "judged", "prompt")),
    "seeds of synthesize and constitutional": RecordStage(_conversations, (*_CHAT, "prompt")),
    "distill": RecordStage(_chat(logprob_data.prepare, ""), ("stored",)),
    "filter_data": RecordStage(record_commands.filter_data, ("text", "messages", "chosen", "stored")),
    "train_classifier": RecordStage(record_commands.train_classifier, ("labelled",), named=False),
    "people of evaluate": RecordStage(record_commands.people, ("vote",), named=False),
    "pretrain of array_record files": RecordStage(_corpus(), ("text",), data_sets=True),
    "sft of array_record files": RecordStage(_chat(dialogs.prepare, "dialogs"), ("completion",), data_sets=True),
    "reward and dpo of array_record files": RecordStage(
        _chat(preferences.prepare, "comparisons"), ("chosen",), data_sets=True),
    "dpo of single completions of array_record files": RecordStage(
        _chat(preferences.prepare, "", kind="unpaired"), ("judged",), data_sets=True),
}  # fmt: skip


class Unaccounted(AssertionError):
    """Numbers do not add up, or a message does not say where."""


def _drawn(data: Any) -> None:
    """Makes a batch of each side."""
    data.train.batch(0)
    data.eval.batch(0)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Unaccounted(what)


def _check_documents(cfg: Corpus) -> None:
    """Every record of a corpus is a document, an empty one or a skipped one."""
    (source,) = source_spec.parse(cfg.data)
    sides = [side for side in sources.train_and_held_out(source, cfg) if side is not None]
    read = sum(map(len, sides))
    # Where nothing that was held out could be used, the caches of the first try are there too: the newest count.
    files = sorted(Path(cfg.cache_dir).glob("tokens/**/meta.json"), key=lambda path: path.stat().st_mtime_ns)
    metas = [json.loads(path.read_text()) for path in files[-len(sides) :]]
    sums = Counter()
    for meta in metas:
        sums.update({name: meta[name] for name in ("documents", "empty", "skipped")})
    _require(sums.total() == read, f"{read} documents read, {dict(sums)}")


def _check_counts(folder: Path) -> None:
    """Every conversation or comparison is used, or counted by the reason why it is not."""
    for path in folder.glob("*/counts.json"):
        counts = Counter(json.loads(path.read_text()) | {"unused": 0, "further": 0})
        listed = len((path.parent / "skipped.jsonl").read_text().splitlines())
        _require(listed == counts["bad"], f"{listed} bad records listed, {counts['bad']} counted")
        if counts["items"] + counts["bad"] < counts["read"] - counts["unranked"]:
            raise Unaccounted(f"{counts['read']} read, {counts['items']} items and {counts['bad']} bad")
        lost = counts["items"] - counts["kept"]
        reasons = ("long", "unlearnt", "empty", "equal", "undecided")
        _require(lost <= sum(counts[name] for name in reasons), f"{lost} left out, {dict(counts)}")


@dataclasses.dataclass
class _Tally:
    """What a stage's records came to."""

    records: int = 0
    held: int = 0
    first: str = ""
    ends: Counter[str] = dataclasses.field(default_factory=Counter)


def attack(
    count: int, seed: int, stages: Mapping[str, RecordStage] = STAGES, most: int = 24
) -> list[Outcome]:
    """A row for each stage, after at least `count` malformed records in all; the same ones for the same seed.

    Raises ConfigError where hypothesis is not there.
    """
    return [_outcome(name, tally, count, seed) for name, tally in tallies(count, seed, stages, most).items()]


def _outcome(name: str, tally: _Tally, count: int, seed: int) -> Outcome:
    detail = tally.first or ", ".join(f"{n:,} {end}" for end, n in tally.ends.most_common())
    return Outcome(
        f"malformed records: {name}", tally.records, tally.held, f"{detail} (seed {seed}, {count:,} records)"
    )


def tallies(count: int, seed: int, stages: Mapping[str, RecordStage], most: int = 48) -> dict[str, _Tally]:
    """What the records of each stage came to, as `attack` counts them."""
    if importlib.util.find_spec("hypothesis") is None:
        raise ConfigError("malformed records need the package hypothesis; pip install 'jaxtrain[soak]'")
    share = -(-count // len(stages))
    return {
        name: _attacked(stage, share, seed * 100 + i, most) for i, (name, stage) in enumerate(stages.items())
    }


def _attacked(stage: RecordStage, count: int, seed: int, most: int) -> _Tally:
    """What `count` records or a few more come to in a stage."""
    import hypothesis

    from jaxtrain.apps.soak import array_records, malformed

    batches = array_records.data_sets if stage.data_sets else malformed.batches
    tally = _Tally()

    def run(batch: Any) -> None:
        if tally.records < count:
            _run(batch, stage, tally)

    rounds = 0
    while tally.records < count:
        settings = hypothesis.settings(
            max_examples=max(1, 3 * (count - tally.records) // most),  # a batch has half of `most` or so
            database=None,
            deadline=None,
            phases=(hypothesis.Phase.generate,),
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        given = hypothesis.given(batches(stage.formats, stage.named, most))
        hypothesis.seed(seed * 1_000 + rounds)(settings(given(run)))()
        rounds += 1
    return tally


def _run(batch: Any, stage: RecordStage, tally: _Tally) -> None:
    """Puts a batch through a stage, and counts what came of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in batch.files:
            (folder / file.name).parent.mkdir(exist_ok=True)
            (folder / file.name).write_bytes(file.content)
        pattern = folder / ("*" if len(batch.files) > 1 else batch.files[0].name)
        data = f"tfds:{folder / 'set'}" if stage.data_sets else f"jsonl:{pattern}{batch.option}"
        size = sum(file.count for file in batch.files)
        tally.records += size
        ends = [_end(stage, data, policy, folder) for policy in stage.policies]
        tally.ends.update({end.partition(":")[0]: size for end in ends})
        wrong = [end for end in ends if end.startswith("fault")] or [*_wrong(batch, data, folder)]
        if not wrong and ends[0].startswith("prepared, some skipped") and ends[-1].startswith("prepared"):
            wrong = ["fault: what is skipped as a bad record is accepted where the first stops"] * (
                len(ends) > 1
            )
        tally.held += 0 if wrong else size
        if wrong and not tally.first:
            tally.first = f"{wrong[0]}: {', '.join(file.name for file in batch.files)} of {batch.format}"
            tally.first += f" {batch.files[0].content[:2_000]!r}"


def _end(stage: RecordStage, data: str, policy: str, folder: Path) -> str:
    """How the preparation ended: prepared, refused or with a fault, and its message."""
    cache_dir = folder.with_name(f"{folder.name}.{policy}")
    try:
        stage.prepare(data, policy, str(cache_dir))
        lists = [path.read_text(encoding="utf-8") for path in cache_dir.rglob("skipped.jsonl")]
        rows = [json.loads(line) for text in lists for line in text.split("\n") if line]
        listed = [row["where"] for row in rows if row["reason"] != "the file is empty"]
        if nowhere := [where for where in listed if not _names_a_place(where, folder)]:
            return f"fault: no file and line in {nowhere[0]}"
        return "prepared, some skipped" if listed else "prepared"
    except ConfigError as error:
        if (
            policy == "raise"
            and "--on_bad_record=skip" in str(error)
            and not _names_a_place(str(error), folder)
        ):
            return f"fault: no file and line in {error}"
        return f"refused: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"fault: {type(error).__name__} {error} ({Path(where.filename).name}:{where.lineno}, {policy})"
    finally:
        shutil.rmtree(cache_dir, ignore_errors=True)


def _names_a_place(message: str, folder: Path) -> bool:
    """Whether a message has a file of the folder with a line, a row or a member."""
    after = message.partition(f"{folder}/")[2]
    place = f"{after}: ".partition(": ")[0]
    return bool(after) and any(part.isdigit() for part in place.replace(":", " ").split())


def _wrong(batch: Any, data: str, folder: Path) -> Iterator[str]:
    """What is wrong with the records that are read: each line is a record, or is listed as a bad one, and a record of a
    data set is what was written, or none is read.
    """
    if not batch.expected and not all(file.lines for file in batch.files):
        return
    cfg = _dialogs(data, "skip", str(folder / "cache"))
    try:
        records = sources.whole(source_spec.parse(data)[0], cfg, None)
        # repr: of bytes that are no UTF-8, which whoever needs the field refuses
        read = [
            json.dumps(one, sort_keys=True, default=repr) for _, block in records.blocks() for one in block
        ]
    except ConfigError:
        return
    if batch.expected:
        same = [one in ("", two) for one, two in zip(batch.expected, read, strict=False)]
        if not all(same) or len(read) != len(batch.expected):
            yield f"fault: {len(read)} records are read, of {len(batch.expected)}, others at {same}"
        return
    count = sum(file.count for file in batch.files)
    if len(records) + records.skipped != count:
        yield f"fault: {count} lines are {len(records)} records and {records.skipped} bad ones"
