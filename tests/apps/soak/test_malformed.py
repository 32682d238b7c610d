"""The records that the attack mutates are accepted ones."""

import json

import pytest

from jaxtrain.apps.soak import malformed, records


@pytest.mark.parametrize("name", [one for one in malformed.RECORDS if one != "messages"])  # some have tools
def test_the_records_that_are_mutated_are_accepted(tmp_path, name):
    rows = [
        row
        | {
            "message_id": f"{row['message_id']}{i}",
            "parent_id": row["parent_id"] and f"{row['parent_id']}{i}",
        }
        if name == "rows of a tree"
        else row
        for i in range(8)
        for row in malformed.RECORDS[name]
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Only some templates know tools; prompts are read of any format.
    stages = {"text": "pretrain", "labelled": "train_classifier", "vote": "people of evaluate"}
    stage = stages.get(name, "prompts of ppo, grpo and evaluate")
    records.STAGES[stage].prepare(f"jsonl:{path}", "raise", str(tmp_path / "cache"))
