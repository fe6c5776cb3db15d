"""`Picture`: a decoded picture, as it is passed through the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.imaging.xmp import Size

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata blocks of a file, as bytes that can be written into another file; None if absent.

    `exif` is a TIFF block without the `Exif\\0\\0` prefix and with its orientation reset to 1. `resolution` is that for
    printing, in dots per inch (horizontal, vertical) of the upright picture; enlarging does not change it.
    `xmp_sizes` are the places in `xmp` that hold a size of the picture.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    resolution: tuple[float, float] | None = None
    xmp_sizes: tuple[Size, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A still picture, upright (EXIF orientation applied).

    `pixels`: uint8 or uint16, (height, width, channels) with channels 1 (gray) or 3 (RGB), in the color encoding of
    the file. `alpha`: same dtype, (height, width), not premultiplied, or None. `format` is the lower-case name of the
    format it was decoded from. `warnings` are `key=value` strings for `X-Applied` that say what decoding changed or
    dropped. If `palette` (id to name and color) is set, pixels are class ids: uint8, one channel, without alpha.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    metadata: Metadata = field(default_factory=Metadata)
    format: str = "png"
    warnings: tuple[str, ...] = ()
    palette: Mapping[int, tuple[str, tuple[int, int, int]]] | None = None

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        """1 (gray) or 3 (RGB); alpha does not count."""
        return int(self.pixels.shape[2])

    @property
    def maximum(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def with_pixels(self, pixels: NDArray[Any], alpha: NDArray[Any] | None) -> Picture:
        """Return the same picture with these pixels and this alpha."""
        return replace(self, pixels=pixels, alpha=alpha)
