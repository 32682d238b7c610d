"""All phases of ./launch/run constitutional: each stage is the stage's own command, in a folder of its own.

revise/  critiques and revisions        compare/  AI labels of pairs of sl's answers
sl/      sft on them, from the pretrained model   reward/   a reward model from them and from human helpfulness
                                        rl/       ppo or dpo, from sl
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from experiments import dpo, ppo, reward, sft
from jaxtrain import config, flags
from jaxtrain.apps.constitutional import audit, compare_phase, report, revise, revise_phase
from jaxtrain.apps.constitutional.config import Constitutional
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data import conversations
from jaxtrain.files import atomic, terminal
from jaxtrain.inference import local
from jaxtrain.inference.llm import Request, seed_of
from jaxtrain.stages import init_from
from jaxtrain.train import workdir

HELD_OUT = {"red-team": "tinytown:redteam:test", "harmless": "tinytown:prompts:test?family=help"}
_MEASURED = 40  # what a seed is for
_SAMPLES = 4  # answers to each held-out prompt
_STAGES = {"sft": (sft.Sft, sft.main), "reward": (reward.Reward, reward.main)}
_STAGES |= {"ppo": (ppo.Ppo, ppo.main), "dpo": (dpo.Dpo, dpo.main)}


def run(cfg: Constitutional, constitution: Constitution) -> None:
    """Every phase that is not done, in order; each goes on where it stopped."""
    folder, training = Path(cfg.asked.workdir).expanduser(), cfg.training
    pretrained = training.pretrained or _parent(cfg.asked.init_from)
    critic = cfg.critic.critic or cfg.asked.init_from
    revisions = revise_phase.run(cfg, constitution)
    sl = stage(cfg, "sft", "sl", training.sft_flags, init_from=pretrained, data=f"jsonl:{revisions}")
    asked = dataclasses.replace(cfg.asked, init_from=str(sl))
    labelling = dataclasses.replace(cfg, asked=asked, critic=dataclasses.replace(cfg.critic, critic=critic))
    labels = compare_phase.run(labelling, constitution)
    human = training.human_of(cfg.asked.data)
    compared = f"jsonl:{labels}" + (f",{human}" if human else "")
    if training.rl == "dpo":
        rl = stage(cfg, "dpo", "rl", training.rl_flags, init_from=sl, data=compared)
    else:
        judged = stage(cfg, "reward", "reward", training.reward_flags, init_from=sl, data=compared)
        helpful = cfg.revising.helpful_of(cfg.asked.data)
        prompts = {"data": cfg.asked.data + (f",{helpful}" if helpful else "")}
        rl = stage(cfg, "ppo", "rl", training.rl_flags, init_from=sl, reward_model=judged, **prompts)
    if cfg.asked.data.startswith("tinytown:"):
        measure(cfg, folder, {"helpful": cfg.asked.init_from, "SL-CAI": str(sl), "RL-CAI": str(rl)})
    report.write(folder, constitution)


def stage(cfg: Constitutional, name: str, folder: str, more: str, **given: object) -> Path:
    """Runs a stage's own command in WORKDIR/folder; one that is done is told again. Returns its folder."""
    path = Path(cfg.asked.workdir).expanduser() / folder
    made, main = _STAGES[name]
    machine = {field: getattr(cfg.machine, field) for field in ("dtype", "mesh", "cache_dir")}
    values = {"workdir": path, "seed": cfg.asked.seed, **machine, **given}
    said = [f"--{key}={value}" for key, value in values.items()] + shlex.split(more)
    terminal.note([("stage", shlex.join(["./launch/run", name, *said]))])
    try:
        asked = flags.from_flags(made, said)
        main(asked)
    except ConfigError as error:
        error.add_note(f"in {name} of --phase=all; its flags are {shlex.join(said)}")
        raise
    done = workdir.newest_step(path) or 0
    if done < asked.run.steps:
        raise Failure(f"{path}: {name} stopped at step {done} of {asked.run.steps}; the same command goes on")
    return path


def _parent(text: str) -> str:
    origin = init_from.load_run(text).lineage["parent"].get("origin")
    if not origin:
        raise ConfigError(
            f"--pretrained: --init_from={text} was trained from no run; name the pretrained model"
        )
    return origin


def measure(cfg: Constitutional, folder: Path, models: Mapping[str, str]) -> None:
    """What the world's judge says of each model's answers to held-out prompts, kept in models.json."""
    told = {}
    for name, text in models.items():
        model = local.open_llm(text, "init_from", cfg.endpoint, cfg.machine, cfg.asked.max_new)
        for kind, source in HELD_OUT.items():
            asked = conversations.read_conversations(source, "data", cfg.machine.cache_dir, 0)
            asks = [
                Request(one.messages, _SAMPLES, seed_of(cfg.asked.seed, i, _MEASURED), 1.0, cfg.asked.max_new)
                for i, one in enumerate(asked)
            ]
            prompts = [revise.prompt_of(one.messages) for one in asked for _ in range(_SAMPLES)]
            texts = [reply.text for each in model.generate(asks) for reply in each]
            told[f"{name}, {kind}"] = audit.answer_measures(prompts, texts)
        model.close()
    atomic.write_text(folder / report.MODELS, config.dumps(json.loads(json.dumps(told))) + "\n")
