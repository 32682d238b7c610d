"""Commands whose work no flag makes small enough, made smaller inside the process that is attacked.

They are changed where warm.py has loaded them: no application imports another, or a command.
"""

import os
import sys
from collections.abc import Callable, Mapping

from jaxtrain.apps.soak.targets import MODEL

_SMALL = ("--seq_len=48", "--batch_size=8", "--warmup=2", "--eval_batches=1", "--checkpoint_every=2")


def held_out() -> None:
    """The pipeline of Constitutional AI measures its models on a few prompts."""
    pipeline = sys.modules["experiments.constitutional_pipeline"]
    few = {
        kind: f"{source}{'&' if '?' in source else '?'}held_out=8"
        for kind, source in pipeline.HELD_OUT.items()
    }
    pipeline.HELD_OUT.update(few)


def lifecycle() -> None:
    """The lifecycle has two stages of a few steps."""
    plan = sys.modules["jaxtrain.apps.lifecycle.plan"]
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    data, claims = "documents=96&held_out=24", (plan.Target("eval/loss", high=50),)
    base = (
        f"--data=tinytown:pretrain?{data}",
        f"--model={MODEL}",
        "--tokenizer=bpe:400",
        "--steps=6",
        *_SMALL,
    )
    sft = (
        f"--data=tinytown:sft?{data}",
        "--init_from={base}",
        "--steps=6",
        *_SMALL,
        "--prompt_count=4",
        "--max_new=8",
    )
    steps = [
        plan.LifecycleStep("base", "pretrain", "pretraining", base, (), claims, False),
        plan.LifecycleStep("tuned", "sft", "fine-tuning", sft, ("base",), claims),
    ]
    plan.steps, plan.MAX_NEW = lambda: steps, 8
    few = plan.AnswerSet("tinytown:prompts:test?held_out=8", 2)
    plan.ANSWER_SETS = dict.fromkeys(plan.ANSWER_SETS, few)


CHANGES: Mapping[str, Callable[[], None]] = {"": lambda: None, "held_out": held_out, "lifecycle": lifecycle}
