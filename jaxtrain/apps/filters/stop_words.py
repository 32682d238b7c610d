"""Frequent words of languages, by which a text's language is told and Gopher's rule about stop words is applied.

Function words such as articles and conjunctions are a fifth to a third of the words of running text, so a few of them
are enough (FineWeb-2, 2506.20920, derives such lists from data). Scripts without spaces are searched for substrings.
"""

import functools
import re
from collections import Counter
from collections.abc import Sequence

# ISO 639-1 -> words.
WORDS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "en": "the be to of and that have with is in it for was on are as this not",
        "de": "der die das und in zu den mit von ist nicht ein eine dem sich auf des im für als auch es wird",
        "nl": "de het een en van in is dat op te zijn met voor niet aan er om ook als bij",
        "af": "die en van in is het wat nie te om vir met dat op hy word",
        "sv": "och att det i en som är på av för med till den inte om ett har de",
        "da": "og at det i en som er på af for med til den ikke om et har de var",
        "no": "og at det i en som er på av for med til den ikke om et har de var",
        "is": "og að í er sem á það um til við en hann ekki var með fyrir",
        "fi": "ja on ei se että oli hän mutta kun ovat myös joka sen kuin tai mukaan vielä jo",
        "et": "ja on ei et see oli ta kui ka mis aga oma või siis nii",
        "lv": "un ir no ar uz ka par kas to bet arī tas kā vai",
        "lt": "ir yra kad į iš su tai bet kaip buvo apie jis ne ar už",
        "pl": "i w na z się nie do że jest to o jak po ale od za co przez są",
        "cs": "a v na se je že s z do to o i ve pro za by ale jako po",
        "sk": "a v na sa je že s z do to o aj vo pre za by ale ako po",
        "sl": "in je na v da se za so z ne ki pa s po bi tudi od ali",
        "hr": "i je u na da se za su od s ne koji kao što a bi iz ali",
        "hu": "a az és hogy nem is egy ez volt de meg csak van el már ki mint",
        "ro": "și de în la a cu o că pe nu care din pentru este mai un se sunt",
        "it": "di e il la che in un è per una non sono con del si le da della i",
        "es": "de la que el en y a los se del las un por con no una su para es",
        "pt": "de a o que e do da em um para é com não uma os no se na por",
        "gl": "de a o que e do da en un para é con non unha os no se na por",
        "ca": "de la que el i en a els les un per amb no una és del al es",
        "fr": "de la le et les des en un une du que est pour dans il pas qui sur au",
        "eu": "eta da ez du bat dira zen ere baina izan dute egin hori den",
        "ga": "an na agus ar go a is i le bhí sé ag as do atá",
        "cy": "y yn a i o ar ac yr mae ei oedd bod am gan wedi",
        "sq": "e të në dhe i një për që me nga është u se ka si",
        "mt": "il ta li u fl ma din kien biex minn lil jew dan fuq hija",
        "tr": "ve bir bu da de için ile çok daha gibi olarak en ne ama kadar sonra olan",
        "az": "və bir bu da də üçün ilə çox daha kimi olan isə o ki",
        "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga ke ada karena",
        "ms": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga ke ada kerana",
        "tl": "ang ng sa na mga ay at ko ito hindi siya para ni si may",
        "vi": "và của là có không được cho một trong các những người với này đã khi",
        "sw": "na ya wa kwa ni katika za la kuwa cha hii si watu ili kama",
        "zu": "ukuthi futhi ngoba kodwa uma lapho nje kanye kakhulu yini",
        "ht": "nan yon li ki se pou te ak yo pa sou ou mwen",
        "eo": "la de kaj en estas ke al ne mi por li kun pri sed",
        "la": "et in est non ad ut cum qui quod sed si ex quae de",
        "ru": "и в не на что он с как это по но из у за то к его от для был",
        "uk": "і в не на що він з як це та до але у за його від для був й",
        "be": "і ў не на што ён з як гэта па але да у за яго",
        "bg": "и в не на че се с за да от е по но са като си до",
        "mk": "и во не на дека се со за да од е по но што како",
        "sr": "и у не на да је се за од су са што као али који би",
        "kk": "және бір бұл да де мен үшін болып деп еді осы туралы",
        "el": "και το να η του της τα με για την από που στο είναι δεν ο",
        "hy": "և է որ ու մի են այս չի էր նա իր համար",
        "ka": "და არ რომ ეს მაგრამ იყო თუ მისი არის რომელიც",
        "he": "של את על לא הוא זה עם כי היא גם אני או כל אבל",
        "ar": "في من على أن إلى لا ما هذا عن مع التي كان الذي هو كل بعد ثم",
        "fa": "و در به از که این را با است برای آن یک خود تا شد",
        "ur": "کے کی میں ہے اور سے کا کو اس نے پر کہ یہ ہیں",
        "hi": "के में है की और से का को पर यह कि ने एक नहीं भी हैं था",
        "mr": "आहे आणि या व ते हे होते तो एक नाही तर असे की",
        "ne": "छ र को मा यो पनि हो गर्न भने लागि एक थियो",
        "bn": "এবং ও এই করে না থেকে হয় একটি তার যে জন্য এক কিন্তু",
        "pa": "ਦੇ ਵਿੱਚ ਹੈ ਅਤੇ ਦੀ ਨੂੰ ਦਾ ਤੋਂ ਨੇ ਇਸ ਹਨ ਇੱਕ",
        "gu": "છે અને આ તે માટે એક પણ કે હતી નથી હતા",
        "ta": "ஒரு இந்த என்று மற்றும் அது என இது அவர் ஆனால் தான்",
        "te": "ఈ ఒక మరియు ఆ కూడా అని తన లో నుండి కానీ",
        "kn": "ಈ ಒಂದು ಮತ್ತು ಆ ಎಂದು ಅವರು ಇದು ಆದರೆ ತನ್ನ",
        "ml": "ഒരു ഈ എന്ന ആ എന്നാൽ അത് ഇത് നിന്ന് കൂടി",
        "ko": "있다 있는 그 수 이 것은 및 등 한 그리고 있었다 위해 없는 더 것이다 하지만 때 그는",
    }.items()
}
# Without spaces between words, or with spaces between sentences: parts of a text.
PARTS: dict[str, tuple[str, ...]] = {
    name: tuple(parts.split())
    for name, parts in {
        "zh": "的 了 在 是 不 和 有 我 这 這 他",
        "ja": "の に は を た が で と し て",
        "th": "ที่ และ ใน เป็น การ ของ มี ไม่ ได้ ให้",
        "lo": "ທີ່ ແລະ ໃນ ເປັນ ຂອງ ມີ ບໍ່ ໄດ້",
        "km": "និង ការ ជា នៅ មាន ដែល ក្នុង",
        "my": "သည် နှင့် ကို ၏ တွင် များ",
        "bo": "གི་ དང་ ལ་ ནི་ པའི་",
    }.items()
}
LEAST_SHARE = 0.08  # of the words, in running text of a language
LEAST_WORDS = 3  # different ones
_MAX_WORDS = 2_000
# Scripts that have no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_UNMARKED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff]"
)  # Thai, Lao and Tibetan do not mark the ends of sentences
_EDGE = "\"'`“”‘’„«»()[]{}<>.,;:!?…-–—*_/\\|#،؛؟।¿¡"
_MIN_SHARE = 0.3  # of the characters, in a text that is written in a script


def is_unspaced(text: str) -> bool:
    """Whether a text is written in a script without spaces between words."""
    return _share(_UNSPACED, text) >= _MIN_SHARE


def is_unmarked(text: str) -> bool:
    """Whether a text is written in a script whose sentences have no marks at their ends."""
    return _share(_UNMARKED, text) >= _MIN_SHARE


def _share(pattern: re.Pattern[str], text: str) -> float:
    sample = text[:_MAX_WORDS]
    return 0.0 if sample.isascii() else len(pattern.findall(sample)) / max(1, len(sample))


def count(text: str, language: str, words: Sequence[str] | None = None) -> int:
    """The number of different stop words of a language in a text."""
    if language in PARTS:
        return sum(part in text for part in PARTS[language])
    return len(WORDS[language].intersection(words if words is not None else split(text)))


def split(text: str) -> list[str]:
    """The words of the beginning of a text in small letters, without marks around them."""
    return [word.strip(_EDGE) for word in text[: 12 * _MAX_WORDS].lower().split()[:_MAX_WORDS]]


@functools.lru_cache(1)
def _languages_of() -> dict[str, tuple[str, ...]]:
    """Word -> the languages that it is a stop word of."""
    table: dict[str, list[str]] = {}
    for language, words in WORDS.items():
        for word in words:
            table.setdefault(word, []).append(language)
    return {word: tuple(languages) for word, languages in table.items()}


def language_of(text: str, least_words: int = LEAST_WORDS, least_share: float = LEAST_SHARE) -> str:
    """The language of running text, by its most frequent words; "" where it is in none of them, or no running text."""
    words = split(text)
    table, total, different = _languages_of(), Counter(), Counter()
    for word, times in Counter(words).items():
        for language in table.get(word, ()) if len(word) > 1 else ():  # a single letter may be a symbol
            total[language] += times
            different[language] += 1
    best = max(total, key=lambda one: (total[one], different[one]), default="")
    if best and different[best] >= least_words and total[best] >= least_share * len(words):
        return best
    parts = {name: count(text, name) for name in PARTS} if is_unspaced(text) else {}
    best = max(parts, key=parts.__getitem__, default="")
    return best if parts.get(best, 0) >= least_words else ""
