"""The foreground's own colors where a picture mixes it with what is behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.imaging import foreground
from app.imaging.foreground import EdgeColors

RED, BLUE = np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.2, 0.9])


def disc(side: int, width: float, dtype: type = np.uint8, colors: Any = (RED, BLUE)) -> tuple[NDArray[Any], ...]:
    """Return a disc before another color, and its opacity, which falls over `width` pixels."""
    white = np.iinfo(dtype).max
    distance = np.hypot(*(np.mgrid[:side, :side] - side / 2))
    alpha = np.rint(np.clip((side * 0.35 - distance) / width + 0.5, 0, 1) * white).astype(dtype)
    opaque = alpha[..., None] / white
    return np.rint((opaque * colors[0] + (1 - opaque) * colors[1]) * white).astype(dtype), alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_mixed_pixels_get_the_color_of_the_foreground(dtype: type, channels: int) -> None:
    pixels, alpha = disc(160, 8, dtype, (RED[:channels], BLUE[:channels]))
    edges = EdgeColors(pixels, alpha)
    [window] = edges.windows()
    opacity, colors = edges.estimate(window)
    np.testing.assert_allclose(opacity, alpha / np.iinfo(dtype).max, atol=1e-6)
    edge = (opacity > 0.05) & (opacity < 1)
    assert np.abs(colors[edge] - RED[:channels]).max() < 0.02
    own = pixels / np.float32(np.iinfo(dtype).max)
    np.testing.assert_allclose(colors[opacity == 1], own[opacity == 1], atol=1e-3)


def test_large_pictures_are_solved_in_windows_that_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, alpha = disc(300, 10)
    whole = EdgeColors(pixels, alpha)
    [window] = whole.windows()
    _, expected = whole.estimate(window)
    monkeypatch.setattr(foreground, "COARSE_PIXELS", 2**13)
    monkeypatch.setattr(foreground, "WINDOW", 96)
    edges = EdgeColors(pixels, alpha)
    windows = list(edges.windows())
    assert edges.levels == 2
    assert 4 < len(windows) < 16  # not the one in the middle of the disc, nor the corners
    for part in windows:
        opacity, colors = edges.estimate(part)
        soft = (opacity > 0.05) & (opacity < 1)
        assert np.abs(colors - expected[part])[soft].max(initial=0) < 0.02


def test_what_refines_the_opacity_sees_both_colors() -> None:
    pixels, alpha = disc(120, 8)

    def refine(image: Any, opacity: Any, front: Any, back: Any) -> Any:
        edge = (opacity > 0.1) & (opacity < 0.9)
        assert np.abs(front[edge] - RED).max() < 0.05
        assert np.abs(back[edge] - BLUE).max() < 0.05
        return opacity**2

    edges = EdgeColors(pixels, alpha)
    opacity, _ = edges.estimate(next(edges.windows()), refine)
    np.testing.assert_allclose(opacity, (alpha / np.float32(255)) ** 2, atol=1e-6)


def test_a_picture_without_edges_has_no_windows() -> None:
    pixels = np.full((40, 50, 3), 99, np.uint8)
    assert list(EdgeColors(pixels, np.full((40, 50), 255, np.uint8)).windows()) == []
