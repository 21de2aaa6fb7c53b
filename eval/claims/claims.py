"""What an answer states about a picture: from words to claims that a truth can decide.

Knows no truth and no picture. Only what the lexicon names is seen: objects, their colors, numbers,
halves of the image, and left / right / above / below between two objects. Everything else in an
answer is no claim, never a wrong one.

The reading is shallow and meant for short answers: a sentence is cut at commas, "and" and "but"; a
negation reaches to the end of its piece; a statement without a subject is about the last thing
mentioned, at first the question's. A sentence that says that it is not sure states nothing.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from eval.claims.lexicon import (
    ADJECTIVES,
    AFTER_PREDICATE,
    CENTERS,
    COMPARISONS,
    CUTS,
    DETERMINERS,
    GENERIC,
    HALVES,
    INEXACT,
    INTENSIFIED,
    LANDMARK_AFTER,
    NEGATIONS,
    NUMBERS,
    PRONOUNS,
    RELATIONS,
    SIDE_WORDS,
    Lexicon,
    is_hedged,
)

ClaimKind = Literal["exists", "count", "colour", "position", "relation"]
_EXACTLY = {"only", "exactly", "just"}


MAX_PHRASE_WORDS = 12  # before its noun; so an answer of any length is read in linear time


@dataclass(frozen=True, slots=True)
class Thing:
    """What a noun phrase picks out: objects of a noun (None: any), of these colors, in a half."""

    noun: str | None
    colors: tuple[str, ...] = ()
    half: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement about a picture; `value` is a color, place, relation, or number in digits."""

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
    # it follows "of", "from", "with" or "to": in a question, what something is compared with
    after_link: bool = False


@dataclass
class _Reading:
    """The state of reading one text from left to right.

    `landmark` is what the question compares with: in "left" to "Where is the star, seen from the
    box?", the box.
    """

    lexicon: Lexicon
    subject: _Mention | None = None
    landmark: Thing | None = None
    mentions: list[_Mention] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)


def read_claims(answer: str, question: str, lexicon: Lexicon) -> list[Claim]:
    """Everything checkable that `answer` states, given the question it answers.

    "Two red stars."                   -> count(red star, 2)
    "Red." to "What colour is the star?"       -> colour(star, red)
    "A star." to "What is left of the circle?" -> relation(star, left, circle)
    "There is no star."                -> not exists(star)
    """
    asked = _read(question, _Reading(lexicon))
    named = [mention for mention in asked.mentions if mention.thing.noun]
    landmarks = [mention.thing for mention in named if mention.after_link] if len(named) > 1 else []
    subjects = [mention.thing for mention in named if mention.thing not in landmarks]
    wanted = [claim for claim in asked.claims if claim.subject.noun is None]
    vague = [
        mention.thing for mention in asked.mentions if not mention.thing.noun and not mention.used
    ]
    wanted += [Claim("exists", thing) for thing in vague if thing != Thing(None)]
    reading = _Reading(
        lexicon,
        subject=_Mention(subjects[0], used=True) if subjects else None,
        landmark=landmarks[0] if landmarks else None,
    )
    _read(re.sub(r"^\s*(yes|no)\s*[,.]\s*", "", answer.lower()), reading, is_question=False)
    # What has no subject, or relates a thing to itself ("it" could be either), cannot be checked.
    claims = [claim for claim in reading.claims if claim.subject not in (Thing(None), claim.other)]
    presupposed = {mention.thing for mention in asked.mentions}
    for mention in reading.mentions:
        mention.used = mention.used or (mention.definite and mention.thing in presupposed)
        claims.extend(_about(mention, wanted))
        if mention.thing.noun:
            wanted = []  # the question is about the first thing that the answer names
    return list(dict.fromkeys(claims))


def _about(mention: _Mention, wanted: list[Claim]) -> list[Claim]:
    """The claims of a mention by itself: what was asked for, a number, or that it exists."""
    thing = mention.thing
    # "the red shape", "not the star"
    presupposed = mention.definite and (mention.negated or thing.noun is None)
    if mention.used or presupposed or thing == Thing(None):
        return []
    if wanted and thing.noun and not mention.negated:
        return [replace(claim, subject=_merged(thing, claim.subject)) for claim in wanted]
    if mention.count is not None:
        return [Claim("count", thing, str(mention.count), negated=mention.negated)]
    return [Claim("exists", thing, negated=mention.negated)]


def _merged(thing: Thing, asked: Thing) -> Thing:
    return Thing(thing.noun, thing.colors or asked.colors, thing.half or asked.half)


def _read(text: str, reading: _Reading, *, is_question: bool = True) -> _Reading:
    for sentence in re.split(r"[.;!?:\n]+", reading.lexicon.joined(text)):
        words = re.findall(r"[a-z_]+(?=n't)|n't|[a-z_]+|\d+|,", sentence)
        piece: list[str] = []
        num_claims, num_mentions = len(reading.claims), len(reading.mentions)
        for word in [*words, ","]:
            if word in CUTS:
                _read_piece(piece, reading)
                piece = []
            else:
                piece.append(word)
        if not is_question and is_hedged(words):  # forget it, and what a later "it" would mean
            del reading.claims[num_claims:], reading.mentions[num_mentions:]
            reading.subject = None
    return reading


def _read_piece(words: list[str], reading: _Reading) -> None:
    """Reads the words between two cuts: what is mentioned, and what is stated of it."""
    negated, pronoun, here = False, False, len(reading.mentions)
    waiting: list[Claim] = []  # stated before anything was mentioned here: "on the left is a star"
    position = 0
    while position < len(words):
        word = words[position]
        if word in NEGATIONS and words[position + 1 : position + 2] != ["only"]:
            negated = True
        # "none of the stars", "none of them is blue"; but "none of them" alone is a number
        negated = negated or (
            words[position : position + 2] == ["none", "of"]
            and not _is_all_of_them(words, position + 1)
        )
        pronoun = pronoun or word in PRONOUNS
        phrase = _phrase(words, position, reading.lexicon)
        if phrase is not None:
            _mention(phrase[0], words[max(position - 1, 0)], negated, here, reading)
            position = phrase[1]
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


def _mention(mention: _Mention, previous: str, negated: bool, here: int, reading: _Reading) -> None:
    """Adds a noun phrase; in "the red shape is a star" the star replaces the vague shape."""
    mention.negated, mention.after_link = negated, previous in LANDMARK_AFTER
    vague = reading.mentions[-1] if len(reading.mentions) > here else None
    if (
        vague is not None
        and vague.thing.noun is None
        and previous in ("is", "are", "not")
        and mention.thing.noun
    ):
        mention.thing = _merged(mention.thing, vague.thing)
        mention.definite = False
        reading.mentions.pop()
    reading.mentions.append(mention)
    reading.subject = mention


def _state(claim: Claim, mention: _Mention | None, reading: _Reading) -> None:
    if mention is not None:
        mention.used = True
    reading.claims.append(
        replace(claim, subject=mention.thing if mention is not None else Thing(None))
    )


def _phrase(words: list[str], start: int, lexicon: Lexicon) -> tuple[_Mention, int] | None:
    """A noun phrase that begins at `start` ("the left circle"), and where it ends."""
    count: int | None = None
    colors: list[str] = []
    half: str | None = None
    position, end = start, min(len(words), start + MAX_PHRASE_WORDS)
    while position < end:
        word = words[position]
        noun = lexicon.nouns.get(word)
        if noun or word in GENERIC or (word in ("one", "ones") and colors):
            break
        if word in NUMBERS or word.isdigit():
            count = NUMBERS[word] if word in NUMBERS else int(word)
        elif word in lexicon.colors:
            colors.append(lexicon.colors[word])
        elif word in HALVES:
            half = HALVES[word]
        elif word not in ADJECTIVES and not (word in DETERMINERS and position == start):
            return None
        position += 1
    else:
        return None
    if (start and words[start - 1] in INEXACT) or "other" in words or "another" in words:
        count = None
    position += 1
    if noun and words[position : position + 1] == ["shaped"]:  # "a star shaped red object"
        while position < len(words) and words[position] in {"shaped", *lexicon.colors, *GENERIC}:
            colors += [lexicon.colors[words[position]]] if words[position] in lexicon.colors else []
            position += 1
    while noun and position < len(words) and words[position] in GENERIC:  # "the star shape"
        position += 1
    definite = words[start] in ("the", "this", "that", "its")
    return _Mention(Thing(noun, tuple(colors), half), count=count, definite=definite), position


def _predicate(
    words: list[str], position: int, negated: bool, reading: _Reading
) -> tuple[Claim | None, int]:
    """A color, number, place or relation stated at `position`, and where to read on."""
    word, after = words[position], position + 1
    following = words[after] if after < len(words) else ""
    previous = words[position - 1] if position else ""
    anything = Thing(None)
    bare = not following or following in AFTER_PREDICATE
    if word in reading.lexicon.colors and bare and previous not in DETERMINERS:
        return Claim("colour", anything, reading.lexicon.colors[word], negated=negated), after
    if (
        (word in NUMBERS or word.isdigit())
        and bare
        and previous not in INEXACT | DETERMINERS - _EXACTLY
    ):
        if following == "of" and not _is_all_of_them(words, after):
            # "two of the stars are red" says nothing about how many stars there are
            return None, after
        if following in ("in", "on", "at", "is") and _is_counted(reading):
            return None, after  # "two stars, one at the top": one of those that were counted before
        number = NUMBERS[word] if word in NUMBERS else int(word)
        return Claim("count", anything, str(number), negated=negated), after
    if word in CENTERS and not (following == "of" and _phrase(words, after + 1, reading.lexicon)):
        return Claim("position", anything, "centre", negated=negated), after
    if word == "top" and previous == "on" and following == "of":
        return _relation("above", words, after + 1, negated, reading) or (None, after)
    if word in RELATIONS:
        return _relation(RELATIONS[word], words, after, negated, reading) or (None, after)
    if word in HALVES or word in COMPARISONS:
        return _place(words, position, negated, reading)
    return None, after


def _is_all_of_them(words: list[str], position: int) -> bool:
    """Whether "of them" is all that is left: "two of them", and not "two of them are red"."""
    return (
        words[position : position + 1] == ["of"]
        and len(words) == position + 2
        and words[-1] in PRONOUNS
    )


def _is_counted(reading: _Reading) -> bool:
    """Whether a number was stated already for what is being talked about."""
    subject = reading.subject
    stated = {claim.subject for claim in reading.claims if claim.kind == "count"}
    return subject is not None and (subject.count is not None or subject.thing in stated)


def _place(
    words: list[str], position: int, negated: bool, reading: _Reading
) -> tuple[Claim | None, int]:
    """A half of the image ("on the left") or a comparison ("to the left of the circle")."""
    word, after = words[position], position + 1
    if word == "right" and words[after : after + 1] and words[after] in INTENSIFIED:
        return None, after  # "right above" is no side
    while after < len(words) and words[after] in SIDE_WORDS:
        after += 1
    linked = after < len(words) and words[after] in ("of", "than", "from")
    if word in COMPARISONS and (linked or (reading.landmark is not None and after == len(words))):
        compared = _relation(COMPARISONS[word], words, after + 1, negated, reading)
        if compared is not None:
            return compared
    unclear = linked and (
        words[after] == "than" or bool(PRONOUNS & set(words[after + 1 : after + 2]))
    )
    if word not in HALVES or unclear:
        return None, after
    return Claim("position", Thing(None), HALVES[word], negated=negated), after


def _relation(
    relation: str, words: list[str], position: int, negated: bool, reading: _Reading
) -> tuple[Claim, int] | None:
    """The relation to what is named at `position`, or None.

    "it" and nothing stand for what the question compares with.
    """
    other, after = reading.landmark, position + 1
    phrase = _phrase(words, position, reading.lexicon)
    if phrase is not None and phrase[0].thing != Thing(None):
        other, after = phrase[0].thing, phrase[1]
    elif position < len(words) and words[position] not in PRONOUNS:
        return None
    if other is None:
        return None
    return Claim("relation", Thing(None), relation, other=other, negated=negated), after
