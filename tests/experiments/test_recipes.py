"""Recipes: their headers, and a dry run of each on 8 devices, with stand-in models and its data's own records."""

import gzip
import json
import re
import shlex

import jax
import pytest

from jaxtrain import flags as command_line
from jaxtrain.apps.constitutional import principles
from jaxtrain.apps.constitutional.config import Constitutional
from jaxtrain.config import dialogs_of
from jaxtrain.data import record_formats
from jaxtrain.data.prompts import read_conversations
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.models import zoo
from jaxtrain.rewards import functions
from jaxtrain.rewards.function_args import available
from tests import hf_classifiers, hf_folders, tiny
from tests.docs import test_commands
from tests.runs import ROOT, call, jsonl

RECIPES = ROOT / "experiments" / "recipes"
FILES = sorted(RECIPES.glob("*.flags"))
FIELDS = ("Paper", "Hardware", "Hours", "Expected", "Status")
STATUS = ("not run here.", "measured here.")
MESH = "--mesh=fsdp:8"

# Records with exactly the columns of the data sets.
POST = "SUBREDDIT: r/pets\n\nTITLE: A cat\n\nPOST: It sleeps all day, number {}.\n\nTL;DR:"
HH = "\n\nHuman: What is {}?\n\nAssistant: A number.\n\nHuman: Which one?\n\nAssistant: {}"
ULTRACHAT = [
    ("user", "What is {}?"),
    ("assistant", "A number."),
    ("user", "Which?"),
    ("assistant", "The number {}."),
]
DATA = {
    "Anthropic/hh-rlhf": lambda i: {  # of which a few differ before their last turn
        "chosen": HH.format(i, f"It is {i}."),
        "rejected": HH.format(i, "I do not know.") if i != 11 else HH.partition("\n\nHuman: Which")[0].format("it"),
    },
    "trl-lib/tldr": lambda i: {"prompt": POST.format(i), "completion": f" Cat {i} sleeps."},
    "trl-lib/tldr-preference": lambda i: {
        "prompt": POST.format(i), "chosen": f" Cat {i} sleeps.", "rejected": " Cats are animals.",
    },
    "vwxyzjn/summarize_from_feedback_tldr_3_filtered": lambda i: {
        "id": f"t3_{i}", "subreddit": "pets", "title": "A cat", "post": f"It sleeps all day, number {i}.",
        "summary": f"Cat {i} sleeps.",
    },
    "openai/summarize_from_feedback": lambda i: {
        "info": {
            "id": f"t3_{i}", "post": f"It sleeps all day, number {i}.", "title": "A cat", "subreddit": "pets",
            "site": None, "article": None,
        },
        "summaries": [
            {"text": f" Cat {i} sleeps.", "policy": "sup1", "note": None},
            {"text": " Cats are animals.", "policy": "ref", "note": None},
        ],
        "choice": i % 2, "worker": "w", "batch": "batch3", "split": "train", "extra": {"confidence": 7},
    },
    "stanfordnlp/imdb": lambda i: {"text": f"The film number {i} was really great fun, and not dull.", "label": i % 2},
    "HuggingFaceH4/ultrachat_200k": lambda i: {
        "prompt": f"What is {i}?", "prompt_id": f"{i:064x}",
        "messages": [{"content": text.format(i), "role": role} for role, text in ULTRACHAT],
    },
    "HuggingFaceH4/ultrafeedback_binarized": lambda i: {
        "prompt": f"What is {i}?", "prompt_id": f"{i:064x}",
        "chosen": [{"content": f"What is {i}?", "role": "user"}, {"content": "A number.", "role": "assistant"}],
        "rejected": [{"content": f"What is {i}?", "role": "user"}, {"content": "Who knows.", "role": "assistant"}],
        "messages": [{"content": f"What is {i}?", "role": "user"}, {"content": "A number.", "role": "assistant"}],
        "score_chosen": 8.5, "score_rejected": 4.0,
    },
    "HuggingFaceFW/fineweb": lambda i: {
        "text": f"On day {i} the sea was calm, and the ship went on. " * 3, "id": f"<urn:uuid:{i}>",
        "dump": "CC-MAIN-2024-10", "url": f"http://page{i}", "date": "2024-02-20T00:00:00Z", "file_path": "s3://x",
        "language": "en", "language_score": 0.97, "token_count": 40,
    },
    "lm1b": lambda i: {"text": f"The price of oil rose by {i} cents on Monday ."},
    "openai/gsm8k": lambda i: {
        "question": f"Tom has {i} pens and buys 2. How many has he?",
        "answer": f"He has {i} + 2 = <<{i}+2={i + 2}>>{i + 2} pens.\n#### {i + 2}",
    },
    "allenai/RLVR-GSM": lambda i: {
        "messages": [{"content": f"Tom has {i} pens and buys 2. How many has he?", "role": "user"}],
        "ground_truth": str(i + 2), "dataset": "gsm8k",
    },
    "vicgalle/alpaca-gpt4": lambda i: {
        "instruction": "Add the numbers.", "input": f"{i}, 2", "output": f"{i + 2}", "text": "Below is an instruction",
    },
}  # fmt: skip

# Stand-ins of the same architecture, with the same kind of tokenizer and chat template.
HEADERS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TULU = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
    "{{ (eos_token if m.role == 'assistant' else '') + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA3_ROLES = {"bos_token": HEADERS[0], "eos_token": HEADERS[1]}
TEXT_END = {"specials": ("<|endoftext|>",), "roles": hf_folders.BASE, "template": ""}
STANDINS = {
    "pythia": ("pythia-160m", TEXT_END),
    "gpt2": ("gpt2", TEXT_END),
    "mistral": (
        "mistral-7b",
        {"specials": ("<s>", "</s>"), "roles": {"bos_token": "<s>", "eos_token": "</s>"}, "template": ""},
    ),
    "llama3": ("llama3.1-8b", {"specials": HEADERS, "roles": LLAMA3_ROLES, "template": ""}),
    "tulu": ("llama3.1-8b", {"specials": HEADERS, "roles": LLAMA3_ROLES, "template": TULU}),
    "qwen": ("qwen2-0.5b", {}),
}
SMALL = ("--seq_len=128", "--batch_size=8", "--microbatches=1", "--steps=4", "--warmup=0", "--eval_share=0.2")
ROLLOUTS = ("--max_new=8", "--prompt_count=4")


class Stand:
    """Where the stand-ins are written, each once."""

    def __init__(self, folder):
        self.folder, self.cache = folder, f"--cache_dir={folder / 'cache'}"

    def model(self, name):
        family, options = STANDINS[name]
        path = self.folder / name
        if not path.exists():
            arch = tiny.shrink(
                family, layers=1, vocab=264, max_len=0 if name not in ("gpt2", "pythia") else 2048
            )
            hf_folders.write(path, arch=arch, **options)
        return path

    def data(self, name, options=""):
        path = self.folder / f"{name.replace('/', '--')}.jsonl"
        if not path.exists():
            jsonl(path, [DATA[name](i) for i in range(24)])
        return f"jsonl:{path}{options}"

    def dry_run(self, recipe, stage, *flags, start=""):
        """What a recipe's dry run on 8 devices prints; it must show rows, and leave no run behind."""
        workdir = self.folder / "unused"
        recipe = [f"--flagfile={RECIPES / recipe}.flags"] if recipe else []
        start = [f"--init_from=hf:{self.model(start)}"] if start else []
        given = (*recipe, *SMALL, *flags, MESH, self.cache, f"--workdir={workdir}", *start)
        said = call(stage, *given, "--dry_run")
        assert not workdir.exists() and "plan                   mesh, 8 x cpu" in said, said
        whole, shard = map(
            float, re.search(r"training state +([\d.]+) MiB, ([\d.]+) MiB on each", said).groups()
        )
        assert shard < whole / 3, said
        return said


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    """Runs on the 8 devices of tests/conftest.py, with little optimised."""
    jax.config.update("jax_disable_most_optimizations", True)
    return Stand(tmp_path_factory.mktemp("recipes"))


def header(file):
    """The lines of a recipe's header without their marks, and the commands among them."""
    lines = [line[2:].rstrip() for line in file.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return text, re.findall(r"^ +(\./launch/.*)$", text, re.M)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_opens_with_paper_hardware_hours_and_number(file):
    text, commands = header(file)
    assert [name for name in FIELDS if not re.search(rf"^{name}: +\S", text, re.M)] == []
    assert re.search(r"^Status: +(.*)$", text, re.M)[1] in STATUS
    assert commands and any(file.name in command for command in commands)
    assert [problem for command in commands for problem in test_commands.problems(command)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_number_that_was_not_read_again_says_so(file):
    text, _ = header(file)
    expected = re.search(r"^Expected: +(.*?)^Status:", text, re.M | re.S)[1]
    words = " ".join(expected.split())
    if re.search(r"^Status: +measured here", text, re.M):
        assert re.search(r"results\.md|seeds|all rows", words)
    else:
        assert words.startswith("no number") or re.search(r"\b(re-)?read\b|none published", words)


def unindented(said):
    return re.sub(r"^ +", "", said, flags=re.M)


def learnt(said):
    """The rows that a dry run shows, each with what is in the loss between « and »."""
    rows = re.findall(r"^  row \d+: .*\n((?:    .*\n|\n)*)", said, re.M)
    assert rows, said
    texts = [re.sub(r"^    ", "", row, flags=re.M).rstrip("\n") for row in rows]
    return [
        "".join(
            f"«{part}»" if i % 2 == 0 and part.strip() else ""
            for i, part in enumerate(re.split("[⟨⟩]", text))
        )
        for text in texts
    ]


END = r"<\|endoftext\|>"
ON_DATA = [
    ("sft_hh", "pythia", "Anthropic/hh-rlhf?format=preferred", rf"« A number\.{END}»« It is \d+\.{END}»"),
    ("dpo_hh", "pythia", "Anthropic/hh-rlhf", rf"« It is \d+\.{END}»"),
    ("reward_hh", "pythia", "Anthropic/hh-rlhf", rf"« It is \d+\.{END}»"),
    ("sft_tldr", "pythia", "trl-lib/tldr", rf"« Cat \d+ sleeps\.{END}»"),
    ("sft_imdb", "gpt2", "stanfordnlp/imdb", rf"«The film number \d+ was .* dull\.{END}»"),
    ("sft_zephyr", "mistral", "HuggingFaceH4/ultrachat_200k", r"«A number\.</s>»«The number \d+\.</s>»"),
    ("dpo_zephyr", "mistral", "HuggingFaceH4/ultrafeedback_binarized", r"«A number\.</s>»"),
]


@pytest.mark.parametrize(("recipe", "model", "data", "wanted"), ON_DATA, ids=[one[0] for one in ON_DATA])
def test_a_recipe_on_data_shows_what_is_learnt(stand, recipe, model, data, wanted):
    name, _, options = data.partition("?")
    source = stand.data(name, options and f"?{options}")
    said = stand.dry_run(recipe, recipe.partition("_")[0], f"--data={source}", "--eval_data=", start=model)
    assert re.fullmatch(wanted, learnt(said)[0], re.S), said
    assert ("no common prompt" in said) == ("hh-rlhf" in data), said


@pytest.mark.parametrize(
    ("recipe", "data", "model"),
    [
        ("pretrain_gpt2_124m", "HuggingFaceFW/fineweb", "gpt2,vocab=320"),
        ("pretrain_lm1b", "lm1b", "nano-gpt2,max_len=512,qkv_bias=false,out_bias=false,mlp_bias=false"),
    ],
)
def test_a_recipe_of_pretraining_learns_whole_texts(stand, recipe, data, model):
    tokenizer = f"--tokenizer={stand.model('gpt2')}/tokenizer.json"
    small = f"--model={model},layers=1,width=32,heads=4,ff=64"
    said = stand.dry_run(recipe, "pretrain", f"--data={stand.data(data)}", tokenizer, small)
    assert "⟨" not in learnt(said)[0] and re.search(rf"(went on|Monday)[ .]*{END}", said), said


def test_the_model_of_nanodo_has_its_shape():
    given = re.search(r"^--model=(.*)$", (RECIPES / "pretrain_lm1b.flags").read_text(), re.M)[1]
    arch = zoo.resolve(given)
    assert (arch.layers, arch.width, arch.heads, arch.ff, arch.max_len) == (6, 512, 8, 2048, 512)
    assert (arch.positions, arch.mlp, arch.tied) == ("learned", "gelu", True)
    assert not (arch.qkv_bias or arch.out_bias or arch.mlp_bias)


def test_tldr_from_reward_model_to_policy(stand):
    reward = stand.folder / "tldr-reward"
    given = (
        *SMALL,
        MESH,
        stand.cache,
        f"--init_from=hf:{stand.model('pythia')}",
        "--steps=1",
        f"--workdir={reward}",
    )
    data = f"--data={stand.data('openai/summarize_from_feedback')}"
    said = call("reward", f"--flagfile={RECIPES}/reward_tldr.flags", *given, data)
    assert re.fullmatch(rf"« Cat(s are| \d+) \w+\.{END}»", learnt(said)[0]) and "checkpoints/1" in said
    prompts = f"--data={stand.data('trl-lib/tldr')}"
    said = stand.dry_run("ppo_tldr", "ppo", prompts, f"--reward_model={reward}", *ROLLOUTS, start="pythia")
    assert re.search(r"⟨SUBREDDIT: r/pets.*TL;DR:⟩", said, re.S), "the prompt is not in the loss"
    assert re.search(r"objective/scores\s+-1\.0000", said), (
        "a summary without an end costs 1 in place of its score"
    )
    assert re.search(r"val/ratio\s+1\.0000", said) and re.search(r"objective/kl\s+0\.0000", said)


def test_imdb_is_rewarded_by_a_classifier_of_the_whole_text(stand):
    classifier = hf_classifiers.write(stand.folder / "classifier", "distilbert")
    imdb = stand.data("stanfordnlp/imdb", "?format=prefix&tokens=2-8")
    reward = f"--reward=classifier?model=hf:{classifier}&label=POSITIVE"
    said = stand.dry_run(
        "ppo_imdb", "ppo", f"--data={imdb}", "--prompts=auto", reward, *ROLLOUTS, start="gpt2"
    )
    prompts = re.findall(r"⟨(The?[^⟩]*)⟩", said)
    assert len(prompts) == 2 and all(1 < len(one) < 9 for one in prompts), (
        "the first token, BOS, is no target"
    )
    assert re.search(r"classifier/truncated\s+0\.0000", said) and re.search(r"val/ratio\s+1\.0000", said)
    assert re.search(r"completions/clipped_ratio\s+1\.0000", said), "every completion has --max_new tokens"


def test_gsm8k_is_rewarded_by_its_answers(stand):
    source = stand.data("openai/gsm8k")
    given = (f"--data={source}", f"--prompts={source}", *ROLLOUTS)
    said = unindented(stand.dry_run("ppo_gsm8k", "ppo", *given, start="tulu"))
    assert re.search(
        r"⟨<?\|user\|>\nTom has \d+ pens and buys 2\. How many has he\?\n<\|assistant\|>\n⟩", said
    )
    assert re.search(r"math/no_reference\s+0\.0000", said), (
        "every record has an answer that math-verify reads"
    )
    assert "math*10" in said and re.search(r"val/ratio\s+1\.0000", said)


def test_gkd_learns_on_the_students_own_solutions(stand):
    source = stand.data("openai/gsm8k")
    given = (f"--data={source}", f"--prompts={source}", f"--teacher=hf:{stand.model('qwen')}", *ROLLOUTS)
    said = unindented(stand.dry_run("distill_gsm8k", "distill", *given, start="qwen"))
    assert re.search(r"on_policy +1\.0000", said)
    assert re.search(r"divergence +-?0\.0000", said), "the teacher is the same model"
    assert re.search(r"⟨user\nTom has .* has he\?<\|im_end\|>\n<\|im_start\|>assistant\n⟩", said)


def test_constitutional_ai_from_red_team_prompts_to_dpo(stand):
    given = [f"--flagfile={RECIPES}/constitutional_llama3_8b.flags", "--init_from=runs/none"]
    cfg = command_line.from_flags(Constitutional, given)
    constitution = principles.load(cfg.asked.path())
    assert constitution.revising() and constitution.comparing()
    harmless = stand.folder / "train.jsonl.gz"
    with gzip.open(harmless, "wt") as file:
        file.writelines(json.dumps(DATA["Anthropic/hh-rlhf"](i)) + "\n" for i in range(24))
    reading = dialogs_of(cfg.reading, str(stand.folder / "cache"))
    prompts = read_conversations(f"jsonl:{harmless}", "data", reading, cfg.asked.prompt_count)
    assert len(prompts) == 23 and prompts[0].messages[-1] == {"role": "user", "content": "Which one?"}
    rows = {
        "sft": lambda i: {"prompt": f"How {i}?", "completion": "I will not help with that.", "round": 1},
        "dpo": lambda i: {"prompt": f"How {i}?", "chosen": "I will not.", "rejected": "So.", "p_win": 0.8},
    }
    assert cfg.training.rl == "dpo"
    for stage, more in (("sft", cfg.training.sft_flags), ("dpo", cfg.training.rl_flags)):
        data = jsonl(stand.folder / f"{stage}.jsonl", [rows[stage](i) for i in range(24)])
        given = [*shlex.split(more), *SMALL, f"--data={data}", "--template=llama3"]
        said = stand.dry_run("", stage, *given, start="llama3")
        assert re.fullmatch(r"(«I will not[^«»]*\.<\|eot_id\|>\n?»)+", learnt(said)[0]), said


ALIKE = [  # other data that the headers name, by what reads them
    ("trl-lib/tldr-preference", record_formats.COMPARED, "chosen"),
    ("vwxyzjn/summarize_from_feedback_tldr_3_filtered", record_formats.chat("text"), "summary"),
    ("vicgalle/alpaca-gpt4", record_formats.chat("text"), "instruction"),
    ("allenai/RLVR-GSM", record_formats.PROMPT, "messages"),
]


@pytest.mark.parametrize(("name", "known", "wanted"), ALIKE, ids=[name for name, _, _ in ALIKE])
def test_other_data_that_the_headers_name_are_read(name, known, wanted):
    records = Records(name, "", lambda numbers: [DATA[name](i) for i in numbers], 24)
    form = record_formats.detect(records, DataSource("hf", name), known)
    assert form.name == wanted and record_formats.read(records[3], form)
    assert any(name in file.read_text() for file in FILES)


def test_rlvr_gsm_is_rewarded_by_its_ground_truth():
    reward = functions.resolve("math?answer=ground_truth*10")
    records = [DATA["allenai/RLVR-GSM"](i) for i in range(2)]
    functions.check_arguments(reward, available(set(records[0]), True, None), "RLVR-GSM")
    answers = ["So he has 2 pens. The answer is 2.", "So he has 4 pens. The answer is 4."]
    assert functions.reward_scores(
        reward, [one["messages"] for one in records], answers, records
    ).tolist() == [10, 0]


def test_every_recipe_has_a_row_in_the_page():
    rows = (ROOT / "docs" / "recipes.md").read_text()
    assert [file.name for file in FILES if f"`{file.stem}`" not in rows] == []
