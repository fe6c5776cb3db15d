"""A picture two, three or four times as wide and high."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.engine.protocol import Engine, RequestContext
from app.errors import InvalidField, ResultTooLarge
from app.imaging.picture import Picture
from app.tasks.answer import Answer
from app.tasks.tiled import Stopwatch, plan_for, through
from models.manifest import Manifest

_STRIP = 256  # rows


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperresWish:
    """`scale` is output over input size; a result of more than `max_output_pixels` is refused."""

    model: str | None = None
    scale: int = 2
    max_output_pixels: int


async def superres(picture: Picture, wish: SuperresWish, engine: Engine, context: RequestContext) -> Answer:
    """Return the picture enlarged: width × scale and height × scale, same channels and depth.

    Alpha is enlarged bicubically. Raises InvalidField for a scale that the model has not, ResultTooLarge before any
    work, UnknownModel, ModelUnavailable, WrongSize and what the engine raises.
    """
    watch = Stopwatch(context)
    manifest, signature = check(picture.width * picture.height, wish, engine)
    plan = await plan_for(picture, manifest, signature)
    alpha = None
    source = picture
    if picture.alpha is not None:
        reach = _reach(picture, manifest)
        filled = await asyncio.to_thread(_without_hidden_colours, picture.pixels, picture.alpha, reach)
        source = picture.with_pixels(filled, picture.alpha)
        alpha = await asyncio.to_thread(_enlarged, picture.alpha, wish.scale)
    enlarged = await through(source, plan, manifest, signature, engine, context)
    applied = {"tiles": str(len(plan.tiles)), "precision": manifest.signatures[signature].precision}
    return Answer(picture.with_pixels(enlarged, alpha), manifest.id, applied, watch.seconds())


def check(pixels: int, wish: SuperresWish, engine: Engine) -> tuple[Manifest, str]:
    """Return the model and the signature for a picture of so many pixels.

    Raises UnknownModel, InvalidField, ResultTooLarge.
    """
    manifest = engine.find("superres", wish.model)
    signature = _signature(manifest, wish.scale)
    result = pixels * wish.scale**2
    if result > wish.max_output_pixels:
        raise ResultTooLarge(
            f"The picture has {pixels} pixels and {wish.scale}² times as many would be {result}; the limit is "
            f"{wish.max_output_pixels}. Choose a smaller scale or picture.",
            field="scale",
            value=result,
            limit=wish.max_output_pixels,
        )
    return manifest, signature


def _signature(manifest: Manifest, scale: int) -> str:
    """Return the name of the signature with this scale. Raises InvalidField that names the scales there are."""
    scales = {signature.scale: name for name, signature in manifest.signatures.items()}
    if scale not in scales:
        there = ", ".join(str(one) for one in sorted(scales))
        text = f"The model {manifest.id} has no scale {scale}. Scales: {there}."
        raise InvalidField(text, field="scale", value=scale, limit=sorted(scales))
    return scales[scale]


def _reach(picture: Picture, manifest: Manifest) -> int:
    """Return how far from a visible pixel a colour can still be seen, in pixels."""
    if manifest.geometry.kind != "tiled":
        return max(picture.height, picture.width)
    return manifest.geometry.halo + 4  # enlarging alpha makes two more pixels a little visible


def _enlarged(alpha: NDArray[Any], scale: int) -> NDArray[Any]:
    """Return (height, width) enlarged bicubically, same dtype."""
    size = alpha.shape[1] * scale, alpha.shape[0] * scale
    return np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC))


def _without_hidden_colours(pixels: NDArray[Any], alpha: NDArray[Any], reach: int) -> NDArray[Any]:
    """Return `pixels` where each fully transparent one has the colour of the nearest that is not, up to `reach` away.

    What lies under alpha 0 is anything, often black, and a network would draw it into the visible edge. Done in
    strips: the distances of a whole large picture would take more memory than the picture.
    """
    hidden = alpha == 0
    if not hidden.any():
        return pixels
    channels = pixels.shape[2]
    filled = np.array(pixels, order="C")
    for top in range(0, len(pixels), _STRIP):
        bottom = min(top + _STRIP, len(pixels))
        begin, end = max(0, top - reach), min(len(pixels), bottom + reach)
        around = hidden[begin:end]
        if around.all() or not hidden[top:bottom].any():
            continue
        # Labels number the visible pixels; a hidden one has the label of the nearest of them, which is at the edge.
        distance, labels = cv2.distanceTransformWithLabels(
            around.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        inner = slice(top - begin, bottom - begin)
        near = np.flatnonzero(around[inner] & (distance[inner] <= reach))
        edge = np.flatnonzero(cv2.dilate(around.view(np.uint8), np.ones((5, 5), np.uint8)).view(bool) & ~around)
        colours = np.empty((int(labels.max()) + 1, channels), pixels.dtype)
        colours[labels.ravel()[edge]] = pixels[begin:end].reshape(-1, channels)[edge]
        filled[top:bottom].reshape(-1, channels)[near] = colours[labels[inner].ravel()[near]]
    return filled
