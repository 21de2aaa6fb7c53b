"""What an encoded image shows without its content: container, compression, size, noise, blur."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from pipeline.core.images import FORMATS, decode_rgb
from pipeline.core.intervals import FloatArray

GrayArray = npt.NDArray[np.float32]

FEATURES = (
    "is_jpeg",
    "is_png",
    "is_webp",
    # mean of the quantisation table; 0 where there is none, as in a lossless file
    "jpeg_luma_step",
    "jpeg_chroma_step",
    "jpeg_subsampling",  # 0 for 4:4:4 or no JPEG, 1 for 4:2:2, 2 for 4:2:0
    "num_bytes",
    "bytes_per_pixel",
    "width_px",
    "height_px",
    "aspect",
    "noise",
    "sharpness",
    "blockiness",
)

# Noise, blur and block edges are measured in the middle of the picture, pixel by pixel: shrinking
# would wash them out.
WINDOW_PX = 384
BLOCK_PX = 8  # of JPEG


def shortcut_features(data: bytes) -> FloatArray:
    """The numbers that `FEATURES` names, in that order; the same bytes give the same numbers.

    Raises:
        pipeline.core.images.ImageError: The image cannot be used.
    """
    picture = decode_rgb(data)
    size = (picture.width, picture.height, picture.width / picture.height)
    bytes_per_pixel = len(data) / (picture.width * picture.height)
    return np.array(
        [*_container(data), len(data), bytes_per_pixel, *size, *pixel_traces(_window(picture))],
        dtype=np.float64,
    )


def _container(data: bytes) -> tuple[float, ...]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # the header alone
        is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
        tables = image.quantization if isinstance(image, JpegImagePlugin.JpegImageFile) else {}
        steps = [float(np.mean(tables[key])) for key in sorted(tables)] or [0.0]
        subsampling = max(JpegImagePlugin.get_sampling(image), 0) if is_jpeg else 0
        return (
            is_jpeg,
            image.format == "PNG",
            image.format == "WEBP",
            steps[0],
            steps[min(1, len(steps) - 1)],
            subsampling,
        )


def _window(picture: Image.Image) -> GrayArray:
    """The middle of the picture in grey levels, cut along the block grid.

    JPEG counts the grid from the top left corner.
    """
    left, top = ((side - min(side, WINDOW_PX)) // 2 // BLOCK_PX * BLOCK_PX for side in picture.size)
    box = (left, top, left + min(picture.width, WINDOW_PX), top + min(picture.height, WINDOW_PX))
    return np.asarray(picture.crop(box).convert("L"), dtype=np.float32)


def pixel_traces(gray_HW: GrayArray) -> tuple[float, float, float]:
    """Noise, sharpness and blockiness of a grey picture (levels 0 to 255).

    Noise is the mean size of the diagonal second difference (edges along rows and columns cancel in
    it), sharpness the log of 1 + the variance of the Laplacian, blockiness the contrast between the
    mean step across 8x8 block borders and the mean step elsewhere: 0 is none, 1 is flat blocks. A
    picture of less than three blocks a side has blockiness 0, one of less than 3 pixels all zero.
    """
    if min(gray_HW.shape) < 3:
        return 0.0, 0.0, 0.0
    across, down = np.diff(gray_HW, axis=1), np.diff(gray_HW, axis=0)
    noise = float(np.abs(np.diff(across, axis=0)).mean())
    laplacian = np.diff(across, axis=1)[1:-1] + np.diff(down, axis=0)[:, 1:-1]
    steps = np.abs(across).mean(axis=0), np.abs(down).mean(axis=1)
    return (
        noise,
        float(np.log1p(laplacian.var())),
        float(np.mean([_blockiness(profile) for profile in steps])),
    )


def _blockiness(step_at: npt.NDArray[np.float32]) -> float:
    """`step_at[i]` is the mean step from line i to line i + 1; lines 7, 15 .. end a block."""
    if len(step_at) < 3 * BLOCK_PX:
        return 0.0
    ends_block = np.arange(len(step_at)) % BLOCK_PX == BLOCK_PX - 1
    border, elsewhere = float(step_at[ends_block].mean()), float(step_at[~ends_block].mean())
    return (border - elsewhere) / (border + elsewhere) if border + elsewhere else 0.0
