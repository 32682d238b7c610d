"""All phases of ./launch/run constitutional: each stage is the stage's own command, in a folder of its own.

revise/  critiques and revisions        compare/  AI labels of pairs of sl's completions
sl/      sft on them, from the pretrained model   reward/   a reward model from them and from human helpfulness
                                        rl/       ppo or dpo, from sl
"""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

from experiments import dpo, ppo, reward, sft
from jaxtrain import config, flags
from jaxtrain.apps.constitutional import audit, compare_phase, report, revise_phase
from jaxtrain.apps.constitutional.config import Constitutional
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data import source_spec
from jaxtrain.data.preferences_db import prompt_field
from jaxtrain.data.prompts import read_conversations
from jaxtrain.files import atomic, terminal
from jaxtrain.inference import local
from jaxtrain.inference.llm import Request, derive_seed
from jaxtrain.stages import init_from
from jaxtrain.train import stop, watchdog, workdir

HELD_OUT = {"red-team": "tinytown:redteam:test", "harmless": "tinytown:prompts:test?family=help"}
_MEASURED = 40  # what a seed is for
_SAMPLES = 4  # completions of each held-out prompt
_STAGES = {"sft": (sft.Sft, sft.main), "reward": (reward.Reward, reward.main)}
_STAGES |= {"ppo": (ppo.Ppo, ppo.main), "dpo": (dpo.Dpo, dpo.main)}


def run(cfg: Constitutional, constitution: Constitution) -> Path:
    """Runs every phase that is not done, in order; each resumes where it stopped. Returns the folder of rl."""
    folder, training, source = Path(cfg.asked.workdir).expanduser(), cfg.training, cfg.asked.data
    pretrained = training.pretrained or _parent(cfg.asked.init_from)
    critic = cfg.critic.critic or cfg.asked.init_from
    revisions = revise_phase.run(cfg, constitution)
    sl = stage(
        cfg,
        "sft",
        "sl",
        training.sft_flags,
        init_from=pretrained,
        data=source_spec.of_path("jsonl", revisions),
    )
    labels_of_sl = dataclasses.replace(
        cfg,
        asked=dataclasses.replace(cfg.asked, init_from=str(sl)),
        critic=dataclasses.replace(cfg.critic, critic=critic),
    )
    labels = compare_phase.run(labels_of_sl, constitution)
    human = training.human_of(source)
    preferences = source_spec.of_path("jsonl", labels) + (f",{human}" if human else "")
    if training.rl == "dpo":
        rl = stage(cfg, "dpo", "rl", training.rl_flags, init_from=sl, data=preferences)
    else:
        model = stage(cfg, "reward", "reward", training.reward_flags, init_from=sl, data=preferences)
        helpful = cfg.revising.helpful_of(source)
        prompts = source + (f",{helpful}" if helpful else "")
        rl = stage(cfg, "ppo", "rl", training.rl_flags, init_from=sl, reward_model=model, data=prompts)
    if source.startswith("tinytown:"):
        with watchdog.watch(None, folder):
            measure(cfg, folder, {"helpful": cfg.asked.init_from, "SL-CAI": str(sl), "RL-CAI": str(rl)})
    report.write(folder, constitution)
    return rl


def stage(cfg: Constitutional, name: str, folder: str, more: str, **values: object) -> Path:
    """Runs a stage's own command in WORKDIR/folder, which does nothing where it is done. Returns its folder."""
    path = Path(cfg.asked.workdir).expanduser() / folder
    cfg_class, main = _STAGES[name]
    machine = {
        field: getattr(cfg.machine, field)
        for field in ("dtype", "matmul_dtype", "kv_cache", "mesh", "cache_dir")
    }
    values = {"workdir": path, "seed": cfg.asked.seed, **machine, **dataclasses.asdict(cfg.reading), **values}
    arguments = [f"--{key}={value}" for key, value in values.items()] + shlex.split(more)
    terminal.note([("stage", shlex.join(["./launch/run", name, *arguments]))])
    try:
        stage_cfg = flags.from_flags(cfg_class, arguments)
        main(stage_cfg)
        stop.raise_if_stopped(f"in {name} of --phase=all: the same command goes on with it")
    except ConfigError as error:
        error.add_note(f"in {name} of --phase=all; its flags are {shlex.join(arguments)}")
        raise
    done, steps = workdir.newest_step(path) or 0, stage_cfg.run.steps
    if done < steps:
        raise Failure(f"{path}: {name} stopped at step {done} of {steps}; the same command resumes it")
    return path


def _parent(text: str) -> str:
    origin = init_from.load_run(text).lineage["parent"].get("origin")
    if not origin:
        raise ConfigError(
            f"--pretrained: --init_from={text} was trained from no run; name the pretrained model"
        )
    return origin


def measure(cfg: Constitutional, folder: Path, models: Mapping[str, str]) -> None:
    """Writes models.json: measures by Tinytown's judge of each model's completions of held-out prompts."""
    measures = {}
    for name, text in models.items():
        model = local.open_llm(text, "init_from", cfg.endpoint, cfg.machine, cfg.asked.max_new)
        for kind, source in HELD_OUT.items():
            held_out = read_conversations(
                source, "data", config.dialogs_of(cfg.reading, cfg.machine.cache_dir), 0
            )
            requests = [
                Request(
                    one.messages, _SAMPLES, derive_seed(cfg.asked.seed, i, _MEASURED), 1.0, cfg.asked.max_new
                )
                for i, one in enumerate(held_out)
            ]
            prompts = [prompt_field(list(one.messages)) for one in held_out for _ in range(_SAMPLES)]
            texts = [reply.text for completions in model.generate(requests) for reply in completions]
            measures[f"{name}, {kind}"] = audit.answer_measures(prompts, texts)
        model.close()
    atomic.write_sealed(folder / report.MODELS, measures)
