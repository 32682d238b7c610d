"""Tasks of several turns: a perfect player wins all of them, a random one seldom, and a task is one of its seed."""

import random

import pytest

from jaxtrain import worlds
from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown import tasks
from jaxtrain.worlds.tinytown.prompts import parse_prompt
from jaxtrain.worlds.tinytown.tasks import CalculatorTask, SearchTask, TwentyQuestions

SEEDS = range(300)


@pytest.mark.parametrize("task", [SearchTask, CalculatorTask, TwentyQuestions])
def test_a_task_is_a_function_of_its_seed(task):
    def content(seed):
        made = task(seed)
        return made.question, *(getattr(made, name, None) for name in ("person", "kind", "a", "b"))

    assert [content(seed) for seed in SEEDS] == [content(seed) for seed in SEEDS]
    assert len({content(seed) for seed in SEEDS}) > 20


def test_the_world_lists_its_tasks():
    world = worlds.get()
    assert world.tool_tasks == {"search": SearchTask, "calculator": CalculatorTask}
    assert world.games == {"twenty_questions": TwentyQuestions}


def test_whoever_searches_knows_and_whoever_does_not_guesses():
    draw, known, guessed = random.Random(0), [], []
    for seed in SEEDS:
        task = SearchTask(seed)
        found = task.search(f"{task.kind} of {task.person}")
        assert found == lex.SENTENCES[task.kind][0].format(x=task.person, a=task.fact(task.person, task.kind))
        known.append(task.correct(found))
        guessed.append(task.correct(f"{draw.choice(lex.VALUES[task.kind])}."))
    assert all(known) and 0.05 < sum(guessed) / len(guessed) < 0.25
    remembered = sum(
        SearchTask(seed).correct(f"{lex.FACTS[SearchTask(seed).person, SearchTask(seed).kind]}.")
        for seed in SEEDS
    )
    assert remembered / len(SEEDS) < 0.3, "what pretraining shows of people is not what the register has"


def test_the_register_answers_a_name_with_all_it_has_and_nonsense_with_nothing():
    task = SearchTask(0)
    assert task.search("ana") == task.search("Ana city job pet") != task.search("Ana city")
    assert task.search("what does Ana do for work?") == f"Ana is a {task.fact('Ana', 'job')}."
    assert task.search("the city") == task.search("") == "Nothing found."
    assert not task.correct("") and not task.correct("I do not know.")


def test_whoever_calculates_is_right_and_whoever_does_not_guesses():
    draw, guessed = random.Random(0), 0
    for seed in SEEDS:
        task = CalculatorTask(seed)
        assert parse_prompt(task.question.partition(" Use")[0]) is None, "no data set has the sum"
        total = task.calculator(f"{task.a} + {task.b}")
        assert total == str(task.a + task.b) and task.correct(f"{total}.")
        assert task.correct(lex.SENTENCES["sum"][0].format(x=task.a, y=task.b, a=total))
        assert not task.correct(f"{task.a + task.b + 1}.") and not task.correct(total + "0.")
        guessed += task.correct(f"{draw.randint(2 * tasks.SMALLEST_ADDEND, 2 * tasks.LARGEST_ADDEND)}.")
    assert guessed / len(SEEDS) < 0.1


def test_the_calculator_calculates_and_nothing_else():
    calculator = CalculatorTask(0).calculator
    assert [calculator(text) for text in ("3*4", " 7 - 9 ", "1000+1")] == ["12", "-2", "1001"]
    for text in ("", "3", "__import__('os')", "9**9", "9" * 7 + "+1", "1+2+3", "two + two"):
        with pytest.raises(ValueError, match="write two numbers"):
            calculator(text)


def matching(candidates, kind, values):
    return [p for p in candidates if (p if kind == "people" else lex.FACTS[p, kind]) in values]


def halving(candidates):
    """The question, (kind, values), that comes next to halving the candidates."""
    kinds = {kind: sorted({lex.FACTS[p, kind] for p in candidates}) for kind in lex.VALUES}
    kinds["people"] = [*candidates, candidates[0]]  # one name alone would be the guess
    options = [(kind, values[:n]) for kind, values in kinds.items() for n in range(1, len(values))]
    options = [option for option in options if option != ("people", candidates[:1])]
    return min(options, key=lambda option: abs(2 * len(matching(candidates, *option)) - len(candidates)))


def perfect(game):
    """(the number of questions, whether it won) of a player that halves the candidates by their facts."""
    candidates, questions = list(lex.PEOPLE), 0
    while len(candidates) > 1:
        kind, values = halving(candidates) if len(candidates) > 2 else ("people", [candidates[0]] * 2)
        reply = game.reply(" or ".join(values) + "?")
        questions += 1
        assert reply.understood and not reply.over
        inside = matching(candidates, kind, values)
        candidates = inside if reply.text == "Yes." else [p for p in candidates if p not in inside]
    return questions, game.reply(f"{candidates[0]}.").won


def test_a_perfect_player_of_twenty_questions_wins_within_seven():
    played = [perfect(TwentyQuestions(seed)) for seed in SEEDS]
    assert all(won for _, won in played) and max(asked for asked, _ in played) <= 7


def test_a_random_player_of_twenty_questions_seldom_wins():
    draw, won = random.Random(0), 0
    moves = [*lex.PEOPLE, *(value for values in lex.VALUES.values() for value in values)]
    for seed in SEEDS:
        game = TwentyQuestions(seed)
        while not (reply := game.reply(draw.choice(moves))).over:
            assert reply.text in ("Yes.", "No.")
        won += reply.won
    assert won / len(SEEDS) < 0.12


def test_a_move_that_is_none_is_told_and_counts_and_the_last_one_loses():
    game = TwentyQuestions(1)
    replies = [game.reply(text) for text in ("", "Lima or Ana?", "Hello", "or", "Who?")]
    assert all(not reply.understood and reply.text == "Ask as in: Lima or Oslo?" for reply in replies)
    rest = [game.reply("Lima, Oslo or Rome?") for _ in range(tasks.MOST_QUESTIONS - len(replies))]
    assert [reply.over for reply in rest] == [False] * (len(rest) - 1) + [True] and not rest[-1].won
