"""What is shown under each condition, and that nobody keeps an own image when shuffled."""

import io

import pytest
from PIL import Image

from eval.generation.image_conditions import (
    NO_IMAGE,
    ImageInput,
    ablated_images,
    derangement,
    own_images,
    possible_ablations,
)
from eval.question import Question
from pipeline.core.recipe import UserError


def picture(color: str, size: tuple[int, int] = (8, 6), orientation: int | None = None) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", size, color).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def question(item_id: str, image: bytes | None, counterpart: str | None = None) -> Question:
    return Question(
        item_id=item_id,
        prompt=f"{item_id}?",
        image=image,
        kind="yes_no",
        truth="yes",
        cluster="c",
        counterpart=counterpart,
        max_new_tokens=4,
    )


RED, BLUE, GREEN = picture("red"), picture("blue", (6, 8)), picture("green")
QUESTIONS = [
    question("1", RED, "2"),
    question("2", BLUE, "1"),
    question("3", RED),
    question("4", None),
    question("5", GREEN),
]
OWN_IMAGES = own_images(QUESTIONS)


def test_as_asked_is_the_image_or_nothing() -> None:
    assert [image.image for image in OWN_IMAGES] == [RED, BLUE, RED, None, GREEN]
    assert OWN_IMAGES[0] == OWN_IMAGES[2]
    assert OWN_IMAGES[3] == NO_IMAGE


def test_no_image_is_nothing_for_all() -> None:
    assert ablated_images("none", QUESTIONS, OWN_IMAGES, 0) == [NO_IMAGE] * 5
    assert NO_IMAGE.name is None
    assert NO_IMAGE.encoded() is None


def test_blank_is_grey_of_the_same_size_and_drawn_on_demand() -> None:
    images = ablated_images("blank", QUESTIONS, OWN_IMAGES, 0)
    assert [one and one.name for one in images] == [
        "blank:8x6",
        "blank:6x8",
        "blank:8x6",
        None,
        "blank:8x6",
    ]
    assert images[0] is not None
    drawn = Image.open(io.BytesIO(images[0].encoded() or b""))
    assert (drawn.size, drawn.getcolors()) == ((8, 6), [(48, (128, 128, 128))])


def test_shuffled_gives_everyone_another_image_and_equal_images_the_same() -> None:
    for seed in range(5):
        images = ablated_images("shuffled", QUESTIONS, OWN_IMAGES, seed)
        assert all(
            one is not None and one != own
            for one, own in zip(images, OWN_IMAGES, strict=True)
            if own.image is not None
        )
        assert images[0] == images[2]
        assert images[3] == NO_IMAGE
        assert {one.sha256 for one in images if one and one.image} == {
            one.sha256 for one in OWN_IMAGES if one.image
        }
    assert ablated_images("shuffled", QUESTIONS, OWN_IMAGES, 1) == ablated_images(
        "shuffled", QUESTIONS, OWN_IMAGES, 1
    )


def test_a_derangement_is_one_cycle_through_all_and_depends_on_the_names_alone() -> None:
    names = [f"n{index}" for index in range(50)]
    other = derangement(names, 3)
    assert derangement([*reversed(names), *names], 3) == other
    assert other != derangement(names, 4)
    at, seen = "n0", set()
    for _ in names:
        at = other[at]
        seen.add(at)
    assert (at, len(seen)) == ("n0", 50)
    assert derangement(["one", "one"], 0) == {}


def test_counterpart_is_the_pairs_other_image_where_there_is_one() -> None:
    images = ablated_images("counterpart", QUESTIONS, OWN_IMAGES, 0)
    assert [one and one.image for one in images] == [BLUE, RED, None, None, None]


def test_only_conditions_that_exist_are_asked() -> None:
    wanted = ("none", "blank", "shuffled", "counterpart")
    assert possible_ablations(wanted, OWN_IMAGES, QUESTIONS) == list(wanted)
    assert possible_ablations(("none",), OWN_IMAGES, QUESTIONS) == ["none"]
    assert possible_ablations(wanted, OWN_IMAGES[2:3], QUESTIONS[2:3]) == ["none", "blank"]
    assert possible_ablations(wanted, OWN_IMAGES[3:4], QUESTIONS[3:4]) == []


def test_an_image_without_a_readable_size_is_named() -> None:
    broken = [question("x", b"no image")]
    with pytest.raises(UserError, match="item x: its image cannot be used"):
        ablated_images("blank", broken, own_images(broken), 0)


def test_a_picture_is_known_by_its_bytes() -> None:
    assert ImageInput(RED, "ab").name == "ab"
    assert OWN_IMAGES[0].name != OWN_IMAGES[1].name
