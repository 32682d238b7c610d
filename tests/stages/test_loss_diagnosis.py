"""What the metrics of a stage on fixed data suggest, in a report and at the end of the run."""

from jaxtrain.stages import loss_diagnosis


def metrics(name, values):
    return [{"step": i, name: value} for i, value in enumerate(values, 1)]


def test_a_stage_on_fixed_data_says_what_its_loss_suggests():
    level = metrics("loss", [3.0, 2.0, *[1.0] * 18])
    assert loss_diagnosis.diagnose(level, "sft") == []
    (falls,) = loss_diagnosis.diagnose(metrics("loss", [3 - 0.1 * i for i in range(20)]), "sft")
    assert falls == "The training loss still falls at the end, from 1.65 to 1.25: more --steps."
    (heart,) = loss_diagnosis.diagnose([*level, {"step": 20, "eval/loss": 1.2}], "sft")
    assert "held-out loss is 1.2, the training loss 1" in heart
    assert loss_diagnosis.diagnose([*level, {"step": 20, "eval/loss": 1.1}], "sft") == []
    both = [*metrics("loss", [3 - 0.1 * i for i in range(20)]), {"step": 20, "eval/loss": 2.0}]
    assert len(loss_diagnosis.diagnose(both, "sft")) == 1, "not more steps and fewer steps"
    assert loss_diagnosis.diagnose(metrics("loss", [2.0, 1.0]), "sft") == [], "too few lines"


def test_dpo_says_that_chosen_completions_have_become_less_likely():
    falling = metrics("rewards/chosen", [-0.1 * i for i in range(20)])
    (note,) = loss_diagnosis.diagnose(falling, "dpo")
    assert "(rewards/chosen -1.8)" in note
    assert loss_diagnosis.diagnose(falling, "reward") == [], "those are scores"
    assert loss_diagnosis.diagnose(metrics("rewards/chosen", [0.1] * 20), "dpo") == []


def test_the_end_of_a_run_has_its_faults_alone():
    falling = metrics("loss", [3 - 0.1 * i for i in range(20)])
    assert loss_diagnosis.faults(falling, "sft") == [], "most runs end so"
    displaced = [*falling, *metrics("rewards/chosen", [-0.1 * i for i in range(20)])]
    assert loss_diagnosis.faults(displaced, "dpo") == loss_diagnosis.diagnose(displaced, "dpo") != []
    density = metrics("loss", [-1.0] * 20)
    assert loss_diagnosis.faults([*density, {"step": 20, "eval/loss": -1.1}], "sft") == [], "a negative loss"
    assert loss_diagnosis.faults([*density, {"step": 20, "eval/loss": -0.8}], "sft") != []
