"""The edits: photographs of one fold become two views that differ in one fact, and their texts.

An operation's `choices` are all it can start from, known from the manifest alone; `make` draws a
pair from one of them. What it says is true if the manifest is: a label names the one thing that a
photograph is of, and boxes, where there are any, are complete for their labels.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from pipeline.core.schema import Category
from pipeline.sources.edits.colours import NAMES, find_by_color, find_in_box, recolor
from pipeline.sources.edits.nouns import NUMBERS
from pipeline.sources.edits.photos import Album, NotMade, Photo
from pipeline.sources.edits.phrasing import Texts, write
from pipeline.sources.edits.views import (
    Thing,
    View,
    apart,
    grid,
    mirrored,
    overlaps,
    shrunk,
    without,
)

LEFT_RIGHT, ABOVE_BELOW = ("to the left of", "to the right of"), ("above", "below")
# by the number of columns
PLACES = {2: ("on the left", "on the right"), 1: ("at the top", "at the bottom")}
MAX_COUNT = 4
# How many photographs are tried before a pair without a clear colour, or without a clean filling,
# is given up.
MAX_TRIES = 100

Choice = Sequence[Photo]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A pair in the making: what both sides show and say, and which photographs went in."""

    views: tuple[View, View]
    category: Category
    subject: str
    values: tuple[str, str]
    texts: Texts
    photos: tuple[Photo, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One way to make a pair; `needs` says what a manifest lacks that offers no choice."""

    name: str
    category: Category
    needs: str
    choices: Callable[[Album], list[Choice]]
    make: Callable[[Random, Album, Choice, int], Edit]


def _collage(views: Sequence[View | None], num_columns: int, size_px: int) -> View:
    gutter_px = max(2, size_px // 64)
    # two tiles and three gutters fit into the size
    return grid(views, num_columns, (size_px - 3 * gutter_px) // 2, gutter_px)


def _draw(rng: Random, photos: Sequence[Photo]) -> Photo:
    """Any label alike, then any of its photographs alike: rare labels are not drowned."""
    label = rng.choice(sorted({photo.label for photo in photos}))
    return rng.choice([photo for photo in photos if photo.label == label])


def _draw_two(rng: Random, album: Album, fold: Choice) -> tuple[Photo, Photo]:
    first = _draw(rng, fold)
    return first, _draw(rng, [photo for photo in fold if album.differ(first, photo)])


def _folds_of_two_labels(album: Album) -> list[Choice]:
    """Of each fold, the photographs that have one of another thing beside them."""
    usable = [
        [photo for photo in fold if any(album.differ(photo, other) for other in fold)]
        for fold in album.folds
    ]
    return [fold for fold in usable if fold]


def _placed(
    rng: Random,
    views: tuple[View, View],
    first: str,
    second: str,
    relation: tuple[str, str],
    photos: tuple[Photo, ...],
) -> Edit:
    """Views of which one has `first` in the first relation to `second`, the other in the second.

    Either thing may be the one that is talked about: "left" would always be true of side a else.
    """
    subject, other, values = rng.choice(
        ((first, second, relation), (second, first, (relation[1], relation[0])))
    )
    return Edit(
        views=views,
        category="position",
        subject=subject,
        values=values,
        texts=write(rng, "place", subject, values, other),
        photos=photos,
    )


def swap(rng: Random, album: Album, fold: Choice, size_px: int) -> Edit:
    """Two photographs beside or above each other, and the same two with their places changed."""
    first, second = _draw_two(rng, album, fold)
    num_columns = rng.choice((1, 2))
    tiles = (album.look(first), album.look(second))
    views = (_collage(tiles, num_columns, size_px), _collage(tiles[::-1], num_columns, size_px))
    return _placed(
        rng,
        views,
        first.label,
        second.label,
        LEFT_RIGHT if num_columns == 2 else ABOVE_BELOW,
        (first, second),
    )


def _folds_to_count(album: Album) -> list[Choice]:
    return [fold for fold in album.folds if _countable(album, fold)]


def _countable(album: Album, fold: Choice) -> dict[str, list[Photo]]:
    """By label, two or more photographs that show one thing of it and nothing else called so."""
    single = [photo for photo in fold if album.number_of(photo, photo.label) == 1]
    numbers = Counter(photo.label for photo in single)
    return {
        label: [photo for photo in single if photo.label == label]
        for label in sorted(numbers)
        if numbers[label] > 1
    }


def count(rng: Random, album: Album, fold: Choice, size_px: int) -> Edit:
    """Four places with n photographs of a label, and with m of them; other things in the rest."""
    countable = _countable(album, fold)
    label = rng.choice(list(countable))
    numbers = rng.sample(range(1, min(MAX_COUNT, len(countable[label])) + 1), 2)
    most, least = max(numbers), min(numbers)
    counted = _of_many_subjects(rng, countable[label], most)
    others = [photo for photo in fold if not album.shows(photo, label)]
    fillers = rng.sample(others, min(len(others), MAX_COUNT - least))
    places = rng.sample(range(MAX_COUNT), MAX_COUNT)
    shown = [album.look(photo) for photo in counted]
    # The last places first, so that those which both sides fill hold the same filler.
    filling: list[View | None] = [None] * (MAX_COUNT - len(fillers))
    filling += [album.look(photo) for photo in fillers][::-1]
    view_a, view_b = (
        _collage([(shown[:number] + filling[number:])[place] for place in places], 2, size_px)
        for number in numbers
    )
    values = (NUMBERS[numbers[0]], NUMBERS[numbers[1]])
    return Edit(
        views=(view_a, view_b),
        category="count",
        subject=label,
        values=values,
        texts=write(rng, "count", label, values),
        photos=(*counted, *fillers),
    )


def _of_many_subjects(rng: Random, photos: Sequence[Photo], number: int) -> list[Photo]:
    """Different photographs, of as many different subjects as there are."""
    by_subject: dict[str, list[Photo]] = {}
    for photo in rng.sample(photos, len(photos)):
        by_subject.setdefault(photo.subject, []).append(photo)
    rounds = itertools.zip_longest(*by_subject.values())
    return [photo for photos in rounds for photo in photos if photo is not None][:number]


def _folds_of_three(album: Album) -> list[Choice]:
    return [fold for fold in _folds_of_two_labels(album) if len(fold) > 2]


def replace_one(rng: Random, album: Album, fold: Choice, size_px: int) -> Edit:
    """Two photographs beside or above each other, and one of them replaced by another thing's."""
    old, new = _draw_two(rng, album, fold)
    kept = rng.choice([photo for photo in fold if photo not in (old, new)])
    num_columns, place = rng.choice((1, 2)), rng.choice((0, 1))
    beside = album.look(kept)
    tiles = [(album.look(photo), beside) for photo in (old, new)]
    view_a, view_b = (
        _collage(pair if place == 0 else pair[::-1], num_columns, size_px) for pair in tiles
    )
    where, values = PLACES[num_columns][place], (old.label, new.label)
    return Edit(
        views=(view_a, view_b),
        category="object",
        subject=where,
        values=values,
        texts=write(rng, "which", where, values, where),
        photos=(old, new, kept),
    )


def _to_mirror(album: Album) -> list[Choice]:
    return [
        *([photo] for photo in album.photos if _couples(album, photo)),
        *_folds_of_two_labels(album),
    ]


def _couples(album: Album, photo: Photo) -> list[tuple[Thing, Thing]]:
    """Boxed things, each the only one of its kind, the first to the left of the second."""
    single = [thing for thing in photo.things if album.number_of(photo, thing.label) == 1]
    return [
        (left, right)
        for left, right in itertools.permutations(single, 2)
        if apart(left.box, right.box) and not album.may_be(left.label, right.label)
    ]


def flip(rng: Random, album: Album, choice: Choice, size_px: int) -> Edit:
    """A boxed photograph, or two photographs side by side, and its mirror image."""
    if len(choice) == 1:
        left, right = (thing.label for thing in rng.choice(_couples(album, choice[0])))
        photos, view = tuple(choice), shrunk(album.look(choice[0]), size_px)
    else:
        photos = _draw_two(rng, album, choice)
        left, right = (photo.label for photo in photos)
        view = _collage([album.look(photo) for photo in photos], 2, size_px)
    return _placed(rng, (view, mirrored(view)), left, right, LEFT_RIGHT, photos)


def _all_with(numbers: Callable[[Album, Photo], list[int]]) -> Callable[[Album], list[Choice]]:
    """One choice, of all photographs with things of which `numbers` has some."""

    def choices(album: Album) -> list[Choice]:
        photos = [photo for photo in album.photos if numbers(album, photo)]
        return [photos] if photos else []

    return choices


def _recolorable(album: Album, photo: Photo) -> list[int]:
    """Numbers of the things whose label names no colour and of which there is one.

    [0] stands for the one thing of a photograph without boxes.
    """
    labels = [thing.label for thing in photo.things] or [photo.label]
    return [
        n
        for n, label in enumerate(labels)
        if album.number_of(photo, label) == 1 and not set(label.lower().split()) & set(NAMES)
    ]


def recolor_one(rng: Random, album: Album, choice: Choice, size_px: int) -> Edit:
    """A photograph, and the same with one thing in another colour; both names are measured.

    Without a box it is taken to be the one patch of clear colour in the photograph's middle.
    """
    # Drawn here, not in an attempt: what one that fails draws would depend on whether it is known
    # to fail.
    targets = rng.sample(NAMES, len(NAMES))

    def attempt(photo: Photo, number: int) -> Edit | None:
        view = shrunk(album.look(photo), size_px)
        thing = view.things[number]
        mask = find_in_box(view.pixels, thing.box) if photo.things else find_by_color(view.pixels)
        turned = ((target, recolor(view.pixels, mask, target)) for target in targets if mask)
        target, pixels = next(
            ((target, pixels) for target, pixels in turned if pixels is not None), ("", None)
        )
        if mask is None or pixels is None:
            return None
        view_a, view_b = (
            View(shown, tuple(replace(t, color=color) if t is thing else t for t in view.things))
            for shown, color in ((view.pixels, mask.color), (pixels, target))
        )
        values = (mask.color, target)
        return Edit(
            views=(view_a, view_b),
            category="attribute",
            subject=thing.label,
            values=values,
            texts=write(rng, "colour", thing.label, values),
            photos=(photo,),
        )

    return _first_that_works(rng, album, choice, _recolorable, attempt, "colour_not_clear")


def _first_that_works(
    rng: Random,
    album: Album,
    photos: Choice,
    numbers: Callable[[Album, Photo], list[int]],
    attempt: Callable[[Photo, int], Edit | None],
    reason: str,
) -> Edit:
    """The first pair that comes of trying things of photographs in random order.

    Raises:
        NotMade: None did; for `reason`, or because a photograph among them cannot be read.
    """
    outcome = NotMade(reason)
    tried = [
        (photo, numbers(album, photo)) for photo in rng.sample(photos, min(MAX_TRIES, len(photos)))
    ]
    for photo, number in [
        (photo, number) for photo, own in tried for number in rng.sample(own, len(own))
    ]:
        if (reason, photo.image, number) in album.dead_ends:
            continue
        try:
            edit = attempt(photo, number)
        except NotMade as unreadable:
            outcome = unreadable
            continue
        if edit is not None:
            return edit
        album.dead_ends.add((reason, photo.image, number))
    raise outcome


def _removable(album: Album, photo: Photo) -> list[int]:
    """Numbers of the things that overlap no other, and whose label all things of the kind have."""
    return [
        n
        for n, thing in enumerate(photo.things)
        if sum(overlaps(thing.box, other.box) for other in photo.things) == 1
        and all(
            other.label == thing.label or not album.may_be(other.label, thing.label)
            for other in photo.things
        )
        and album.number_of(photo, thing.label) < len(NUMBERS)
    ]


def inpaint(rng: Random, album: Album, choice: Choice, size_px: int) -> Edit:
    """A boxed photograph, and the same without one thing.

    Where others of its kind remain, their number is the contrast.
    """

    def attempt(photo: Photo, number: int) -> Edit | None:
        view = shrunk(album.look(photo), size_px)
        thing = view.things[number]
        view_b = without(view, thing)
        if view_b is None:
            return None
        num_before = album.number_of(photo, thing.label)
        values = (NUMBERS[num_before], NUMBERS[num_before - 1])
        return Edit(
            views=(view, view_b),
            category="object" if num_before == 1 else "count",
            subject=thing.label,
            values=values,
            texts=write(rng, "presence" if num_before == 1 else "count", thing.label, values),
            photos=(photo,),
        )

    return _first_that_works(rng, album, choice, _removable, attempt, "no_clean_filling")


_TWO = "two photographs of different labels in one fold"
OPERATIONS = {
    "swap": Operation("collage", "position", _TWO, _folds_of_two_labels, swap),
    "count": Operation(
        "collage", "count", "two photographs of the same label in one fold", _folds_to_count, count
    ),
    "replace": Operation(
        "collage",
        "object",
        "three photographs, of two labels or more, in one fold",
        _folds_of_three,
        replace_one,
    ),
    "recolour": Operation(
        "recolour",
        "attribute",
        "photographs that show one thing of a label",
        _all_with(_recolorable),
        recolor_one,
    ),
    "flip": Operation(
        "flip", "position", f"{_TWO}, or two boxes side by side in one photograph", _to_mirror, flip
    ),
    "inpaint": Operation(
        "inpaint", "object", "photographs with boxes", _all_with(_removable), inpaint
    ),
}
