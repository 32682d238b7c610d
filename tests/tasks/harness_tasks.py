"""Task files of lm-eval, one of each output type, with their data."""

import json

HEAD = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: {kind}
"""
QUESTION = 'doc_to_text: "{{question}}"\n'
TASKS = {
    "chosen": ("multiple_choice", QUESTION + """doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
num_fewshot: 1
fewshot_split: test
metric_list: [{metric: acc}, {metric: acc_norm}]
"""),
    "likely": ("loglikelihood", QUESTION + """doc_to_target: " {{written}}"
metric_list:
- {metric: perplexity, aggregation: perplexity, higher_is_better: false}
- {metric: acc, aggregation: mean, higher_is_better: true}
"""),
    "rolling": ("loglikelihood_rolling", """doc_to_text: ""
doc_to_target: "{{question}} {{written}}"
metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
"""),
    "written": ("generate_until", QUESTION + """doc_to_target: "{{written}}"
generation_kwargs: {until: ["o"], max_gen_toks: 8}
filter_list:
- {name: first, filter: [{function: regex, regex_pattern: "(w?)"}, {function: take_first}]}
metric_list: [{metric: exact_match}]
"""),
}  # fmt: skip
QUESTIONS = (
    "the ship went to",
    "the old captain saw a",
    "in the dark",
    "saw a white",
    "the water by",
    "a whale in",
)
ANSWERS = ("sea", "white whale", "w", "", "night", "dark")


def write(folder):
    """The task files in a folder, with their data."""
    data = folder / "rows.jsonl"
    records = [
        {"question": q, "written": a, "choices": ["sea", "white whale", "dark night"], "answer": i % 3}
        for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, (kind, rest) in TASKS.items():
        text = HEAD.format(name=name, kind=kind, data=data) + rest
        (folder / f"{name}.yaml").write_text(text)
    return folder
