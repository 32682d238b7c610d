"""The trained and the watched reward of answers to held-out prompts, by which a best checkpoint can be kept."""

from collections.abc import Sequence

from jaxtrain.config import ConfigError
from jaxtrain.data.prompts import Prompt
from jaxtrain.rewards import functions
from jaxtrain.rewards.function_args import TrainerState, available
from jaxtrain.rl import scoring, watched_reward
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.rl.overoptimisation import WATCHED
from jaxtrain.rl.reward_history import mean
from jaxtrain.rl.scoring import ScoringConfig
from jaxtrain.rl.watch_scorer import WatchScorer
from jaxtrain.stages.eval_prompts import EvalAnswers
from jaxtrain.stages.session import Session
from jaxtrain.train import loop
from jaxtrain.types import TrainState

SCORES = "scores"  # eval/scores: the trained reward as advantages have it, capped and with penalties


def needed(cfg: WatchedStageConfig) -> bool:
    """Whether something depends on evaluations: a watched reward, or a best checkpoint by one."""
    return bool(cfg.watch.watch_reward) or cfg.run.keep_best.startswith("eval/")


def evaluator(
    cfg: WatchedStageConfig,
    session: Session,
    how: ScoringConfig,
    watch: WatchScorer | None,
    answers: EvalAnswers,
) -> tuple[loop.Evaluate | None, list[tuple[str, str]]]:
    """(a function state -> {"scores", "watch_reward"}, means over the answers to --prompts; lines for the table).

    None where nothing depends on it. The answers are those that the samples of the same step show, the same for the
    same parameters. Prompts that leave no room for --max_new in --seq_len are left out, as a reward model cannot score
    their answers. Raises ConfigError where no prompt is left, and for a function that needs what their records lack.
    """
    if not needed(cfg):
        return None, []
    room, B = cfg.data.seq_len - cfg.samples.max_new, cfg.data.batch_size
    fitting = [i for i, prompt in enumerate(answers.prompts) if len(prompt.ids) <= room]
    if not fitting:
        raise ConfigError(
            f"{answers.source.setting}: no prompt fits {room} tokens (--seq_len less --max_new)"
        )
    _check_arguments(cfg, answers)
    how = how._replace(gold=None, watch=watch and watch.always)
    # A reward model scores whole batches; what fills the last one is not counted.
    rows = [fitting[i % len(fitting)] for i in range(-(-len(fitting) // B) * B)]
    prompts = [answers.prompts[i] for i in rows]

    def evaluate(state: TrainState) -> dict[str, float]:
        samples = answers.sample(state)
        at = TrainerState(int(session.plan.get(state.step)), cfg.run.steps)
        batch = scoring.score_completions(cfg, how, prompts, [samples[i] for i in rows], at)
        values = {SCORES: batch.scores[: len(fitting)]}
        if WATCHED in batch.stats:
            values[WATCHED.rpartition("/")[2]] = batch.stats[WATCHED][: len(fitting)]
        return {name: mean(column) for name, column in values.items()}

    left = len(answers.prompts) - len(fitting)
    without = f"; {left:,} longer than {room} tokens left out" if left else ""
    fitting_line = f"{len(fitting):,} of {answers.source.text}{without}"
    return evaluate, [*(watch.table if watch else []), ("held-out prompts", fitting_line)]


def _check_arguments(cfg: WatchedStageConfig, answers: EvalAnswers) -> None:
    names = argument_names(answers.prompts)
    for reward in watched_reward.reward_functions(cfg):
        functions.check_arguments(reward, names, answers.source.setting)


def argument_names(prompts: Sequence[Prompt]) -> set[str]:
    """The arguments that a reward function can be given with the records of prompts."""
    fields = {name for prompt in prompts for name in prompt.record}
    return available(fields, has_ids=True, state=TrainerState())
