"""How a scene's facts are asked and told.

A phrasing is one question with one caption; both sides of a pair share it. The two captions of a
pair differ in the contrast words alone, and no question contains a word that any value has.
"""

VALUES = {
    "count": ("two", "three", "four", "five"),
    "position": ("upper left", "upper right", "lower left", "lower right", "centre"),
    "relation": ("to the left of", "to the right of", "above", "below"),
}
COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}
OPPOSITES = (("to the left of", "to the right of"), ("above", "below"))


# (question, caption). {subject}: a colour for object, a kind for the others (its plural for count),
# the same on both sides. {value}: what the contrast is in.
PHRASINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "object": (
        ("Which shape is {subject}?", "The {subject} shape is a {value}."),
        (
            "What is the {subject} thing in the picture?",
            "The {subject} thing in the picture is a {value}.",
        ),
        ("Which {subject} shape can be seen?", "A {subject} {value} can be seen."),
        ("What was drawn in {subject}?", "A {value} was drawn in {subject}."),
    ),
    "attribute": (
        ("What colour is the {subject}?", "The {subject} is {value}."),
        ("In which colour is the {subject} painted?", "The {subject} is painted {value}."),
        ("What is the colour of the {subject}?", "The colour of the {subject} is {value}."),
        ("Which colour does the {subject} have?", "It is a {value} {subject}."),
    ),
    "count": (
        ("How many {subject} are there?", "There are {value} {subject}."),
        ("How many {subject} does the picture show?", "The picture shows {value} {subject}."),
        ("What is the number of {subject}?", "The number of {subject} is {value}."),
        ("How many {subject} can be seen?", "You can see {value} {subject}."),
    ),
    "position": (
        (
            "Where in the picture is the {subject}?",
            "The {subject} is in the {value} of the picture.",
        ),
        ("Where can the {subject} be found?", "The {subject} can be found in the {value}."),
        (
            "Which part of the image holds the {subject}?",
            "The {value} of the image holds the {subject}.",
        ),
        ("In what area was the {subject} drawn?", "The {subject} was drawn in the {value}."),
    ),
    "relation": (
        ("Where is the {subject}, seen from the box?", "The {subject} is {value} the box."),
        (
            "Where does the {subject} lie, compared with the box?",
            "The {subject} lies {value} the box.",
        ),
        ("How are the {subject} and the box arranged?", "The {subject} stands {value} the box."),
        ("On which side of the box is the {subject}?", "The box has the {subject} {value} it."),
    ),
}
HELD_OUT_PHRASINGS = (3,)  # the same number in every category


def plural(kind: str) -> str:
    """More than one of a kind: "star" -> "stars", "cross" -> "crosses"."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def phrasing_numbers(which: str) -> tuple[int, ...]:
    """The phrasings that "all", "seen" or "held_out" stands for."""
    return tuple(
        number
        for number in range(len(PHRASINGS["object"]))
        if which == "all" or (number in HELD_OUT_PHRASINGS) == (which == "held_out")
    )


def write(
    category: str, phrasing: int, subject: str, value_a: str, value_b: str
) -> tuple[str, str, str]:
    """The question and the two captions of a pair.

    ("attribute", 0, "star", "red", "blue")
        ->  "What colour is the star?", "The star is red.", "The star is blue."
    """
    question, caption = PHRASINGS[category][phrasing]
    words = plural(subject) if category == "count" else subject
    caption_a, caption_b = (
        caption.format(subject=words, value=value) for value in (value_a, value_b)
    )
    return question.format(subject=words), caption_a, caption_b
