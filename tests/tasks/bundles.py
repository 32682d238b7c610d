"""A small evaluation bundle in DCLM's form."""

import json

LIST = """icl_tasks:
-
  label: piqa
  dataset_uri: qa/piqa.jsonl
  num_fewshot: [2]
  icl_task_type: multiple_choice
  continuation_delimiter: "\\nAnswer: "
-
  label: winograd
  dataset_uri: winograd.jsonl
  num_fewshot: [0]
  icl_task_type: schema
-
  label: jeopardy
  dataset_uri: jeopardy.jsonl
  num_fewshot: [1]
  icl_task_type: language_modeling
  has_categories: true
"""
CHANCE = """Eval Task,Task Category,Task Type,#shots,#datapoints,Random baseline,Centered Metric?,Description
piqa,language,multiple choice,2,4,50,,"two choices, of which one is right"
winograd,language,schema,0,2,50,,x
jeopardy,world,language modeling,1,3,0,,x
"""
RECORDS = {
    "qa/piqa.jsonl": [{"query": f"Q{i}", "choices": ["red", "blue sea"], "gold": i % 2} for i in range(4)],
    "winograd.jsonl": [{"context_options": ["The ship", "The cat"], "continuation": "went to sea", "gold": 0}] * 2,
    "jeopardy.jsonl": [
        {"context": " the ship went to ", "continuation": "sea", "category": "a"},
        {"context": "saw a white", "continuation": "whale", "category": "a"},
        {"context": "the dark", "continuation": "water", "category": "b"},
    ],
}  # fmt: skip


def write(folder):
    """The bundle in a new folder, which is returned."""
    (folder / "eval_data" / "qa").mkdir(parents=True)
    (folder / "core.yaml").write_text(LIST)
    (folder / "eval_meta_data.csv").write_text(CHANCE)
    for name, records in RECORDS.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "eval_data" / name).write_text(lines)
    return folder
