"""Colours as people name them, measured from pixels, and the hue rotation between them.

Works in OKLab (Ottosson 2020), where a rotation of hue keeps how light and how colourful a pixel
looks. Between the names are gaps: olive, teal, crimson or salmon have none here, because people
would not agree on one.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]

_LINEAR_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
_VALUES = np.arange(256) / 255
_LINEAR = np.where(_VALUES <= 0.04045, _VALUES / 12.92, ((_VALUES + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)


@dataclass(frozen=True, slots=True)
class Region:
    """The part of OKLab that goes by one name: hues in degrees, lightness, chroma.

    Hues go from `hue` to `hue` + `width`.
    """

    hue: float
    width: float
    min_lightness: float
    max_lightness: float
    min_chroma: float

    @property
    def middle(self) -> float:
        """The hue that a thing gets which is to be called so."""
        return self.hue + self.width / 2


COLORS = {
    "red": Region(14, 23, 0.30, 0.68, 0.165),
    "orange": Region(46, 26, 0.66, 1.00, 0.11),
    "yellow": Region(84, 28, 0.70, 1.00, 0.09),
    "green": Region(122, 40, 0.30, 0.92, 0.07),
    "blue": Region(225, 57, 0.25, 0.85, 0.06),
    "purple": Region(293, 37, 0.25, 0.68, 0.08),
    "pink": Region(338, 32, 0.64, 1.00, 0.08),
}
NAMES = tuple(COLORS)

# Of a thing's pixels: how many must have the name that it goes by, and how many may have other
# names.
MIN_NAMED, MAX_OTHERS = 0.5, 0.15
# A patch without a box is the photographed thing only if it is neither a detail nor the background.
MIN_PATCH, MAX_PATCH, MIN_IN_ONE_PATCH = 0.06, 0.6, 0.85
# A thing's shades may be so much larger than what bears its name; more is background of the same
# hue.
MAX_REACH = 1.6
_SEARCH_SIDE_PX = 224  # grabCut takes seconds on large pictures, and finding a thing needs no more
_HUE_NEAR, _HUE_FAR = 35.0, 55.0


def to_lab(pixels: Pixels) -> Floats:
    """OKLab of 8-bit sRGB: lightness 0 to 1, then the two opponent axes. [..., 3] -> [..., 3]."""
    return np.cbrt(_LINEAR[pixels] @ _LINEAR_TO_LMS.T) @ _LMS_TO_LAB.T


def to_rgb(lab: Floats) -> Pixels:
    """8-bit sRGB of OKLab; what no screen can show is clipped. [..., 3] -> [..., 3]."""
    linear = np.clip(
        (lab @ np.linalg.inv(_LMS_TO_LAB).T) ** 3 @ np.linalg.inv(_LINEAR_TO_LMS).T, 0, 1
    )
    values = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(values * 255).astype(np.uint8)


def _hue(lab: Floats) -> Floats:
    return np.degrees(np.arctan2(lab[..., 2], lab[..., 1]))


def _chroma(lab: Floats) -> Floats:
    return np.hypot(lab[..., 1], lab[..., 2])


def named(lab: Floats) -> NDArray[np.int8]:
    """Per pixel the number of its name in NAMES; -1 for grey, brown and all without a name."""
    hue, chroma, lightness = _hue(lab), _chroma(lab), lab[..., 0]
    names = np.full(lab.shape[:-1], -1, np.int8)
    for number, region in enumerate(COLORS.values()):
        names[
            ((hue - region.hue) % 360 <= region.width)
            & (lightness >= region.min_lightness)
            & (lightness <= region.max_lightness)
            & (chroma >= region.min_chroma)
        ] = number
    return names


def color_name(pixels: Pixels) -> str:
    """What colour a thing with these pixels has, or "" if people might not agree. [N, 3].

    At least half of the pixels bear the name, and at most 15 % bear others.
    """
    return _agreed(named(to_lab(pixels)))


def _agreed(names: NDArray[np.int8]) -> str:
    counts = np.bincount(names[names >= 0], minlength=len(NAMES))
    best = int(counts.argmax())
    clear = (
        names.size > 0
        and counts[best] >= MIN_NAMED * names.size
        and counts.sum() - counts[best] <= MAX_OTHERS * names.size
    )
    return NAMES[best] if clear else ""


@dataclass(frozen=True, slots=True)
class ThingMask:
    """Where a thing is: the pixels that are measured, and those that may turn with it."""

    thing: Mask
    reach: Mask
    color: str


def find_in_box(pixels: Pixels, box: Box) -> ThingMask | None:
    """The thing in a box, told from its surroundings by grabCut. [H, W, 3].

    None if it does not stand out or has no clear colour. Nothing of it reaches out of the box.
    """
    small = _smaller(pixels)
    scale = small.shape[0] / pixels.shape[0]
    x0, y0, x1, y1 = (round(edge * scale) for edge in box)
    marks = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    marks[y0:y1, x0:x1] = cv2.GC_PR_FGD
    if (marks == cv2.GC_BGD).all() or (marks != cv2.GC_BGD).all():
        return None  # grabCut needs both: something inside, and surroundings
    cv2.setRNGSeed(0)  # it starts from random clusters
    cv2.grabCut(small, marks, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    inside = np.zeros(pixels.shape[:2], bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    thing = _enlarged(marks == cv2.GC_PR_FGD, pixels) & inside
    return _thing_mask(to_lab(pixels), thing, thing, inside)


def find_by_color(pixels: Pixels) -> ThingMask | None:
    """The one patch of clear colour in a photograph's middle; None if not just one. [H, W, 3].

    It is in one piece, holds nearly all of its colour in the photograph, covers 6 to 60 % of it and
    keeps off its edges.
    """
    names = named(to_lab(_smaller(pixels)))
    patches = [
        patch for number in range(len(NAMES)) if (patch := _patch(names == number)) is not None
    ]
    if len(patches) != 1:
        return None
    thing, hull = (_enlarged(mask, pixels) for mask in patches[0])
    return _thing_mask(to_lab(pixels), thing, hull, np.ones(thing.shape, bool))


def _smaller(pixels: Pixels) -> Pixels:
    scale = min(1.0, _SEARCH_SIDE_PX / max(pixels.shape[:2]))
    return np.asarray(
        cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
    )


def _enlarged(mask: Mask, pixels: Pixels) -> Mask:
    height, width = pixels.shape[:2]
    return cv2.resize(
        mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR
    ).astype(bool)


def _patch(colored: Mask) -> tuple[Mask, Mask] | None:
    """The piece that holds the colour, its holes filled, and that piece's convex hull."""
    height, width = colored.shape
    if colored.mean() < MIN_PATCH / 2:
        return None
    kernel = np.ones((max(3, max(height, width) // 64),) * 2, np.uint8)
    closed = cv2.morphologyEx(colored.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    filled, hull = (
        cv2.drawContours(np.zeros_like(closed), [shape], -1, 1, cv2.FILLED).astype(bool)
        for shape in (outline, cv2.convexHull(outline))
    )
    edge = np.concatenate([filled[0], filled[-1], filled[:, 0], filled[:, -1]])
    rows, columns = filled.nonzero()
    is_central = abs(rows.mean() / height - 0.5) < 0.25 and abs(columns.mean() / width - 0.5) < 0.25
    is_whole = (colored & filled).sum() >= MIN_IN_ONE_PATCH * colored.sum()
    fits = (
        MIN_PATCH <= filled.mean() <= MAX_PATCH and edge.mean() <= 0.01 and is_central and is_whole
    )
    return (filled, hull) if fits else None


def _thing_mask(lab: Floats, thing: Mask, around: Mask, allowed: Mask) -> ThingMask | None:
    """The thing with its colour and reach.

    None if the colour is not clear, in the thing and in its hull, or goes on far beyond it.
    """
    names = named(lab)
    color = _agreed(names[thing])
    if (
        not color
        or (names[around] >= 0).sum() - (names[around] == NAMES.index(color)).sum()
        > MAX_OTHERS * around.sum()
    ):
        return None
    alike = (_away(lab, _main_hue(lab[thing], color)) < _HUE_NEAR) & (_chroma(lab) > 0.03) & allowed
    _, pieces = cv2.connectedComponents((alike | thing).astype(np.uint8))
    shades = np.isin(pieces, np.unique(pieces[thing])) & alike
    if shades.sum() > MAX_REACH * thing.sum():
        return None  # the surroundings have the same hue, and would turn as well
    reach = cv2.dilate((shades | thing).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    return ThingMask(thing, reach & allowed, color)


def _main_hue(lab: Floats, color: str) -> float:
    """The median hue of those pixels that bear the name, in degrees."""
    own = _hue(lab[named(lab) == NAMES.index(color)])
    return float(np.median((own - COLORS[color].middle + 180) % 360 - 180)) + COLORS[color].middle


def _away(lab: Floats, hue: float) -> Floats:
    return abs((_hue(lab) - hue + 180) % 360 - 180)


def recolor(pixels: Pixels, mask: ThingMask, target: str) -> Pixels | None:
    """The picture with the thing's own hue turned to that of `target`. [H, W, 3].

    None unless the result, measured, bears that name. Only pixels near the thing's main hue turn;
    its white, grey and differently coloured parts stay, and so does all that lies out of its reach.
    """
    lab = to_lab(pixels)
    hue = _main_hue(lab[mask.thing], mask.color)
    near_hue = np.clip((_HUE_FAR - _away(lab, hue)) / (_HUE_FAR - _HUE_NEAR), 0, 1)
    colorful = np.clip((_chroma(lab) - 0.02) / 0.03, 0, 1)
    # Soft at the rim, so that no line is drawn around the thing.
    soft = cv2.GaussianBlur(mask.reach.astype(np.float32), (5, 5), 0) * mask.reach
    weight = (near_hue * colorful * soft)[..., None]
    angle = np.radians(COLORS[target].middle - hue)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = lab @ np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    result = np.where(weight > 0, to_rgb(lab * (1 - weight) + turned * weight), pixels)
    return result if target != mask.color and color_name(result[mask.thing]) == target else None
