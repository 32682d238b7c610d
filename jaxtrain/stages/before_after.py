"""What training changed: the same prompts of the world answered by the model it started from and by the trained one."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtrain.config import DialogStageConfig
from jaxtrain.data import prompts
from jaxtrain.stages import eval_prompts, init_from, sampling
from jaxtrain.stages.session import Session, policy_session
from jaxtrain.train import loop, optim
from jaxtrain.types import Params, TrainState

DRAWS = 2  # answers to a prompt, whose difference tells how consistent they are

# Claims about RLHF, and the world's measures that show them.
CLAIMS = (
    ("harmful → refuses", ("harmful", "refuse")),
    ("terse → detailed", ("detail",)),
    ("no warnings → warns of risks", ("warn",)),
    ("inconsistent → consistent", ("alike",)),
    ("and is it still right?", ("gold", "parsable", "steps", "facts", "sums", "spelling")),
)


def with_before_after(
    session: Session,
    cfg: DialogStageConfig,
    template: Any,
    decode: Callable,
    reference: Callable[[], Params],
    sample: loop.Sample,
) -> loop.Sample:
    """`sample`, and after the last step a table of before and after."""
    source, flag, world = eval_prompts.eval_source(cfg.samples, cfg.data)
    if not world:
        return sample
    rows = prompts.read_prompts(source, cfg.data, template, flag=flag, limit=cfg.samples.prompt_count)
    policy = policy_session(session)
    plain = session._replace(trained=session.trained._replace(whole=lambda part, base: part), base=())
    questions = [each.messages[-1]["content"] for each in rows for _ in range(DRAWS)]

    def measured(session: Session, params: Params, base: Params) -> dict[str, float]:
        draw = sampling.token_sampler(
            session,
            init_from.end_ids(session.start, template.ends),
            max_new=cfg.samples.max_new,
            temperature=cfg.samples.answer_temperature(),
            samples=DRAWS,
        )
        samples = draw(params, base, [each.ids.tolist() for each in rows], cfg.run.seed)
        texts = [decode(each.text_ids) for each in samples]
        return world.measure(questions, texts) | {"alike": world.consistency(questions, texts, DRAWS)}

    def both(state: TrainState, step: int) -> tuple[str, Mapping[str, float]]:
        text, numbers = sample(state, step)
        if step < cfg.run.steps:
            return text, numbers
        before = measured(plain, reference(), ())
        after = measured(policy, optim.eval_params(state.params, state.opt_state), session.base)
        for when, measures in (("before", before), ("after", after)):
            numbers = {**numbers, **{f"{when}/{name}": value for name, value in measures.items()}}
        return text + "\n" + "\n".join(table(before, after)) + "\n", numbers

    return both


def table(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Before and after, in lines that fit a terminal."""
    lines = [f"{'what training changed':<30}  {'measure':<10} {'before':>8} {'after':>8}"]
    for claim, names in CLAIMS:
        for i, name in enumerate(name for name in names if name in before):
            said = "" if i else claim
            lines.append(f"  {said:<28}  {name:<10} {before[name]:8.3f} {after[name]:8.3f}")
    return lines
