"""Draws a scene: a textured background, clutter, and shapes on top.

Knows nothing of contrasts or texts. Crisp masks and exact colours: a shape's pixels are its named
colour or its outline, so truth can be read off pixels.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

KINDS = ("circle", "square", "triangle", "star", "cross", "heart")
COLORS = {
    "red": (225, 30, 35),
    "green": (20, 165, 50),
    "blue": (35, 70, 235),
    "yellow": (250, 220, 30),
    "purple": (165, 40, 200),
    "white": (250, 250, 250),
}
BACKGROUNDS = ("striped", "checked", "dotted", "wavy", "brick", "speckled")
OUTLINE = (24, 24, 28)

# The landmark of relations: neither its kind nor its colour is one that a question can be about.
BOX, BOX_COLOR = "box", "brown"
_BOX_FILL, _BOX_SLAT = (120, 72, 30), (184, 128, 72)

# Muted tones, far from every shape's colour, as (darker, lighter).
TONES = (
    ((118, 112, 104), (142, 136, 126)),
    ((98, 106, 112), (122, 130, 138)),
    ((100, 110, 98), (124, 134, 120)),
    ((122, 108, 104), (146, 132, 128)),
    ((106, 104, 118), (130, 128, 142)),
    ((92, 92, 90), (116, 116, 112)),
)
CLUTTER_TONES = ((72, 70, 66), (160, 154, 142), (84, 94, 98), (150, 140, 124))
NOISE_AMPLITUDE = 9


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape in a scene: what it is, and the square that it fills with its outline, in pixels."""

    kind: str
    color: str
    x0: int
    y0: int
    size_px: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1); x1 and y1 are exclusive."""
        return self.x0, self.y0, self.x0 + self.size_px, self.y0 + self.size_px


@dataclass(frozen=True, slots=True)
class Speck:
    """A piece of clutter: a small bar in a muted tone."""

    x0: int
    y0: int
    width_px: int
    height_px: int
    tone: int


@dataclass(frozen=True, slots=True)
class Backdrop:
    """All that lies behind the things of a scene; both sides of a pair share one."""

    background: str
    tone: int
    period_px: int
    phase_px: int
    specks: tuple[Speck, ...]
    noise_seed: int


def draw_backdrop(backdrop: Backdrop, size_px: int) -> Pixels:
    """The backdrop's pixels, [size_px, size_px, 3]: texture, clutter, noise over both."""
    # random_raw, whose stream NumPy keeps the same in every version (that of its distributions may
    # change).
    words = np.random.PCG64(backdrop.noise_seed).random_raw(size_px * size_px * 3 // 8 + 2)
    noise = words.view(np.uint8)[: size_px * size_px * 3].reshape(size_px, size_px, 3)
    dark, light = TONES[backdrop.tone]
    pattern = _pattern(
        backdrop.background, size_px, backdrop.period_px, backdrop.phase_px, noise[..., 0]
    )
    canvas = np.where(pattern[..., None], np.array(light, np.int16), np.array(dark, np.int16))
    for speck in backdrop.specks:
        canvas[speck.y0 : speck.y0 + speck.height_px, speck.x0 : speck.x0 + speck.width_px] = (
            CLUTTER_TONES[speck.tone]
        )
    canvas += (noise % (2 * NOISE_AMPLITUDE + 1)).astype(np.int16) - NOISE_AMPLITUDE
    return canvas.astype(np.uint8)


def _pattern(background: str, size_px: int, period_px: int, phase_px: int, noise: Pixels) -> Mask:
    """Where the lighter tone goes."""
    y, x = np.ogrid[:size_px, :size_px]
    x, y, half = x + phase_px, y + phase_px, period_px / 2
    match background:
        case "striped":
            lighter = (x + y) % period_px < half
        case "checked":
            lighter = (x // half + y // half) % 2 == 0
        case "dotted":
            squares = (x % period_px - half) ** 2 + (y % period_px - half) ** 2
            lighter = squares < (period_px / 3) ** 2
        case "wavy":
            lighter = (y + 0.3 * period_px * np.sin(x * (4 / period_px))) % period_px < half
        case "brick":
            lighter = (y % half >= 1) & ((x + (y // half % 2) * half) % period_px >= 1)
        case _:
            lighter = noise[::2, ::2].repeat(2, 0).repeat(2, 1)[:size_px, :size_px] < 96
    return np.asarray(lighter)


def draw_things(backdrop_pixels: Pixels, things: tuple[Thing, ...]) -> Pixels:
    """A copy of the backdrop with the things on it. A thing changes no pixel outside its box."""
    canvas = backdrop_pixels.copy()
    for thing in things:
        x0, y0, x1, y1 = thing.box
        window = canvas[y0:y1, x0:x1]
        if thing.kind == BOX:
            _draw_box(window)
        else:
            shape, rim = _masks(thing.kind, thing.size_px)
            window[rim] = OUTLINE
            window[shape] = COLORS[thing.color]
    return canvas


def _draw_box(window: Pixels) -> None:
    """A crate: outline, slats, and a diagonal board."""
    window[:] = OUTLINE
    inside = window[1:-1, 1:-1]
    side = inside.shape[0]
    y, x = np.ogrid[:side, :side]
    inside[:] = np.where(((y % 4 == 3) | (abs(x - y) < 2))[..., None], _BOX_SLAT, _BOX_FILL)


@functools.cache
def _masks(kind: str, size_px: int) -> tuple[Mask, Mask]:
    """The shape's pixels and its one-pixel outline in a square of `size_px`."""
    from scipy.ndimage import binary_dilation

    inner = size_px - 2
    axis = (2 * np.arange(inner) + 1 - inner) / inner
    shape = np.pad(_inside(kind, axis[None, :], axis[:, None]), 1)
    return shape, binary_dilation(shape) & ~shape


def _inside(kind: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> Mask:
    """Which points of the square [-1, 1] x [-1, 1] (v downwards) the shape covers."""
    match kind:
        case "circle":
            inside = u**2 + v**2 <= 1
        case "square":
            inside = (abs(u) <= 0.9) & (abs(v) <= 0.9)
        case "triangle":
            inside = abs(u) <= (v + 1) / 2
        case "cross":
            inside = (abs(u) <= 0.34) | (abs(v) <= 0.34)
        case "heart":
            lobes = (abs(u) - 0.5) ** 2 + (v + 0.5) ** 2 <= 0.25
            inside = lobes | ((v > -0.5) & (abs(u) <= (1 - v) / 1.6))
        case _:
            # A star is what lies behind at most one of the five lines that its points are drawn
            # with.
            angles = np.deg2rad(90 + 36 + 72 * np.arange(5))[:, None, None]
            behind = u * np.cos(angles) - (v - 0.08) * np.sin(angles) > 0.36
            inside = behind.sum(0) <= 1
    return np.asarray(inside)
