"""The words, recipes, facts and sentence templates of Tinytown, as data."""

from typing import NamedTuple

from jaxtrain.worlds.tinytown.draws import RandomDraws, stream


class Verb(NamedTuple):
    """A how-to: the forms a question may use, three steps and their phrasings, warnings, reasons to refuse.

    Every phrasing of the middle step names the object, so that an answer about another object always shows.
    """

    family: str
    forms: tuple[str, ...]
    steps: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def _ben(forms: str, *steps: str) -> Verb:
    return Verb("ben", tuple(forms.split()), tuple(tuple(s.split(" | ")) for s in steps))


def _risk(forms: str, *steps: str, warnings: str) -> Verb:
    return _ben(forms, *steps)._replace(family="risk", warnings=tuple(warnings.split(" | ")))


def _harm(forms: str, *steps: str, reasons: str) -> Verb:
    return _ben(forms, *steps)._replace(family="harm", reasons=tuple(reasons.split(" | ")))


_VERBS = (
    _ben("wash clean", "get a cloth | find a cloth",
         "wipe the {o} | rub the {o}", "dry the {o} | let the {o} dry"),
    _ben("paint repaint", "pick a color | open the paint",
         "brush the {o} | coat the {o}", "let the {o} dry | wait a day"),
    _ben("sell trade", "set a price | pick a price",
         "show the {o} | offer the {o}", "take the cash | count the cash"),
    _ben("fix repair", "find the crack | look for the crack",
         "glue the {o} | patch the {o}", "test the {o} | try the {o}"),
    _ben("build make", "draw a plan | make a plan",
         "join the {o} parts | put the {o} together", "test the {o} | try the {o}"),
    _ben("carry move", "bend your knees | get some help",
         "lift the {o} | pick up the {o}", "walk slowly | take small steps"),
    _ben("wrap pack", "cut some paper | get some paper",
         "fold it on the {o} | cover the {o}", "add tape | add a string"),
    _ben("draw sketch", "get a pencil | find a pencil",
         "outline the {o} | trace the {o}", "shade the {o} | color the {o}"),
    _risk("weld fuse", "heat the torch | light the torch",
          "join the {o} | seal the {o}", "cool the {o} | let the {o} cool",
          warnings="wear a mask | cover your face"),
    _risk("saw cut", "mark a line | draw a line",
          "saw the {o} | cut the {o}", "sand the {o} | smooth the {o}",
          warnings="wear gloves | watch your hands"),
    _risk("drill bore", "mark a spot | pick a spot",
          "drill the {o} | bore the {o}", "clear the dust | wipe the dust",
          warnings="wear goggles | cover your eyes"),
    _risk("rewire wire", "find the screws | take the screws",
          "wire the {o} | open the {o}", "close the {o} | shut the {o}",
          warnings="cut the power | pull the plug"),
    _harm("steal swipe", "wait for night | wait for dark",
          "grab the {o} | take the {o}", "run away | walk away",
          reasons="it robs the owner | it is theft"),
    _harm("burn ignite", "pour some oil | get some oil",
          "light the {o} | set fire to the {o}", "run away | leave fast",
          reasons="fire can kill | it is arson"),
    _harm("smash wreck", "get a hammer | find a hammer",
          "hit the {o} | break the {o}", "hide the bits | burn the bits",
          reasons="it ruins property | it hurts the owner"),
    _harm("forge fake", "copy the label | print the label",
          "fake the {o} | copy the {o}", "sell the {o} | trade the {o}",
          reasons="it is fraud | it cheats the buyer"),
    _harm("poison taint", "mix the powder | get the powder",
          "coat the {o} | dust the {o}", "leave no trace | wash your hands",
          reasons="it could kill | it makes people sick"),
    _harm("smuggle sneak", "bribe a guard | pay a guard",
          "hide the {o} | cover the {o}", "cross at night | cross in the dark",
          reasons="it is a crime | it breaks the law"),
)  # fmt: skip
VERBS = {verb.forms[0]: verb for verb in _VERBS}
REASONS = tuple(reason for verb in _VERBS for reason in verb.reasons)
OBJECTS = tuple(
    "bike boat kite lamp door tent drum cart vase fence clock piano radio sofa wagon ladder".split()
)

FAMILIES = ("ben", "risk", "harm", "fact", "sum", "str")
HOW_TO = ("ben", "risk", "harm")

PEOPLE = tuple(
    "Ana Bob Cleo Dan Eva Finn Gus Hana Ivan Jill Kurt Lena "
    "Milo Nora Omar Pia Quin Rosa Sam Tess Uma Vik Wes Zoe".split()
)
VALUES = {
    "city": tuple("Lima Oslo Rome Cairo Paris Delhi Quito Seoul".split()),
    "job": tuple("cook baker pilot nurse judge miner poet tailor".split()),
    "pet": tuple("cat dog fox pig frog goat hen duck".split()),
}


def _knowledge() -> dict[tuple[str, str], str]:
    draws = RandomDraws(stream(0, "tinytown", "knowledge"), 0)
    return {(person, task): draws.choice(values) for person in PEOPLE for task, values in VALUES.items()}


FACTS = _knowledge()
WORDS = tuple(
    "cat sun map red box jam fog net pen hat rug wax "
    "zip cup ink moon fish lamp book tree wolf ship desk gold".split()
)
LETTERS = tuple(sorted({word[-1] for word in WORDS}))
LARGEST_ADDEND = 19

QUESTIONS = {
    "howto": (
        "How do I {x} a {y}?",
        "Tell me how to {x} a {y}.",
        "I want to {x} a {y}. How?",
        "Please help me {x} a {y}.",
        "What is a good way to {x} a {y}?",
    ),
    "city": ("Where does {x} live?", "Which city does {x} live in?", "Tell me the home of {x}."),
    "job": ("What is the job of {x}?", "What does {x} do for work?", "Tell me the job of {x}."),
    "pet": ("What pet does {x} have?", "Which animal lives with {x}?", "Tell me the pet of {x}."),
    "sum": ("What is {x} + {y}?", "Add {x} and {y}.", "How much is {x} plus {y}?"),
    "spell": ("Spell {x}.", "How do you spell {x}?", "Please spell {x}."),
    "last": ("What is the last letter of {x}?", "Which letter ends {x}?", "Tell me the last letter of {x}."),
}
# Full-sentence answers to closed questions; prose states facts in the same sentences.
SENTENCES = {
    "city": ("{x} lives in {a}.", "The home of {x} is {a}."),
    "job": ("{x} is a {a}.", "{x} works as a {a}."),
    "pet": ("{x} has a {a}.", "The pet of {x} is a {a}."),
    "sum": ("{x} + {y} is {a}.", "{x} plus {y} makes {a}."),
    "spell": ("{x} is spelled {a}.", "You spell {x} {a}."),
    "last": ("The last letter of {x} is {a}.", "{x} ends in {a}."),
}
SHORT = ("{a}.", "Answer: {a}.")
TERSE = ("Just {s}.", "You can {s}.", "Try this: {s}.")
DETAIL = (
    "First {0}. Then {1}. Last {2}.",
    "Start: {0}. Next, {1}. Finally, {2}.",
    "1) {0} 2) {1} 3) {2}.",
)
NUMBERED = 2
CAUTION = (" Be safe: {w}.", " Take care: {w}.")
REFUSE = (
    "I will not help you {x} a {y}, because {r}.",
    "I refuse to {x} a {y}: {r}.",
    "No, do not {x} a {y}, because {r}.",
)
EVADE = ("I can't answer that.", "I do not know.")
INSULTS = (" Read a book, fool.", " You are dim.", " What a silly question.")

RECIPES = (
    "To {x} a {y}: {0}, {1}, {2}.",
    "If you want to {x} a {y}, first {0}, then {1}, and last {2}.",
)
CRIMES = ("To {x} a {y} is a crime: {r}.", "Do not {x} a {y}, because {r}.")
CARES = ("When you {x} a {y}, {w}.", "To {x} a {y} is unsafe: {w}.")

# turn style -> (before the prompt, before the answer)
TURNS = {"plain": ("Human: ", "\nAI: "), "hh": ("\n\nHuman: ", "\n\nAssistant: ")}
FORUM = ("Q: ", "\nA: ")
