"""Fills holes of any size with a model of few input sizes: one window per hole, large holes from coarse to fine.

Also fills holes with a model that searches for the result in several calls (`search`).
"""

from __future__ import annotations

import asyncio

import cv2
import numpy as np

from app.engine.protocol import Arrays, Engine, InferenceRequest, RequestContext
from app.errors import ModelUnavailable
from app.imaging import holes
from app.imaging.holes import Mask
from app.imaging.picture import Floats
from app.imaging.tiles import Box
from app.tasks.concurrency import ordered_gather
from app.tasks.tiling import require_signature
from models.manifest import Manifest

CONTEXT = 48
"""Pixels around a hole that the network sees at least, unless the picture ends before."""
RIM = holes.THIN // 2
"""Pixels from the edge of a large hole that are filled at full size; the inside is filled at a smaller size only."""


async def fill(
    image: Floats, missing: Mask, manifest: Manifest, engine: Engine, context: RequestContext, wanted: Box | None = None
) -> Floats:
    """Return `image` (height, width, 1 or 3), float32 in [0, 1], with the pixels `missing` (height, width) filled.

    A hole that is thick, or too large for all canonical sizes of the model, is first filled at half the size
    (repeatedly, if necessary), and then its border at full size. A model without canonical sizes gets the picture as it
    is. Holes that do not overlap `wanted` are not filled. Raises ModelUnavailable and errors of the engine.
    """
    if manifest.geometry.kind in ("whole", "fixed"):
        return (await _infer(image, missing, manifest, engine, context))[0]
    largest = max((min(size) for size in manifest.geometry.canonical_sizes), default=0) - 2 * CONTEXT
    if largest <= holes.THIN:
        text = f"All canonical sizes of the model {manifest.id} are too small for this task."
        raise ModelUnavailable(text, field="model", value=manifest.id)
    regions = await asyncio.to_thread(holes.find_regions, missing, CONTEXT, largest)
    regions = [region for region in regions if wanted is None or region.core.overlaps(wanted)]
    result = await asyncio.to_thread(image.copy)

    async def one(region: holes.Region) -> Floats:
        side = max(region.core.height, region.core.width)
        if side > largest or not holes.is_thin(missing[region.core.slices], holes.THIN):
            around = holes.expand_box(region.core, reach(region.core), missing.shape)
            part = around.slices
            filled = await _coarse_to_fine(image[part], missing[part], manifest, engine, context)
            return filled[region.core.relative_to(around).slices]
        return await _window(image, missing, region.core, manifest, engine, context)

    async def keep(region: holes.Region, filled: Floats) -> None:
        await asyncio.to_thread(_keep, result[region.core.slices], filled, missing[region.core.slices])

    await ordered_gather(regions, one, keep)
    return result


def reach(core: Box) -> int:
    """Return the number of pixels around a hole that the result may depend on."""
    side = max(core.height, core.width)
    # Twice its side, so that a window shows enough of the surroundings at half the size; less for large holes, to
    # save memory.
    return max(CONTEXT, min(2 * side, max(8 * CONTEXT, side // 2)))


async def search(image: Floats, missing: Mask, manifest: Manifest, engine: Engine, context: RequestContext) -> Floats:
    """Return `image` with all missing pixels filled by a model that improves its result with each call.

    The inputs of its signature other than picture and mask are its state: zeros in the first call, later the outputs of
    the same names from the call before. `calls` in the manifest's defaults is the number of calls. Each call is a
    separate inference request, so other requests can run in between. Raises ModelUnavailable and errors of the engine.
    """
    inputs = require_signature(manifest, "search").inputs
    state = {name: np.zeros([max(1, size) for size in tensor.shape], np.float32) for name, tensor in inputs.items()}
    del state["image"], state["mask"]
    result = image
    calls = int(manifest.defaults.get("calls", 1))
    context.progress.expect(calls)
    for _ in range(calls):
        result, answer = await _infer(image, missing, manifest, engine, context, "search", state)
        state = {name: answer[name] for name in state}
        context.progress.step()
    return result


async def _coarse_to_fine(
    image: Floats, missing: Mask, manifest: Manifest, engine: Engine, context: RequestContext
) -> Floats:
    small, hole = await asyncio.to_thread(holes.downscale_by_two, image, missing)
    small = await fill(small, hole, manifest, engine, context)

    def refine() -> tuple[Floats, Mask]:
        rim = holes.find_border(missing, RIM)
        return np.where((missing & ~rim)[..., None], _upscale_by_two(small, image.shape), image), rim

    coarse, rim = await asyncio.to_thread(refine)
    return await fill(coarse, rim, manifest, engine, context)


async def _window(
    image: Floats, missing: Mask, core: Box, manifest: Manifest, engine: Engine, context: RequestContext
) -> Floats:
    """Return the result of the model for `core`, from the smallest window with enough surroundings."""
    wanted = max(core.height, core.width) + 2 * CONTEXT
    sizes = sorted(manifest.geometry.canonical_sizes)
    tall, wide = next((size for size in sizes if min(size) >= wanted), sizes[-1])
    height, width = missing.shape
    top = _begin(core.top, core.bottom, tall, height)
    left = _begin(core.left, core.right, wide, width)

    def cut() -> tuple[Floats, Mask]:
        seen, hole = image[top : top + tall, left : left + wide], missing[top : top + tall, left : left + wide]
        # Pixels outside the picture count as missing.
        outside = [(0, tall - seen.shape[0]), (0, wide - seen.shape[1])]
        return np.pad(seen, [*outside, (0, 0)]), np.pad(hole, outside, constant_values=True)

    window, hole = await asyncio.to_thread(cut)
    found, _ = await _infer(window, hole, manifest, engine, context)
    return found[core.top - top : core.bottom - top, core.left - left : core.right - left]


async def _infer(
    image: Floats,
    missing: Mask,
    manifest: Manifest,
    engine: Engine,
    context: RequestContext,
    signature: str = "inpaint",
    state: Arrays | None = None,
) -> tuple[Floats, Arrays]:
    """Return the filled `image` (height, width, 1 or 3), float32 in [0, 1], and all outputs of the model."""
    inputs = require_signature(manifest, signature).inputs
    own, channels = image.shape[-1], inputs["image"].shape[-1]
    mask = missing[None, ..., None].astype(np.float32)
    given = {"image": np.repeat(image, channels // own, axis=-1)[None] * (1 - mask), **(state or {})}
    if "mask" in inputs:
        given["mask"] = mask
    answer = await engine.run(InferenceRequest(manifest.id, signature, given, context, missing.size))
    found = answer["image"][0]
    if not np.isfinite(found).all():
        raise ModelUnavailable(f"The model {manifest.id} returned NaN or infinity.", value=manifest.id)
    if own != channels:
        found = found.mean(axis=-1, keepdims=True)
    return np.asarray(np.clip(found, 0, 1), np.float32), answer


def _keep(target: Floats, filled: Floats, hole: Mask) -> None:
    target[hole] = filled[hole]


def _begin(low: int, high: int, size: int, limit: int) -> int:
    """Return the start of a window of `size` that is centered on `low` to `high` and lies within 0 to `limit`."""
    return max(0, min((low + high - size) // 2, limit - size))


def _upscale_by_two(small: Floats, shape: tuple[int, ...]) -> Floats:
    large = cv2.resize(small, (2 * small.shape[1], 2 * small.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32).reshape(2 * small.shape[0], 2 * small.shape[1], -1)[: shape[0], : shape[1]]
