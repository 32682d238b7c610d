"""Why a stage falls short, and the picture of its score and gold."""

import json

from jaxtrain.apps.lifecycle import html, watch
from jaxtrain.apps.lifecycle.plan import LifecycleStep
from jaxtrain.rl import diagnosis
from tests.apps.lifecycle.test_seeds import write_run

PPO = LifecycleStep("ppo", "ppo", "PPO with <KL>", ("--init_from={sft}",), ("sft", "reward"), ())
SFT = LifecycleStep("sft", "sft", "tuning", ("--init_from={base}",), ("base",), ())


def rows(fall):
    """64 iterations whose score rises, and whose gold rises to step 30 and then falls by `fall` a step."""
    return [
        {
            "step": i,
            "objective/scores": 0.05 * i,
            "judge/gold": 0.05 * min(i, 30) - fall * max(0, i - 30),
            "objective/kl": 0.1 * i,
            "objective/entropy": 20.0,
            "completions/mean_length": 20.0,
            "objective/scores_capped": 0.0,
        }
        for i in range(1, 65)
    ]


def test_a_stage_in_red_says_what_its_metrics_suggest(tmp_path):
    write_run(tmp_path, "ppo", 0)
    notes = watch.notes(PPO, rows(0.05), tmp_path, ["sft"])
    assert notes[:-1] == diagnosis.diagnose(rows(0.05)) and "The score rises while gold falls" in notes[0]
    assert notes[-1] == "It starts from sft, which falls short too."
    assert watch.notes(PPO, rows(0.05), tmp_path / "no", ["sft"]) == notes, "without a config.json"
    assert "It starts from sft and reward, which fall short too." in watch.notes(
        PPO, rows(0), tmp_path, ["reward", "sft", "dpo"]
    )


def test_a_stage_without_a_diagnosis_says_so(tmp_path):
    (note,) = watch.notes(SFT, [{"step": 1, "loss": 2.0}], tmp_path, [])
    assert note.startswith("Nothing in its metrics says why")
    assert watch.notes(SFT, [], tmp_path, ["base"]) == ["It starts from base, which falls short too."]


def test_the_picture_has_score_gold_and_the_turn(tmp_path):
    (figure,) = watch.figures(PPO, rows(0.05), tmp_path)
    score = figure["charts"][0]
    assert figure["title"] == "PPO with <KL>" and score["title"] == "Score and gold reward"
    assert [one["label"] for one in score["series"]] == ["score", "gold reward"] and score["series"][1][
        "right"
    ]
    (marked,) = watch.figures(PPO, rows(0.05), tmp_path, 12)
    assert [mark["label"].partition(" step")[0] for mark in score["marks"]] == ["turn,"]
    assert all(one["marks"][1] == {"x": 12, "label": "best, step 12"} for one in marked["charts"])
    assert watch.figures(SFT, rows(0.05), tmp_path) == [] == watch.figures(PPO, [], tmp_path)
    stage = {
        "name": "ppo", "stage": "ppo", "title": PPO.title, "needs": [], "seconds": 1.0, "command": "x", "claims": [],
        "reached": False, "taken": None, "measures": {}, "curves": [], "notes": ["Score & <gold>"], "figures": [figure],
    }  # fmt: skip
    page = html.page({"stages": [stage], "seconds": 1.0, "answers": [], "tables": []})
    assert "<KL>" not in page and "Score &amp; &lt;gold&gt;" in page
    assert page.count('<figure class="chart"') == len(figure["charts"]) == 5 and "uPlot=function" in page
    assert json.dumps(figure)
