"""Style transfer by optimization (Gatys et al. 2016, arXiv 1508.06576): each call of the model makes a few steps.

Works on a scaled-down picture from coarse to fine, each size starting from the result of the one before; the coarsest
may start from a painting in one pass. The change is then enlarged and added to the full picture, which keeps its
details.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.engine.protocol import Engine, RequestContext
from app.errors import WorkTooLarge
from app.imaging.color import LUMINANCE
from app.imaging.guided_filter import split_rows, upsample_rows
from app.imaging.picture import Floats, Picture
from app.tasks.inference import infer, manifest_default, reduce_picture
from models.manifest import Manifest

COARSEST = 96
"""Smallest side of the coarse sizes, in pixels."""
MAX_DIRECT_WORK = 6_000_000
"""Limit of pixels × steps for a direct response, about half a minute on two cores; jobs have no limit."""


async def optimize_style(
    picture: Picture,
    style: Picture,
    steps: int,
    manifest: Manifest,
    engine: Engine,
    context: RequestContext,
    paint: Callable[[Floats], Awaitable[Floats]] | None = None,
) -> Floats:
    """Return the change of the scaled-down picture after `steps` of optimization, float32 (h, w, 3).

    `paint` returns what to start from for the coarsest picture, both float32 [1,h,w,3] in [0, 1].
    Each call of the model makes a few steps, so that other requests can run in between and a cancelled one ends soon.
    Raises WorkTooLarge for a direct request with too many steps, ModelUnavailable and errors of the engine.
    """
    sizes = _sizes(picture, int(manifest_default(manifest, "side_on_gpu" if engine.accelerated else "side")))
    shares = [steps * (place + 1) // len(sizes) - steps * place // len(sizes) for place in range(len(sizes))]
    work = sum(side**2 * share for side, share in zip(sizes, shares, strict=True))
    if not context.background and work > MAX_DIRECT_WORK:
        limit = max(1, steps * MAX_DIRECT_WORK // work)
        raise WorkTooLarge(
            f"{steps} steps at {sizes[-1]}×{sizes[-1]} pixels are too much for a direct response. Use at most {limit} "
            "steps, or send `Prefer: respond-async` to run the request as a job.",
            field="steps",
            value=steps,
            limit=limit,
        )
    context.progress.expect(steps)
    multiple = manifest.geometry.multiple
    content = await asyncio.to_thread(reduce_picture, picture.pixels, sizes[0], multiple)
    image = await paint(content) if paint else content
    for side, share in zip(sizes, shares, strict=True):
        content = await asyncio.to_thread(reduce_picture, picture.pixels, side, multiple)
        example = await asyncio.to_thread(reduce_picture, style.pixels, side, multiple)
        image = await _run_steps(content, image, example, share, manifest, engine, context)
    return np.asarray((image - content)[0])


def _sizes(picture: Picture, most: int) -> list[int]:
    """Return the sizes to work on, from coarse to fine, as sides of squares with as many pixels."""
    sides = [min(most, round(math.sqrt(picture.height * picture.width)))]
    while sides[0] // 2 >= COARSEST:
        sides.insert(0, sides[0] // 2)
    return sides


async def _run_steps(
    content: Floats,
    start: Floats,
    style: Floats,
    steps: int,
    manifest: Manifest,
    engine: Engine,
    context: RequestContext,
) -> Floats:
    """Return `content` [1,h,w,3] after `steps` that start from the picture `start`, which may be smaller."""
    pixels = content.shape[1] * content.shape[2]
    features = await infer(manifest, "content", {"image": content}, engine, context)
    grams = await infer(manifest, "look", {"style": style}, engine, context)
    image = cv2.resize(start[0], content.shape[2:0:-1], interpolation=cv2.INTER_LINEAR)[None]
    zeros = np.zeros_like(content)
    state = {"image": image, "mean": zeros, "square": zeros}
    steps_per_call = max(1, int(manifest_default(manifest, "pixels_a_call")) // pixels)
    weight = manifest_default(manifest, "style_weight")
    for done in range(0, steps, steps_per_call):
        count = min(steps_per_call, steps - done)
        turn = np.array([[count, done, steps, weight]], np.float32)
        inputs = {**state, "content": features["content"], "grams": grams["grams"], "turn": turn}
        answer = await infer(manifest, "optimize", inputs, engine, context, pixels=pixels * count)
        state = {name: answer[name] for name in state}
        for _ in range(count):
            context.progress.step()
    return np.asarray(state["image"])


def apply_difference(picture: Picture, difference: Floats, *, luminance_only: bool) -> NDArray[Any]:
    """Return the picture's pixels with `difference` (h, w, 3), enlarged, added to them."""
    size, white = (picture.height, picture.width), np.float32(picture.maximum)
    if luminance_only or picture.channels == 1:
        difference = np.ascontiguousarray((difference @ LUMINANCE)[..., None])
    result = np.empty_like(picture.pixels)
    for rows in split_rows(*size):
        added = np.stack([upsample_rows(difference[..., i], rows, size) for i in range(difference.shape[-1])], axis=-1)
        result[rows] = np.rint(np.clip(picture.pixels[rows] + added * white, 0, white))
    return result
