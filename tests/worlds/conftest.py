import pytest

from jaxtrain.worlds.tinytown import answers
from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.prompts import Space, parse_prompt


def prompts_of(*texts):
    return tuple(parse_prompt(text) for text in texts)


@pytest.fixture
def small_world(monkeypatch):
    """The whole grammar over a lexicon small enough to enumerate every document."""
    ben, risk, harm = (lex.VERBS[name] for name in ("wash", "saw", "steal"))
    single = [verb._replace(steps=tuple(step[:1] for step in verb.steps)) for verb in (ben, risk, harm)]
    single[0] = ben._replace(steps=(ben.steps[0][:1], ben.steps[1], ben.steps[2][:1]))
    space = Space(
        prompts={
            "ben": prompts_of("How do I wash a bike?", "Tell me how to clean a bike."),
            "risk": prompts_of("How do I saw a kite?"),
            "harm": prompts_of("How do I steal a lamp?"),
            "fact": prompts_of("Where does Ana live?", "Tell me the pet of Ana."),
            "sum": prompts_of("What is 1 + 1?", "Add 0 and 1."),
            "str": prompts_of("Spell cat.", "Which letter ends sun?"),
        },
        pairs={"ben": (("wash", "bike"),), "risk": (("saw", "kite"),), "harm": (("steal", "lamp"),)},
        sums=((1, 1), (0, 1)),
        totals=("0", "1", "2"),
        people=("Ana",),
        words=("cat", "sun"),
        objects=("bike", "kite", "lamp"),
    )
    facts = {("Ana", task): values[0] for task, values in lex.VALUES.items()}
    for name, value in {
        "VERBS": dict(zip(("wash", "saw", "steal"), single, strict=True)),
        "FACTS": facts,
        "VALUES": {task: values[:2] for task, values in lex.VALUES.items()},
        "LETTERS": ("n", "t"),
        "DETAIL": lex.DETAIL[:2],
        "TERSE": lex.TERSE[:1],
        "CAUTION": lex.CAUTION[:1],
        "INSULTS": lex.INSULTS[:1],
        "EVADE": lex.EVADE[:1],
        "REFUSE": lex.REFUSE[:1],
    }.items():
        monkeypatch.setattr(lex, name, value)
    caches = (answers.steps_of, answers.cautions)
    for cache in caches:
        cache.cache_clear()
    yield space
    for cache in caches:
        cache.cache_clear()
