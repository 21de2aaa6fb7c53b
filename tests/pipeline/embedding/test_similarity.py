import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embedding.similarity import caption_margin, cosine


def test_cosines_of_equal_orthogonal_and_opposite_vectors() -> None:
    left = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    right = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [4.0, 3.0]])
    assert cosine(left, right).tolist() == [1.0, 0.0, -1.0, 0.96]


@given(st.floats(0.1, 1000), st.floats(0.1, 1000), st.integers(0, 1000))
def test_length_does_not_matter(scale_left: float, scale_right: float, seed: int) -> None:
    left, right = np.random.default_rng(seed).normal(size=(2, 3, 5))
    assert (
        np.abs(cosine(left * scale_left, right * scale_right) - cosine(left, right)).max() <= 1e-4
    )


@pytest.mark.parametrize("bad", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_vector_without_direction_is_an_error(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="embedding 1 of 2"):
        cosine(np.array([[1.0, 0.0], bad]), np.ones((2, 2)))


def test_a_caption_that_fits_both_images_equally_has_margin_zero() -> None:
    text, own, other = (
        np.array([[1.0, 1.0], [1.0, 0.0]]),
        np.array([[1.0, 0.0], [1.0, 0.0]]),
        np.array([[0.0, 1.0], [0.6, 0.8]]),
    )
    assert caption_margin(text, own, other).tolist() == [0.0, 0.4]
