"""Which model enlarges a picture where none is named: one for clean pictures, or one that cleans while it enlarges."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import numpy as np

from app.engine.protocol import Engine, RequestContext
from app.errors import ModelUnavailable, UnknownModel
from app.imaging.jpeg_traces import quantization
from app.imaging.picture import Picture
from app.tasks.noise import estimate_noise
from models.manifest import Manifest

_NOISY = 4.3 / 75
"""The level from which on noise is worth cleaning: of deviation 5 it is estimated as 4.5 at least, and most clean
pictures have less than 1. Some fine texture looks the same: the picture is cleaned in vain then."""
_COARSE = 0.4
"""The steps of a JPEG encoder, over those of quality 50, from which on its artifacts are: of quality 75 they are 0.5,
of 85 they are 0.3."""


def find_cleaning(engine: Engine) -> Manifest | None:
    """Return the model that cleans while it enlarges, None where there is none that works."""
    with suppress(UnknownModel, ModelUnavailable):
        return engine.find("superres", "real")
    return None


async def needs_cleaning(picture: Picture, engine: Engine, context: RequestContext) -> bool:
    """Return whether a picture has noise, grain or JPEG artifacts. Raises WrongSize and errors of the engine.

    Traces of JPEG are read from the pixels, because the file may be another by now; noise is estimated by the default
    model of /denoise, where that does so.
    """
    if picture.pixels.dtype == np.uint8 and await asyncio.to_thread(quantization, picture.pixels) >= _COARSE:
        return True
    with suppress(UnknownModel, ModelUnavailable):
        estimator = engine.find("denoise")
        if "estimate" in estimator.signatures:
            return (await estimate_noise(picture, estimator, engine, context)).level >= _NOISY
    return False
