"""The rule for canonical sizes that the service and training share. Training runs without pydantic, so it is apart."""

from __future__ import annotations

import math
from collections.abc import Iterable


def nearest_size(sizes: Iterable[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """Return the one of `sizes` (height, width) whose aspect ratio is nearest to height / width, as a ratio."""
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1] * width / height)))
