"""What a generated answer says, to a benchmark's question or against the two answers of its pair.

The parser never guesses: what names two answers is ambiguous, what names none has failed, and both
are counted beside every score. Pure functions of strings. How other harnesses read the same answers
is in `eval.parsing.harness_parsers`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from eval.parsing import languages
from eval.parsing.unwrap import LATEX, unwrapped
from eval.question import LETTERS, Question, Status, Verdict
from pipeline.llm.reasoning import without_reasoning

PairVerdict = Literal["own", "other", "neither"]

_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_DECORATION = re.compile(r"[*`_$#]+|<\|?/?\w+\|?>")
_BULLETS = ">-\u2013\u2022 "
_QUOTES = "\"'\u201c\u201d\u2018\u2019"
_LETTER = r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|\{\s*([A-Za-z])\s*\}|([A-Za-z]))"
_ONLY_LETTER = re.compile(
    rf"^(?:(?:option|choice|letter)\s+|(?:{languages.OPTION}|{languages.CHOOSE})\s*)?{_LETTER}"
    rf"(?:\s*(?:{languages.OPTION}|{languages.OPTION_AFTER}))?\s*[).:,!]*$",
    re.IGNORECASE,
)
_LABEL_FIRST = re.compile(
    r"^(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|([A-Za-z])(?:[).:]|\s*[\n,]|\s+-))\s*(.*)$",
    re.DOTALL,
)
_DECLARES = re.compile(
    r"(?<!wrong\s)(?<!incorrect\s)\b(?:answer|option|choice|response)\b(?:\s+(?:here|to\s+the\s+question))?\s*(?:is\b|would\s+be\b|:|=)\s*:?\s*(?:option\s+|choice\s+)?"
    r"|\bI\s+(?:would\s+)?(?:choose|select|pick)\s+(?:option\s+|choice\s+)?|\bcorrect\s+(?:one\s+)?is\s+(?:option\s+)?"
    rf"|{languages.DECLARES}",
    re.IGNORECASE,
)
# A bare letter counts only where nothing follows that would make it a word: "is A." but not "is A
# dog".
_DECLARED = re.compile(
    rf"\s*[{_QUOTES}]?\s*{_LETTER}(?=[{_QUOTES}]?\s*"
    rf"(?:$|[.,;:!)\n]|because\b|since\b|as\b|{languages.AFTER_LETTER}))"
)
# "A, B" and "A or (B)" after "the answer is" are two answers.
_ANOTHER = re.compile(
    rf"\s*(?:[,/;&]|or\b|and\b|{languages.OR})\s*(?:or\b|and\b)?\s*(?:(?:maybe|perhaps|possibly)\s)?"
    r"(?:\(\s*([A-Za-z])\s*\)|([A-Z])(?![\w'])(?!\s+[a-z]))|\s*\n\s*([A-Z])\s*$"
)
_MARKED = re.compile(r"\(\s*([A-Za-z])\s*\)|\b(?:option|choice)\s+([A-Z])\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|none|cannot|unlike|instead|rather|without|except|hardly|wrong"
    r"|incorrect)\b|n['\u2019 ]t\b",
    re.IGNORECASE,
)
# What follows a letter that is said not to be it.
_IS_REJECTED = re.compile(
    rf"\W*(?:(?:is|are|was|seems)(?:\s+\w+ly)?\s+(?:not|wrong|incorrect)\b|isn['\u2019]t\b"
    rf"|{languages.IS_REJECTED})",
    re.IGNORECASE,
)
# A letter on its own; the article and the pronoun are followed by a word in lower case.
_ALONE = re.compile(r"(?<![\w'])(?:([AI])(?!\s+(?!(?:or|and)\s+[A-Z]\b)[a-z])|([B-HJ-Z]))(?![\w'])")
_IT_IS = r"\b(?:[Ii]t|[Tt]hat)(?:['\u2019]s|\s+is)|\b(?:say|guess|think|with)"
_SAYS_LETTER = re.compile(
    rf"(?:\b(?:is|be|for)|{_IT_IS})\s+(?:option\s+)?[{_QUOTES}]?[A-Z][{_QUOTES}]?\s*[.!]?$"
    rf"|(?:{_IT_IS})\s+[{_QUOTES}]?[A-Z][{_QUOTES}]?(?=\s*[.,;:!)\n]|\s+(?:because|since|as)\b)"
    r"|^[A-Z]\s+(?:because|since|as|is\s+(?:the\s+)?(?:correct|right|best))\b"
    r"|^(?:[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore|[Pp]robably|(?:[Ff]inal )?[Aa]nswer)\W{1,4}[A-Z]"
    r"\W{0,2}$"
)
# characters in which a declared answer must stand: answers of any length are read in linear time
_LOOK_AHEAD = 200
_LEAD_IN = re.compile(
    r"^(?:(?:the|my)\s+)?(?:(?:correct|final|best)\s+)?answer\s*(?:is\b|:)\s*:?\s*(.*)$",
    re.IGNORECASE | re.DOTALL,
)
_YES_NO_FIRST = re.compile(
    r"^(yes|no)(?![\w'-])(\s*[,.;:!\u2013-]|\s*\n|\s*$|\s+(?:there|it|they|he|she|the|this|that|i|you|we|both)\b)?",
    re.I,
)
_YES_NO = re.compile(r"(?<![\w'-])(yes|no)(?![\w'-])", re.IGNORECASE)
_YES_NO_CLAUSE = re.compile(
    r"[,.!?:;\n][^\S\n]*(?:(?:but|or|and|so)\s+)?(yes|no)(?![\w'-])\s*(?:[,.;!?]|$)", re.IGNORECASE
)
_OR_YES_NO = re.compile(r"\s*(?:/\s*|(?:,\s*)?(?:and|or|but)\s+)(?:yes|no)\b", re.IGNORECASE)
_CLAUSE_END = re.compile(languages.CLAUSE_END)


def normalize(text: str) -> str:
    """A text without what does not change its meaning: case, width, punctuation and spacing.

    "The star is RED." -> "the star is red"
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", folded).split())


def verdict(generated: str, own: str, other: str) -> PairVerdict:
    """Which of the pair's answers a generated one is, after `normalize`.

    "neither" also when the two answers are the same once normalized: then a match says nothing.
    """
    said, own_text, other_text = normalize(generated), normalize(own), normalize(other)
    if own_text == other_text:
        return "neither"
    if said == own_text:
        return "own"
    return "other" if said == other_text else "neither"


def num_words(text: str) -> int:
    """Words of a text as a reader counts them (runs between spaces)."""
    return len(text.split())


def parse(question: Question, response: str) -> Verdict:
    """What `response` says in answer to `question`; it does not look at the truth.

    "B.", "(b) Closed" and "Closed" are exact; "The answer is B." is extracted; "A or B" is
    ambiguous; "I cannot tell" has failed; "<think>The door" is unfinished. Of a text with reasoning
    the answer after it counts. An answer to a "free" question is for a judge: missing until there
    is one.
    """
    said = without_reasoning(response)
    if said is None:
        return Verdict(None, "unfinished")
    if question.kind == "free":
        return Verdict(None, "missing")
    marked, is_bare = unwrapped(said)
    if question.meta.get("normalise") == "evalai":
        verdict_of_text = _short(marked.strip(), str)
    else:
        text = LATEX.sub("", unicodedata.normalize("NFKC", marked)).translate(languages.MARKS)
        verdict_of_text = _read(question, _DECORATION.sub("", text).strip().strip(_QUOTES).strip())
    if verdict_of_text.status == "exact" and not is_bare:
        return Verdict(verdict_of_text.value, "extracted")
    return verdict_of_text


def _read(question: Question, text: str) -> Verdict:
    """What a text says that holds nothing but the answer, on whatever it is written."""
    if not text:
        return Verdict(None, "failed")
    if question.kind == "short":
        return _short(text, short_answer)
    text = text.lstrip(_BULLETS)
    return _yes_no(text) if question.kind == "yes_no" else _choice(text, question.choices)


def short_answer(text: str) -> str:
    """A short answer for comparison: normalized, number words as digits, no articles.

    "Two dogs." -> "2 dogs"
    """
    words = [
        _NUMBER_WORDS.get(word, word)
        for word in normalize(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)).split()
    ]
    return " ".join(word for word in words if word not in ("a", "an", "the")) or " ".join(words)


def status_rates(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The share of each status over all answers; empty if there are none."""
    counts = Counter(verdict.status for verdict in verdicts)
    return (
        {status: counts[status] / len(verdicts) for status in get_args(Status)} if verdicts else {}
    )


def _short(text: str, normal: Callable[[str], str]) -> Verdict:
    lead = _LEAD_IN.match(text)
    said = normal(lead[1] if lead else text).strip()
    return Verdict(said, "extracted" if lead else "exact") if said else Verdict(None, "failed")


def _yes_no(text: str) -> Verdict:
    if normalize(text) in ("yes", "no"):
        return Verdict(normalize(text), "exact")
    clauses = [clause for clause in _CLAUSE_END.split(text.casefold()) if clause]
    if clauses and clauses[0] in languages.YES_NO:
        return _yes_no_in_clauses(clauses)
    declared = {word.lower() for word in _declared_words(text)}
    first = _YES_NO_FIRST.match(text)
    if first and (first[2] is not None or first[1].lower() == "yes"):
        # "Yes, there is no doubt." answers yes; "Yes. No." and "Yes and no." answer nothing.
        rest = text[first.end(1) :]
        undecided = _OR_YES_NO.match(rest)
        later = {word.lower() for word in _YES_NO_CLAUSE.findall(rest)}
        said = {first[1].lower()} | declared | later
        return (
            Verdict(None, "ambiguous")
            if undecided or len(said) > 1
            else Verdict(said.pop(), "extracted")
        )
    if len(declared) == 1:
        return Verdict(declared.pop(), "extracted")
    words = {word.lower() for word in _YES_NO.findall(text)}
    # "no" inside a sentence may be part of a statement ("there is no dog"), which to the question
    # may mean either.
    if words == {"yes"} and not declared and not _NEGATION.search(text):
        return Verdict("yes", "extracted")
    return Verdict(None, "ambiguous" if len(words | declared) > 1 else "failed")


def _yes_no_in_clauses(clauses: Sequence[str]) -> Verdict:
    """Of clauses of which the first is a word for yes or no; the others must not gainsay it."""
    said = {languages.YES_NO.get(clause, clause) for clause in clauses} & {"yes", "no"}
    if len(said) > 1:
        return Verdict(None, "ambiguous")
    return Verdict(said.pop(), "exact" if len(clauses) == 1 else "extracted")


def _declared_words(text: str) -> list[str]:
    first_words = []
    for rest in _after_declarations(text):
        first_words.append(next(filter(None, _CLAUSE_END.split(rest.casefold())), ""))
        word = _YES_NO.search(rest)
        if word and _OR_YES_NO.match(rest, word.end()):
            first_words += ["yes", "no"]
    said = [languages.YES_NO.get(word, word) for word in first_words]
    return [word for word in said if word in ("yes", "no")]


def _after_declarations(text: str) -> list[str]:
    """What follows each "the answer is" and its like, as far as a declared answer may stand."""
    ends = [match.end() for match in _DECLARES.finditer(text)]
    return [text[end : end + _LOOK_AHEAD] for end in ends]


def _choice(text: str, choices: Sequence[str]) -> Verdict:
    letters = LETTERS[: len(choices)]
    only = _ONLY_LETTER.match(text)
    if only:
        letter = _group(only).upper()
        return Verdict(letter, "exact") if letter in letters else Verdict(None, "failed")
    whole = [
        letter
        for letter, choice in zip(letters, choices, strict=True)
        if choice and normalize(choice) == normalize(text)
    ]
    if whole:
        return Verdict(whole[0], "exact") if len(whole) == 1 else Verdict(None, "ambiguous")
    label = _LABEL_FIRST.match(text)
    if label and (letter := _group(label).upper()) in letters:
        rest = label[4]
        if normalize(rest) == normalize(choices[letters.index(letter)]):
            return Verdict(letter, "exact")
        others = (
            _declared_letters(rest, letters, choices)
            | _marked(rest, letters)
            | _alone(rest, letters)
            | _named(rest, letters, choices)
        )
        is_it = others - {letter} or not _IS_REJECTED.match(rest)
        return _agreed({letter} | others) if is_it else Verdict(None, "failed")
    declared = _declared_letters(text, letters, choices)
    if declared:
        return _agreed(declared)
    alone, named = _alone(text, letters), _named(text, letters, choices)
    if len(alone) == 1 and not named and not _says_letter(text):
        alone = set()  # one letter inside a sentence may be a name or a vitamin
    verdict_of_all = _agreed(_marked(text, letters) | alone | named)
    is_rejected = verdict_of_all.value in _rejected(text)
    return Verdict(None, "failed") if is_rejected else verdict_of_all


def _says_letter(text: str) -> bool:
    """Whether a sentence says that a letter is it, and not that it is not."""
    match = _SAYS_LETTER.search(text)
    if match is None:
        return False
    return not _NEGATION.search(re.split(r"[.,;:!?\n]", text[: match.start()])[-1])


def _agreed(letters: set[str]) -> Verdict:
    if not letters:
        return Verdict(None, "failed")
    return Verdict(letters.pop(), "extracted") if len(letters) == 1 else Verdict(None, "ambiguous")


def _group(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group)


def _declared_letters(text: str, letters: str, choices: Sequence[str]) -> set[str]:
    """What "the answer is ..." and its like name: a letter, or the text of an option."""
    declared: set[str] = set()
    for rest in _after_declarations(text):
        letter = _DECLARED.match(rest)
        if letter is None:
            declared |= _named(re.split(r"[.\n]", rest, maxsplit=1)[0], letters, choices)
        while letter is not None:
            if not _IS_REJECTED.match(rest, letter.end()):
                declared |= {_group(letter).upper()} & set(letters)
            letter = _ANOTHER.match(rest, letter.end())
    return declared


def _marked(text: str, letters: str) -> set[str]:
    """Letters in parentheses or after "option"."""
    return {
        letter for match in _MARKED.finditer(text) if (letter := _group(match).upper()) in letters
    }


def _rejected(text: str) -> set[str]:
    """Of the marked letters those of which a clause says that they are not it."""
    return {
        _group(match).upper()
        for match in _MARKED.finditer(text)
        if _IS_REJECTED.match(text, match.end())
        or _NEGATION.search(re.split(r"[.,;:!?\n]", text[: match.start()][-_LOOK_AHEAD:])[-1])
    }


def _alone(text: str, letters: str) -> set[str]:
    """Capital letters that stand on their own."""
    return {letter for match in _ALONE.finditer(text) if (letter := _group(match)) in letters}


def _named(text: str, letters: str, choices: Sequence[str]) -> set[str]:
    """The options whose text stands in a text; none where a negation may turn it round."""
    rest, named = f" {normalize(text)} ", set()
    # the longest first: what it takes up is not another's
    for letter, choice in sorted(
        zip(letters, choices, strict=True), key=lambda entry: -len(entry[1])
    ):
        wanted = f" {normalize(choice)} "
        if choice and wanted.strip() and wanted in rest:
            named.add(letter)
            rest = rest.replace(wanted, "  ")
    # "not visible" may be an option; "not open" is none
    # "blue or green car" names one by its text, and another
    is_one_of_two = len(named) == 1 and re.search(r"\bor {2}| {2}or\b", rest)
    return set() if is_one_of_two or _NEGATION.search(rest) else named
