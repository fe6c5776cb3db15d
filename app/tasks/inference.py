"""Runs a model on a whole picture, scaled down, in one inference request."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.engine.protocol import Arrays, Engine, InferenceRequest, RequestContext
from app.errors import ModelUnavailable
from app.imaging.picture import Floats
from app.tasks.tiling import require_signature
from models.manifest import Manifest

MIN_SIDE, MAX_SIDE = 64, 2048
"""Limits for the sides of a reduced picture, in pixels; the aspect ratio changes if a side is outside of them."""


def reduce_picture(pixels: NDArray[Any], side: int, multiple: int) -> Floats:
    """Return a picture with at most about as many pixels as a square of `side`, float32 [1, h, w, 3] in [0, 1].

    `pixels` is (height, width, 1 or 3), uint8 or uint16; h and w are multiples of `multiple`.
    """
    height, width = pixels.shape[:2]
    factor = min(1.0, side / math.sqrt(height * width))
    tall, wide = (
        max(MIN_SIDE, min(MAX_SIDE, round(length * factor / multiple) * multiple)) for length in (height, width)
    )
    # INTER_AREA averages only if both sides shrink; otherwise it would repeat pixels.
    how = cv2.INTER_AREA if tall <= height and wide <= width else cv2.INTER_LINEAR
    resized = np.atleast_3d(cv2.resize(pixels, (wide, tall), interpolation=how)).astype(np.float32)
    resized /= np.float32(np.iinfo(pixels.dtype).max)
    return (np.repeat(resized, 3, axis=-1) if resized.shape[-1] == 1 else resized)[None]


async def infer(
    manifest: Manifest,
    signature: str,
    inputs: Arrays,
    engine: Engine,
    context: RequestContext,
    *,
    pixels: int | None = None,
) -> Arrays:
    """Return the outputs of the model by name. `pixels` is the cost of the request, by default its largest input.

    Raises ModelUnavailable if the signature is missing or outputs are NaN or infinite, and errors of the engine.
    """
    require_signature(manifest, signature)
    own = max(array.shape[1] * array.shape[2] if array.ndim == 4 else 1 for array in inputs.values())
    answer = await engine.run(InferenceRequest(manifest.id, signature, inputs, context, pixels or own))
    if not all(np.isfinite(array).all() for array in answer.values()):
        raise ModelUnavailable(f"The model {manifest.id} returned NaN or infinity.", value=manifest.id)
    return answer


def manifest_default(manifest: Manifest, key: str) -> float:
    """Return a required number in the defaults of the manifest. Raises ModelUnavailable if it is missing."""
    value = manifest.defaults.get(key)
    if isinstance(value, str | bool) or value is None:
        raise ModelUnavailable(
            f"The manifest of the model {manifest.id} has no default {key!r}.", field="model", value=manifest.id
        )
    return value
