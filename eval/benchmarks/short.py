"""Short answers: what is the same answer, by our reading and that of the VQA challenges (EvalAI).

The EvalAI rules and their tables are those of the VQA evaluation that TextVQA's authors use; their
defects (a flag passed as a count, so that only 32 full stops are removed) are not repeated.
"""

import re

from eval.parsing.parse import short_answer
from eval.question import Question, Verdict

# Written with their apostrophes; each is also accepted with any one of them left out.
_CONTRACTIONS = """
 ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
 haven't he'd've how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
 mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
 shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've someone'll
 someone's something'd something'd've something'll that's there'd there'd've there're there's
 they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
 what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
 why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
 you're you've he'd he's
""".split()
_WITHOUT_APOSTROPHE = {
    form[:place] + form[place + 1 :]: form
    for form in _CONTRACTIONS
    for place, character in enumerate(form)
    if character == "'"
}
_DIGITS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"\.(?!\d)")


def evalai_normalize(text: str) -> str:
    """An answer as the VQA challenges compare it.

    Case, punctuation, articles, number words and contractions are evened out.

    "The  Well-known Café, no. 3!" -> "well known café no 3";  "Dont" -> "don't"
    """
    line = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    line = line.replace("\n", " ").replace("\t", " ").strip()
    spaced = line
    for mark in _PUNCTUATION:
        # A mark beside a space leaves nothing, one inside a word leaves a space; judged on the text
        # before any is removed.
        beside_space = f"{mark} " in line or f" {mark}" in line
        spaced = spaced.replace(mark, "" if beside_space else " ")
    words = [_DIGITS.get(word, word) for word in _FULL_STOP.sub("", spaced).split()]
    return " ".join(_WITHOUT_APOSTROPHE.get(word, word) for word in words if word not in _ARTICLES)


def soft_accuracy(said: str, answers: tuple[str, ...]) -> float:
    """The VQA accuracy: min(1, matches / 3), averaged over each leave-one-out of human answers.

    ten answers, "red" 3 times: the 7 that leave out another see 3 matches (1.0 each), the 3 that
    leave out a "red" see 2 (2/3 each)  ->  0.9
    """
    wanted = evalai_normalize(said)
    matches = [evalai_normalize(answer) == wanted for answer in answers]
    total = sum(matches)
    return sum(min(1.0, (total - own) / 3) for own in matches) / len(matches)


def accepts(question: Question, verdict: Verdict) -> float | None:
    """1 if the answer is one of the accepted ones; None if nobody judged."""
    if verdict.status == "missing":
        return None
    if verdict.value is None:
        return 0.0
    # A compat parser's value keeps what its harness keeps ("two" stays two), so the truth is also
    # offered as it is written.
    truths = (question.truth,) if isinstance(question.truth, str) else question.truth
    accepted = {short_answer(truth) for truth in truths} | {
        truth.strip().lower().strip("() .") for truth in truths
    }
    return float(verdict.value in accepted)
