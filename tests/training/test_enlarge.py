"""Bicubic enlargement inside a graph agrees with `imresize`, which agrees with the literature (test_conformance)."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.imresize import imresize, matrix

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(12, 17), (2, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_imresize(scale: int, height: int, width: int, channels: int) -> None:
    import keras

    from training.enlarge import bicubic

    pictures = np.random.default_rng(scale).random((2, height, width, channels), np.float32)
    image = keras.Input((None, None, channels))
    enlarged = keras.ops.convert_to_numpy(keras.Model(image, bicubic(image, scale))(pictures))
    expected = np.stack([imresize(picture, height * scale, width * scale) for picture in pictures])
    assert enlarged.dtype == np.float32
    np.testing.assert_allclose(enlarged, expected, atol=2e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_picture_of_one_color_stays_so(scale: int) -> None:
    import keras

    from training.enlarge import bicubic

    enlarged = keras.ops.convert_to_numpy(bicubic(keras.ops.ones((1, 3, 4, 3)) * 0.7, scale))
    np.testing.assert_allclose(enlarged, np.full((1, 3 * scale, 4 * scale, 3), 0.7), atol=1e-6)


@pytest.mark.parametrize(("length", "out"), [(9, 18), (9, 36), (36, 9), (10, 7)])
def test_rows_of_the_resizing_matrix_sum_to_one_and_mirror(length: int, out: int) -> None:
    rows = matrix(length, out)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(rows, rows[::-1, ::-1], atol=1e-12)
