"""The value that travels through the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says beside its pixels, as the bytes that go back into a file. None where there is none.

    `exif` is a TIFF block without the `Exif\\0\\0` prefix and with orientation already reset to 1.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A still picture, upright (EXIF orientation applied).

    `pixels`: uint8 or uint16, (height, width, channels) with channels 1 (grey) or 3 (RGB), in the file's own colour
    encoding. `alpha`: same dtype, (height, width), not premultiplied, or None. `format` is the lower-case name of
    the format it came in. `notes` are decisions taken for the caller, as `X-Applied` shows them. Where there is a
    `palette`, id to (name, colour), pixels are no shades of grey but its ids: one channel of 8 bit, without alpha.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    metadata: Metadata = field(default_factory=Metadata)
    format: str = "png"
    notes: tuple[str, ...] = ()
    palette: Mapping[int, tuple[str, tuple[int, int, int]]] | None = None

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[2])

    @property
    def maximum(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def with_pixels(self, pixels: NDArray[Any], alpha: NDArray[Any] | None) -> Picture:
        """Return the same picture with other pixels."""
        return replace(self, pixels=pixels, alpha=alpha)
