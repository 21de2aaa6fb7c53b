"""How other harnesses read an answer, defects included, so that their numbers can be reproduced.

Keyed by (harness, benchmark). A parser gives the value its harness scores; what the harness takes
for wrong or unknown is "failed". The same answer gets different verdicts: "B." is wrong to the
official S-VCO script, "The answer is B." is T to its ScienceQA grader, and "I cannot tell" is yes
to POPE's. Nothing else in this package uses these rules.

Versions read: VLMEvalKit e8e78f0, lmms-eval 75571cf, s-vco bc8f941.
"""

import re
from collections.abc import Callable

from eval.parsing.parse import parse
from eval.question import LETTERS, Question, Verdict
from pipeline.core.recipe import RecipeError
from pipeline.llm.reasoning import without_reasoning

Parser = Callable[[Question, str], Verdict]
HARNESSES = ("default", "svco", "lmms", "vlmevalkit", "official")


def parser(harness: str, benchmark: str) -> Parser:
    """The parser of a harness for a benchmark; "default" is ours and knows every benchmark.

    Raises:
        RecipeError: The harness is not known, or has no rule for this benchmark.
    """
    if harness == "default":
        return parse
    if harness not in HARNESSES:
        raise RecipeError(f"parser {harness!r}: expected one of {', '.join(HARNESSES)}")
    if (harness, benchmark) not in COMPAT_PARSERS:
        known = ", ".join(name for key, name in COMPAT_PARSERS if key == harness)
        raise RecipeError(
            f"parser {harness!r} has no rule for {benchmark!r}; it has one for {known}; use the"
            " default parser"
        )
    read = COMPAT_PARSERS[harness, benchmark]

    def read_answer(question: Question, response: str) -> Verdict:
        """Reasoning is no part of the answer: these harnesses are older than it."""
        answer = without_reasoning(response)
        return Verdict(None, "unfinished") if answer is None else read(question, answer)

    return read_answer


def _said(value: str | None) -> Verdict:
    return Verdict(value, "extracted") if value else Verdict(None, "failed")


def svco_four_characters(_: Question, response: str) -> Verdict:
    """S-VCO on MMVP and CV-Bench: the letter must be all of the first four characters but "() "."""
    head = response[:4].lower().replace("(", "").replace(")", "").replace(" ", "")
    return _said(head.upper() if len(head) == 1 and head.isalpha() else None)


def svco_realworldqa(question: Question, response: str) -> Verdict:
    """S-VCO on RealWorldQA: four characters for a letter, else the whole text, less "() ."."""
    if question.kind == "choice":
        head = response[:4].lower().strip("() .")
        return _said(head.upper() if len(head) == 1 and head.isalpha() else None)
    return _said(response.lower().strip("() ."))


def svco_scienceqa(_: Question, response: str) -> Verdict:
    """S-VCO on ScienceQA: the first character, if it is a letter, of whatever word."""
    head = response.upper()[:1]
    return _said(head if "A" <= head <= "Z" else None)


def whole_text(_: Question, response: str) -> Verdict:
    """The answer as it is (TextVQA: its metric normalises)."""
    return _said(response.strip())


def lmms_cv_bench(_: Question, response: str) -> Verdict:
    """lmms-eval on CV-Bench: the first letter after parentheses and spaces, of whatever word."""
    head = response.strip().lstrip("( \t\n")[:1].upper()
    return _said(head if "A" <= head <= "Z" else None)


def lmms_mmvp(_: Question, response: str) -> Verdict:
    """lmms-eval on MMVP: A or B in the first of six forms, the last two inside any word."""
    patterns = (
        r"^\(?([ab])\)?\.?$",
        r"^\(?([ab])\)?[.\s]",
        r"answer\s+is\s+\(?([ab])",
        r"option\s+\(?([ab])",
        r"([ab])\)?(?:\s|$)",
        r"^([ab])",
    )
    matches = (re.search(pattern, response.strip(), re.IGNORECASE) for pattern in patterns)
    return _said(next((match[1].upper() for match in matches if match), None))


def lmms_extract(question: Question, response: str) -> Verdict:
    """lmms-eval's shared extractor: the last capital letter of the best form, or any at all."""
    text = response.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    if not text:
        return _said(None)
    ranked = [
        (rank, place, letter)
        for letter in LETTERS[: len(question.choices)]
        for rank, place in _lmms_forms(f" {text} ", letter)
    ]
    return _said(max(ranked, key=lambda entry: entry[:2])[2] if ranked else None)


def _lmms_forms(padded: str, letter: str) -> list[tuple[int, int]]:
    """(rank, place) of every form in which a letter stands in a text with a space at either end."""
    text, forms = padded.strip(), []
    if text.startswith(letter) and not text[1:2].isalpha():
        forms.append((10, 0))
    if text.endswith(letter) and not text[-2:-1].isalpha():
        forms.append((9, len(padded) - 1))
    for rank, form in (
        (6, f"({letter})"),
        (5, f"{letter}."),
        (4, f"{letter}:"),
        (3, f"{letter})"),
        (2, f"{letter} "),
    ):
        if form in padded:
            forms.append((rank, padded.rfind(form)))
    for phrase in ("answer is", "option is", "choice is", "i choose", "i select", "i pick"):
        start = padded.lower().find(phrase)
        place = padded.find(letter, start + len(phrase)) if start >= 0 else -1
        if place >= 0:
            forms.append((7, place))
    return forms or ([(0, padded.rfind(letter))] if letter in padded else [])


def lmms_realworldqa(question: Question, response: str) -> Verdict:
    """lmms-eval on RealWorldQA: the shared extractor for letters, else the text."""
    if question.kind == "choice":
        return lmms_extract(question, response)
    return _said(response.lower().strip().rstrip("."))


def lmms_scienceqa(_: Question, response: str) -> Verdict:
    """lmms-eval on ScienceQA: the letter alone in either case, or a capital first with "."."""
    text = response.strip()
    if len(text) == 1 and text.isalpha():
        return _said(text.upper())
    return _said(text[0] if len(text) > 1 and text[0].isupper() and text[1] == "." else None)


def vlmevalkit_choice(question: Question, response: str) -> Verdict:
    """VLMEvalKit before its judge: a capital letter among the last words, else an option's text."""
    letters = LETTERS[: len(question.choices)]
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", response).split()
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return _said(named[0])
    text, options = response.lower(), [choice.lower() for choice in question.choices]
    if len(text) > 2 * sum(map(len, options)):
        return _said(None)
    inside = [letter for letter, option in zip(letters, options, strict=True) if option in text]
    return _said(inside[0] if len(inside) == 1 else None)


def vlmevalkit_yes_no(_: Question, response: str) -> Verdict:
    """VLMEvalKit before its judge: the word yes without the word no, or the other way round."""
    words = re.sub(r"[^\w\s']", " ", response.lower()).split()
    said = [word for word in ("yes", "no") if word in words]
    return _said(said[0] if len(said) == 1 else None)


def vlmevalkit_realworldqa(question: Question, response: str) -> Verdict:
    """VLMEvalKit's rules by the form of the answer (its own file is all letters)."""
    rules = {"yes_no": vlmevalkit_yes_no, "choice": vlmevalkit_choice}
    return rules.get(question.kind, whole_text)(question, response)


def official_pope(_: Question, response: str) -> Verdict:
    """POPE's script: no if the first sentence has the word No, no or not; all else is yes."""
    words = response.split(".")[0].replace(",", "").split(" ")
    return _said("no" if {"No", "no", "not"} & set(words) else "yes")


def exact_yes_no(_: Question, response: str) -> Verdict:
    """lmms-eval on POPE: the text in lower case must be yes or no; "Yes." is wrong."""
    text = response.strip().lower()
    return _said(text if text in ("yes", "no") else None)


def official_amber(_: Question, response: str) -> Verdict:
    """AMBER's script: exactly "Yes" or "No"."""
    return _said(response.lower() if response in ("Yes", "No") else None)


def official_naturalbench(question: Question, response: str) -> Verdict:
    """NaturalBench's script: which of yes and no (or A and B, the article too) comes first."""
    first, second = ("yes", "no") if question.kind == "yes_no" else ("A", "B")
    match = re.search(rf"\b(?:({first})|({second}))\b", response, re.IGNORECASE)
    return _said((first if match[1] else second) if match else None)


COMPAT_PARSERS: dict[tuple[str, str], Parser] = {
    ("svco", "mmvp"): svco_four_characters,
    ("svco", "cvbench"): svco_four_characters,
    ("svco", "realworldqa"): svco_realworldqa,
    ("svco", "scienceqa"): svco_scienceqa,
    ("svco", "textvqa"): whole_text,
    ("svco", "mmhal"): parse,  # a judge rates it
    ("lmms", "cvbench"): lmms_cv_bench,
    ("lmms", "mmvp"): lmms_mmvp,
    ("lmms", "realworldqa"): lmms_realworldqa,
    ("lmms", "scienceqa"): lmms_scienceqa,
    ("lmms", "textvqa"): whole_text,
    ("lmms", "pope"): exact_yes_no,
    ("lmms", "naturalbench"): official_naturalbench,
    ("vlmevalkit", "mmvp"): vlmevalkit_choice,
    ("vlmevalkit", "cvbench"): vlmevalkit_choice,
    ("vlmevalkit", "realworldqa"): vlmevalkit_realworldqa,
    ("vlmevalkit", "scienceqa"): vlmevalkit_choice,
    ("vlmevalkit", "textvqa"): whole_text,
    ("vlmevalkit", "pope"): vlmevalkit_yes_no,
    ("vlmevalkit", "hallusionbench"): vlmevalkit_yes_no,
    ("vlmevalkit", "naturalbench"): official_naturalbench,
    ("official", "pope"): official_pope,
    ("official", "amber"): official_amber,
    ("official", "naturalbench"): official_naturalbench,
    ("official", "textvqa"): whole_text,
}
