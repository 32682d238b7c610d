"""Harmful content: requests and instructions for harm, threats, incitement and abuse, by weighted phrases.

A word alone is not harmful: history, news and law speak of war and murder. So an act counts with a request or an
instruction in the same sentence, and not beside a refusal or warning. This is a lexical rule in English: it misses harm
in other words and steps without a name for the act, and it may take a crime novel's dialog for a threat. A classifier
of labelled documents (--harm_classifier) finds more: of Tinytown's documents that give steps of a crime the phrases
find 14 %, and a classifier of 2,000 labels all, with a precision of .97.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from jaxtrain import config
from jaxtrain.apps.filters import classifier
from jaxtrain.apps.filters.types import Check, Finding, lowercase
from jaxtrain.config import arg

# Cues of a request or instruction, which the act follows in the same sentence; by a part that they share, for speed.
_REQUEST_CUES = {
    "how ": ("how do ", "how does ", "how can ", "how could ", "how would ", "how should ", "how to "),
    "how": ("here is how", "here's how"),
    "way": ("way to ", "ways to "),
    " me ": ("help me ", "teach me ", "show me ", "tell me "),
    "want to ": ("i want to ",),
    "step": ("step by step", "step-by-step", "steps to "),
    "recipe": ("recipe for ",),
    "guide": ("guide to ",),
    "instructions": ("instructions",),
    "tutorial": ("tutorial",),
}  # fmt: skip
_MAX_REQUEST_CHARS = 110  # from the end of the cue to the end of the act
_ACTS = re.compile(
    r"[^.!?\n]{0,80}?\b(?:steal(?:ing)?|rob(?:bing)?|shoplift\w*|smuggl\w{1,3}|traffick\w*|kidnap\w*|murder\w*|"
    r"poison(?:ing)?|strangl\w{1,3}|stab(?:bing)?|rap(?:e|ing)|molest\w*|groom(?:ing)? (?:a )?(?:child|minor)\w*|"
    r"blackmail\w*|extort\w*|counterfeit\w*|launder(?:ing)? money|hijack\w*|assassinat\w{1,3}|"
    r"(?:make|build|assemble|buy|get) (?:a |an )?(?:\w{1,12} )?(?:bombs?|explosives?|silencer|ghost gun|pipe bomb|"
    r"nerve agent|chemical weapon|bioweapon|meth\w*|fentanyl|crack cocaine)|synthesi[sz]e (?:\w{1,12} )?"
    r"(?:meth\w*|fentanyl|sarin|ricin|vx|lsd)|hack(?:ing)? (?:into|someone|somebody|his|her|a (?:bank|phone|school|"
    r"server))|phish\w*|ransomware|keylogger|malware|steal identit\w{1,3}|forge (?:a |an )?(?:\w{1,12} )?(?:id|"
    r"passport|check|cheque|signature|prescription|label)s?|commit suicide|kill (?:myself|yourself|someone|"
    r"somebody|people|him|her|them|my (?!computer|phone|machine)|your|an? (?:person|man|woman|child|girl|boy|dog|cat|"
    r"cop|human))|hurt (?:myself|someone|people|a child)|self.harm|starve myself|overdose|set fire to|commit arson)\b"
)
# rule -> weight, words of which a match has one (for speed), pattern
_RULES: Mapping[str, tuple[float, Sequence[str], re.Pattern[str]]] = {
    "harm_threat": (2.0, "kill,murder,stab,shoot,rape,hurt,beat,die,exterminat,eradicat".split(","),
        re.compile(
        r"\b(?:i(?:'ll| will| am going to|'m going to) (?:kill|murder|stab|shoot|rape|hurt|beat) (?:you|him|her|them)|"
        r"kill yourself|go die|you (?:should|deserve to) die|(?:we|they|you) must (?:kill|exterminate|eradicate) "
        r"(?:all|every|the|these|those))\b")),
    "harm_hate": (2.0, "subhuman,vermin,cockroach,parasite,animals who,rats,gas ,deport,hang ,lynch".split(","),
        re.compile(
        r"\b(?:all|every|those|these) (?:\w{3,20} ){0,2}(?:are|is) (?:\w{1,12} )?(?:subhuman|vermin|cockroaches|"
        r"parasites|animals who|rats)\b|\b(?:gas|deport|hang|lynch) (?:all|every|the) \w{3,20}s\b")),
    "harm_sexual": (1.0, "porn,xxx,blowjob,cumshot,gangbang,incest,bestial,hardcore,nude,underage".split(","),
        re.compile(
        r"\b(?:porn\w*|xxx|blowjobs?|cumshots?|gangbangs?|incest|bestiality|hardcore sex|nude (?:teen|girl)s?|"
        r"child porn\w*|underage (?:sex|girl|boy)s?)\b")),
    "harm_abuse": (1.0, "fuck,stupid,worthless,pathetic,disgusting,dumb,shit,bitch".split(","),
        re.compile(
        r"\b(?:fuck(?:ing|er)? (?:you|idiot|moron)|you(?:'re| are)? (?:a |an |such a )?(?:stupid|worthless|pathetic|"
        r"disgusting|dumb) (?:bitch|bastard|moron|idiot|whore|piece of)|piece of shit|son of a bitch|worthless "
        r"(?:bitch|whore))\b")),
}  # fmt: skip
_REFUSALS = re.compile(
    r"\b(?:i (?:can't|cannot|won't|will not|refuse)|do not|don't|never|illegal|a crime|is theft|against the law|"
    r"wrong to|prevent\w*|protect\w*|victims?|police|prosecut\w*|hotline|seek help|warning signs|combat(?:ing)?)\b"
)
_NEAR = 160
_WEIGHTS = {"harm_request": 2.0} | {rule: weight for rule, (weight, _, _) in _RULES.items()}


@dataclasses.dataclass(frozen=True)
class HarmFilter(config.Group):
    # fmt: off
    max_harm: float = arg(1.5,
        "Most harm in a document: requests and instructions for it, threats and hate weigh 2, explicit and abusive "
        "words 1, those refused or warned of 0, each thing once in 2,000 characters; 0: no rule", low=0)
    harm_classifier: str = arg("",
        "Drop too what this file's classifier finds harmful (./launch/run train_classifier makes one of labelled "
        "documents); empty: phrases alone")
    max_harmful: float = arg(0.5, "Most probability of harm by --harm_classifier", low=0)
    # fmt: on

    def check(self):
        if self.max_harmful > 1:
            raise config.ConfigError(f"--max_harmful={self.max_harmful}: a probability, at most 1")
        if not self.harm_classifier and self.max_harmful != type(self).max_harmful:
            raise config.ConfigError("--max_harmful: acts only with --harm_classifier")


def check(settings: HarmFilter) -> Check:
    """A check by the weighted phrases, each a finding with the whole score, and by the classifier of the settings."""
    by_classifier = None
    if settings.harm_classifier:
        model = classifier.load(settings.harm_classifier, "harm_classifier")
        by_classifier = classifier.classifier_check(model, settings.max_harmful, "harm_learnt")

    def findings(text: str) -> Sequence[Finding]:
        hits = harmful_phrases(text) if settings.max_harm else ()
        score = sum(_WEIGHTS[rule] for rule, _ in hits) / max(1.0, len(text) / 2000)
        lexical = [Finding(rule, score, span) for rule, span in hits] if score > settings.max_harm else []
        return [*lexical, *by_classifier(text)] if by_classifier else lexical

    return findings


def harmful_phrases(text: str) -> list[tuple[str, tuple[int, int]]]:
    """(rule, span) of every harmful phrase without a refusal or warning near it."""
    lower = lowercase(text)
    matches = [("harm_request", span) for span in _requests(lower)]
    for rule, (_, words, pattern) in _RULES.items():
        if any([word in lower for word in words]):
            matches += [(rule, match.span()) for match in pattern.finditer(lower)]
    return [
        (rule, span)
        for rule, span in matches
        if not _REFUSALS.search(lower, max(0, span[0] - _NEAR), span[1] + _NEAR)
    ]


def _requests(lower: str) -> Iterator[tuple[int, int]]:
    """Spans of requests, from the cue to the end of the act; one an act."""
    ends = set()
    for cue in [cue for part, cues in _REQUEST_CUES.items() if part in lower for cue in cues]:
        at = lower.find(cue)
        while at >= 0:
            start = at + len(cue) - 1
            if (match := _ACTS.match(lower, start, start + _MAX_REQUEST_CHARS)) and match.end() not in ends:
                ends.add(match.end())
                yield at, match.end()
            at = lower.find(cue, start)
