"""What an answer states about a picture: from words to claims that a truth can decide. Knows no truth and no picture.

Only what the lexicon names is seen: objects, their colours, numbers, halves of the image, and left / right / above /
below between two objects. Everything else in an answer is no claim, never a wrong one.

The reading is shallow and meant for short answers: a sentence is cut at commas, "and" and "but"; a negation reaches
to the end of its piece; a statement without a subject is about the last thing mentioned, at first the question's.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

ClaimKind = Literal["exists", "count", "colour", "position", "relation"]

NUMBERS = {"zero": 0, "none": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "single": 1}
HALVES = {"left": "left", "leftmost": "left", "right": "right", "rightmost": "right"}
HALVES |= {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
RELATIONS = {"above": "above", "over": "above", "below": "below", "under": "below", "underneath": "below", "beneath": "below"}
COMPARISONS = {"left": "left", "right": "right", "higher": "above", "lower": "below"}  # before "of" or "than"

_NEGATIONS = {"not", "n't", "no", "never", "without", "nor", "neither", "cannot"}
_CUTS = {",", "and", "but", "while", "whereas"}
_DETERMINERS = {"the", "a", "an", "this", "that", "these", "those", "any", "some", "its", "both", "only", "exactly", "just"}
_ADJECTIVES = {"small", "little", "tiny", "big", "large", "bright", "dark", "light", "solid", "plain", "coloured", "colored", "different"}
_GENERIC = {"object", "objects", "shape", "shapes", "thing", "things", "figure", "figures", "item", "items"}
_SIDE_WORDS = {"side", "hand", "half", "part", "edge", "corner"}
_PRONOUNS = {"it", "they", "them"}
_AFTER_PREDICATE = {"in", "on", "at", "or", "with", "which", "that", "who", "here", "there", "too", "to", "of", "is", "are", "colour", "color"}
_INEXACT = {"least", "most", "than", "about", "around", "almost", "nearly", "over"}
_INTENSIFIED = {"next", "above", "below", "beside", "under", "beneath", "near"}


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The words that can be checked: every form (plural, spelling) -> the word of the truth."""

    nouns: Mapping[str, str]
    colours: Mapping[str, str]

    @classmethod
    def of(cls, objects: Iterable[str], colours: Iterable[str]) -> "Lexicon":
        """A lexicon of these words, their plurals, and grey / gray; words of several parts are allowed."""
        nouns = {_as_one(form): word.lower() for word in objects for form in _forms(word.lower())}
        named = {colour.lower() for colour in colours}
        spelled = {_as_one(form): c for c in named for form in (c.replace("grey", "gray"), c.replace("gray", "grey"))}
        return cls(nouns, spelled)


def _as_one(form: str) -> str:
    return form.replace("-", " ").replace(" ", "_")


def _forms(word: str) -> list[str]:
    plural = word[:-1] + "ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else word + "s"
    return [word, word + "es" if word.endswith(("s", "x", "z", "ch", "sh")) else plural]


@dataclass(frozen=True, slots=True)
class Thing:
    """What a noun phrase picks out: objects of this noun (None: any), one of these colours (if any), in this half."""

    noun: str | None
    colours: tuple[str, ...] = ()
    half: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement about a picture. `value` is the colour, half or relation, or the number in digits."""

    kind: ClaimKind
    subject: Thing
    value: str = ""
    other: Thing | None = None
    negated: bool = False


@dataclass
class _Mention:
    thing: Thing
    count: int | None = None
    definite: bool = False
    negated: bool = False
    used: bool = False  # a statement was made about it, which already implies that it exists


@dataclass
class _Reading:
    """The state of reading one text from left to right."""

    lexicon: Lexicon
    asked: _Mention | None = None
    subject: _Mention | None = None
    mentions: list[_Mention] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)


def read_claims(answer: str, question: str, lexicon: Lexicon) -> list[Claim]:
    """Everything checkable that `answer` states, given the question it answers.

        "Two red stars."                   -> count(red star, 2)
        "Red." to "What colour is the star?"       -> colour(star, red)
        "A star." to "What is left of the circle?" -> relation(star, left, circle)
        "There is no star."                -> not exists(star)
    """
    question_reading = _read(question, lexicon, None)
    named = [mention for mention in question_reading.mentions if mention.thing.noun]
    wanted = [claim for claim in question_reading.claims if claim.subject.noun is None]
    vague = [mention.thing for mention in question_reading.mentions if not mention.thing.noun and not mention.used]
    wanted += [Claim("exists", thing) for thing in vague if thing != Thing(None)]
    asked = _Mention(named[0].thing, used=True) if named else None
    reading = _read(re.sub(r"^\s*(yes|no)\s*[,.]\s*", "", answer.lower()), lexicon, asked)
    # What has no subject, or relates a thing to itself ("it" could be either), cannot be checked.
    claims = [claim for claim in reading.claims if claim.subject not in (Thing(None), claim.other)]
    for mention in reading.mentions:
        claims.extend(_about(mention, wanted))
        wanted = []  # the question is about the first thing that the answer names
    return list(dict.fromkeys(claims))


def _about(mention: _Mention, wanted: list[Claim]) -> list[Claim]:
    """The claims that a mention makes by itself: what was asked for, a number, or that it exists."""
    thing = mention.thing
    if mention.used or (mention.negated and mention.definite):
        return []
    if wanted and thing.noun and not mention.negated:
        return [replace(claim, subject=_merged(thing, claim.subject)) for claim in wanted]
    if thing == Thing(None):
        return []
    if mention.count is not None:
        return [Claim("count", thing, str(mention.count), negated=mention.negated)]
    return [Claim("exists", thing, negated=mention.negated)]


def _merged(thing: Thing, asked: Thing) -> Thing:
    return Thing(thing.noun, thing.colours or asked.colours, thing.half or asked.half)


def _read(text: str, lexicon: Lexicon, asked: _Mention | None) -> _Reading:
    reading = _Reading(lexicon, asked, asked)
    for sentence in re.split(r"[.;!?:\n]+", _joined(text, lexicon)):
        words = re.findall(r"[a-z_]+(?=n't)|n't|[a-z_]+|\d+|,", sentence)
        piece: list[str] = []
        for word in [*words, ","]:
            if word in _CUTS:
                _read_piece(piece, reading)
                piece = []
            else:
                piece.append(word)
    return reading


def _joined(text: str, lexicon: Lexicon) -> str:
    """Lower case, with words of several parts written as one ("traffic light" -> "traffic_light")."""
    plain = text.lower().replace("\u2019", "'").replace("-", " ")
    for form in sorted([*lexicon.nouns, *lexicon.colours], key=len, reverse=True):
        if "_" in form:
            plain = re.sub(rf"\b{re.escape(form.replace('_', ' '))}\b", form, plain)
    return plain


def _read_piece(words: list[str], reading: _Reading) -> None:
    """Reads the words between two cuts: what is mentioned, and what is stated of it."""
    negated, pronoun, here = False, False, len(reading.mentions)
    waiting: list[Claim] = []  # stated before anything was mentioned here: "on the left is a star"
    position = 0
    while position < len(words):
        word = words[position]
        if word in _NEGATIONS and words[position + 1 : position + 2] != ["only"]:
            negated = True
        pronoun = pronoun or word in _PRONOUNS
        phrase = _phrase(words, position, reading.lexicon)
        if phrase is not None:
            mention, position = phrase
            mention.negated = negated
            reading.mentions.append(mention)
            reading.subject = mention
            continue
        claim, position = _predicate(words, position, negated, reading)
        if claim is None:
            continue
        if len(reading.mentions) > here or pronoun:
            _state(claim, reading.subject, reading)
        else:
            waiting.append(claim)
    about = reading.mentions[here] if len(reading.mentions) > here else reading.subject
    for claim in waiting:
        _state(claim, about, reading)


def _state(claim: Claim, mention: _Mention | None, reading: _Reading) -> None:
    if mention is not None:
        mention.used = True
        reading.claims.append(replace(claim, subject=mention.thing))
    else:
        reading.claims.append(claim)


def _phrase(words: list[str], start: int, lexicon: Lexicon) -> tuple[_Mention, int] | None:
    """A noun phrase that begins at `start` ("two small red stars", "the left circle"), and where it ends."""
    count: int | None = None
    colours: list[str] = []
    half: str | None = None
    position = start
    while position < len(words):
        word = words[position]
        noun = lexicon.nouns.get(word)
        elliptic = word in ("one", "ones") and bool(colours)
        if noun or word in _GENERIC or elliptic:
            break
        if word in NUMBERS or word.isdigit():
            count = NUMBERS.get(word) if word in NUMBERS else int(word)
        elif word in lexicon.colours:
            colours.append(lexicon.colours[word])
        elif word in HALVES and (position == start or words[position - 1] != "not"):
            half = HALVES[word]
        elif word not in _ADJECTIVES and not (word in _DETERMINERS and position == start):
            return None
        position += 1
    else:
        return None
    if start and (words[start - 1] in _INEXACT or "other" in words or "another" in words):
        count = None
    position += 1
    if noun and words[position : position + 1] == ["shaped"]:  # "a star shaped red object"
        while position < len(words) and words[position] in {"shaped", *lexicon.colours, *_GENERIC}:
            colours += [lexicon.colours[words[position]]] if words[position] in lexicon.colours else []
            position += 1
    while noun and position < len(words) and words[position] in _GENERIC:  # "the star shape"
        position += 1
    thing = Thing(noun, tuple(colours), half)
    return _Mention(thing, count=count, definite=words[start] in ("the", "this", "that", "its")), position


def _predicate(words: list[str], position: int, negated: bool, reading: _Reading) -> tuple[Claim | None, int]:
    """A statement that begins at `position` (a colour, number, half or relation), and where to read on."""
    word, after = words[position], position + 1
    following = words[after] if after < len(words) else ""
    previous = words[position - 1] if position else ""
    anything = Thing(None)
    bare = not following or following in _AFTER_PREDICATE
    if word in reading.lexicon.colours and bare and previous not in _DETERMINERS:
        return Claim("colour", anything, reading.lexicon.colours[word], negated=negated), after
    if (word in NUMBERS or word.isdigit()) and bare and previous not in _INEXACT | _DETERMINERS - {"only", "exactly", "just"}:
        if following == "of" and not set(words[after + 1 : after + 2]) & _PRONOUNS:
            return None, after  # "two of the stars are red" says nothing about how many stars there are
        number = NUMBERS[word] if word in NUMBERS else int(word)
        return Claim("count", anything, str(number), negated=negated), after
    if word == "top" and previous == "on" and following == "of":
        return _relation("above", words, after + 1, negated, reading) or (None, after)
    if word in RELATIONS:
        return _relation(RELATIONS[word], words, after, negated, reading) or (None, after)
    if word in HALVES or word in COMPARISONS:
        return _place(words, position, negated, reading)
    return None, after


def _place(words: list[str], position: int, negated: bool, reading: _Reading) -> tuple[Claim | None, int]:
    """A half of the image ("on the left", "in the upper half") or a comparison ("to the left of the circle")."""
    word, after = words[position], position + 1
    if word == "right" and words[after : after + 1] and words[after] in _INTENSIFIED:
        return None, after  # "right above" is no side
    while after < len(words) and words[after] in _SIDE_WORDS:
        after += 1
    linked = after < len(words) and words[after] in ("of", "than", "from")
    if linked and word in COMPARISONS:
        compared = _relation(COMPARISONS[word], words, after + 1, negated, reading)
        if compared is not None:
            return compared
    if word not in HALVES or (linked and words[after] == "than"):
        return None, after
    return Claim("position", Thing(None), HALVES[word], negated=negated), after


def _relation(
    relation: str, words: list[str], position: int, negated: bool, reading: _Reading
) -> tuple[Claim, int] | None:
    """The relation to what is named at `position`, or None if nothing checkable is named there."""
    phrase = _phrase(words, position, reading.lexicon)
    if phrase is not None and phrase[0].thing != Thing(None):
        return Claim("relation", Thing(None), relation, other=phrase[0].thing, negated=negated), phrase[1]
    if position < len(words) and words[position] in _PRONOUNS and reading.asked is not None:
        return Claim("relation", Thing(None), relation, other=reading.asked.thing, negated=negated), position + 1
    return None
