"""Runs a model on a picture of any size: plans tiles, cuts them, runs them, and joins the results.

Each tile is cut just before it runs, and only a few tiles of a picture are in progress at a time, so memory does not
grow with the picture and no request fills the queue. Cutting and joining run on threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from app.engine.protocol import Arrays, Engine, InferenceRequest, RequestContext
from app.errors import ModelUnavailable, WrongSize
from app.imaging.picture import Picture
from app.imaging.tiles import Box, Canvas, Plan, Tile, choose_tile_size, count_work, cut, make_plan
from app.tasks.base import Size
from app.tasks.concurrency import bounded_gather
from models.manifest import Geometry, Manifest, Signature

MAX_TILE_FLOPS = 9.6e11
"""Floating point operations of a tile that is larger than the model asks for: 3 to 6 s on two cores. A large request of
another client waits for it, a small one does not (`scheduler.LONG_BATCH_S`)."""

SAMPLED_TILES = 8
"""How many tiles of a picture are looked at to tell what it is like as a whole."""

Finish = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


class Stopwatch:
    """Splits the duration of a task into `model`, the time on the device, and `queue`, the rest."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self._begin = time.perf_counter()
        self._spent = context.usage.device_seconds

    def seconds(self) -> dict[str, float]:
        """Return the seconds since the start, by stage."""
        model = self._context.usage.device_seconds - self._spent
        return {"queue": max(0.0, time.perf_counter() - self._begin - model), "model": model}


def require_signature(manifest: Manifest, name: str) -> Signature:
    """Return a signature. Raises ModelUnavailable if the model does not have it."""
    if name not in manifest.signatures:
        raise ModelUnavailable(f"The model {manifest.id} has no signature {name!r}.", field="model", value=manifest.id)
    return manifest.signatures[name]


def tile_size_for(size: Size, manifest: Manifest, tile_mebibytes: float) -> tuple[int, int]:
    """Return the height and width of the tiles of a model of kind `tiled` for a picture: those of the manifest, or
    larger ones, so that less is computed twice.

    A larger tile takes at most `tile_mebibytes` of memory and MAX_TILE_FLOPS. A model with 8-bit signatures keeps its
    tiles: their files are for that size only.
    """
    geometry = manifest.geometry
    by_memory = tile_mebibytes / manifest.serving.mebibytes_per_megapixel * 1e6
    return choose_tile_size(
        size.height,
        size.width,
        tile_size=geometry.tile_size,
        tile_step=geometry.tile_step,
        halo=geometry.halo,
        multiple=geometry.multiple,
        max_pixels=0 if manifest.quantized else min(by_memory, MAX_TILE_FLOPS / manifest.flops_per_pixel),
    )


def count_computed(size: Size, manifest: Manifest, tile_mebibytes: float) -> int:
    """Return how many pixels a model computes for a picture: those of all its tiles, which overlap."""
    geometry = manifest.geometry
    if geometry.kind != "tiled":
        return size.pixels
    return count_work(
        size.height,
        size.width,
        tile_size=tile_size_for(size, manifest, tile_mebibytes),
        tile_step=geometry.tile_step,
        halo=geometry.halo,
        multiple=geometry.multiple,
    )


def count_covered(size: Size, geometry: Geometry) -> int:
    """Return how many pixels the tiles of a picture cover: those of the picture, its sides rounded up to tile steps."""
    step = geometry.tile_step if geometry.kind == "tiled" else 1
    return -(-size.width // step) * -(-size.height // step) * step**2


async def plan_for(picture: Picture, manifest: Manifest, signature: str, tile_mebibytes: float = 0) -> Plan:
    """Return the tiles of `picture` for a model. A tile larger than the manifest's takes at most `tile_mebibytes`.

    Raises WrongSize if the model does not support the size or channels of the picture, ModelUnavailable if its
    geometry is not supported here.
    """
    expected = require_signature(manifest, signature)
    geometry = manifest.geometry
    if geometry.kind == "canonical":  # a picture that was scaled down and up again is not restored
        text = f"The model {manifest.id} only processes scaled-down pictures, which this task does not support."
        raise ModelUnavailable(text, field="model", value=manifest.id)
    check_size(picture, manifest, expected.inputs["image"].shape[-1])
    tiled = geometry.kind == "tiled"
    size = Size(picture.width, picture.height)
    return await asyncio.to_thread(  # a small tile size makes tens of thousands of tiles
        make_plan,
        picture.height,
        picture.width,
        tile_size=tile_size_for(size, manifest, tile_mebibytes) if tiled else max(size),
        tile_step=geometry.tile_step if tiled else 1,
        halo=geometry.halo if tiled else 0,
        multiple=geometry.multiple if tiled else 1,
        scale=expected.scale,
    )


async def run_tiled(
    picture: Picture,
    plan: Plan,
    manifest: Manifest,
    signature: str,
    engine: Engine,
    context: RequestContext,
    *,
    constants: Arrays | None = None,
    finish: Finish | None = None,
    output: str = "image",
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """Run `signature` on each tile and return the joined `output`: (height × scale, width × scale, channels).

    The dtype is that of the picture, or `dtype`, whose full range stands for [0, 1]. An `output` other than `image` has
    its own number of channels. `constants` are inputs besides `image`, the same for all tiles. `finish(window, result)`
    may change the result of a tile, [1, h, w, channels], before it is rounded. Each tile counts as a step of progress.
    Raises errors of the engine; the first error cancels the other tiles.
    """
    described = require_signature(manifest, signature).outputs[output]
    channels = picture.channels if output == "image" else described.shape[-1]
    canvas = Canvas(plan, channels, picture.pixels.dtype if dtype is None else dtype)

    def keep(tile: Tile, window: NDArray[np.float32], result: NDArray[np.float32]) -> None:
        if result.shape[-1] != channels:
            result = result.mean(axis=-1, keepdims=True)
        canvas.add(tile, finish(window, result) if finish else result)

    async def one(tile: Tile) -> None:
        window = await asyncio.to_thread(cut, picture.pixels, plan, tile.window)
        outputs = await _run(window, manifest, signature, engine, context, constants or {})
        try:
            await asyncio.to_thread(keep, tile, window, outputs[output])
        except FloatingPointError:
            text = f"The model {manifest.id} returned NaN or infinity."
            raise ModelUnavailable(text, value=manifest.id) from None
        context.progress.step()

    context.progress.expect(len(plan.tiles))
    await bounded_gather(plan.tiles, one)
    return canvas.result()


async def sample(
    picture: Picture,
    plan: Plan,
    manifest: Manifest,
    signature: str,
    engine: Engine,
    context: RequestContext,
    *,
    tiles: int = SAMPLED_TILES,
    reduced: bool = False,
) -> list[Arrays]:
    """Return the outputs of `signature` for at most `tiles` tiles, spread evenly over the plan; `reduced` to half size.

    A tile is cropped to the picture, but not below `tile_step`: a signature that describes a tile as a whole would
    otherwise count the reflected border as content. Tiles at the edge with less than half of the largest one's pixels
    are left out: they cost more than they tell.
    """
    geometry = manifest.geometry
    pixels = [_inside(tile.window, plan, geometry).pixels for tile in plan.tiles]
    least = max(pixels) / 2
    large = [tile for tile, count in zip(plan.tiles, pixels, strict=True) if count >= least]
    places = np.linspace(0, len(large) - 1, min(tiles, len(large))).round().astype(int)
    outputs: dict[int, Arrays] = {}

    async def one(tile: Tile) -> None:
        window = await asyncio.to_thread(cut, picture.pixels, plan, _inside(tile.window, plan, geometry))
        if reduced:
            window = await asyncio.to_thread(_reduce, window, geometry.multiple)
        outputs[tile.index] = await _run(window, manifest, signature, engine, context, {})

    await bounded_gather([large[place] for place in places], one)
    return [outputs[index] for index in sorted(outputs)]


def _reduce(window: NDArray[np.float32], multiple: int) -> NDArray[np.float32]:
    """Return the means of 2x2 pixels of `window` [1, h, w, c], with sides that are multiples of `multiple`."""
    height, width = (side // 2 // multiple * multiple for side in window.shape[1:3])
    blocks = window[:, : 2 * height, : 2 * width].reshape(1, height, 2, width, 2, window.shape[-1])
    return np.asarray(blocks.mean(axis=(2, 4)), np.float32)


def _inside(window: Box, plan: Plan, geometry: Geometry) -> Box:
    """Return `window` cropped to the picture, with sides that are multiples of `multiple` and at least `tile_step`."""
    multiple, least = geometry.multiple, geometry.tile_step
    tall = (min(window.bottom, plan.height) - window.top) // multiple * multiple
    wide = (min(window.right, plan.width) - window.left) // multiple * multiple
    return Box(window.top, window.left, window.top + max(tall, least), window.left + max(wide, least))


async def _run(
    window: NDArray[np.float32],
    manifest: Manifest,
    signature: str,
    engine: Engine,
    context: RequestContext,
    constants: Arrays,
) -> Arrays:
    channels = manifest.signatures[signature].inputs["image"].shape[-1]
    pixels = window.shape[1] * window.shape[2]
    image = window if window.shape[-1] == channels else np.repeat(window, channels, axis=-1)
    return await engine.run(InferenceRequest(manifest.id, signature, {"image": image, **constants}, context, pixels))


def check_size(picture: Picture, manifest: Manifest, channels: int) -> None:
    """Raise WrongSize unless the model supports the size and channels of the picture (gray fits any model)."""
    size = (picture.height, picture.width)
    fits = channels == picture.channels or picture.channels == 1
    if fits and _takes(manifest.geometry, size):
        return
    supported = f"{'grayscale ' if channels == 1 else ''}pictures {_sizes(manifest.geometry)}"
    got = f"{picture.width}×{picture.height} pixels in {'grayscale' if picture.channels == 1 else 'color'}"
    raise WrongSize(
        f"The model {manifest.id} accepts {supported}; this one is {got}.",
        field="image",
        value=f"{picture.width}×{picture.height}",
    )


def _takes(geometry: Geometry, size: tuple[int, int]) -> bool:
    if geometry.kind == "fixed":
        return size in geometry.valid_sizes
    rule = geometry.size_rule
    if geometry.kind == "whole" and rule:
        return all(side % rule.modulus == rule.remainder for side in size)
    return True


def _sizes(geometry: Geometry) -> str:
    if geometry.kind == "fixed":
        return f"of {' or '.join(f'{width}×{height}' for height, width in geometry.valid_sizes)} pixels"
    rule = geometry.size_rule
    if geometry.kind == "whole" and rule:
        offset = f" plus {rule.remainder}" if rule.remainder else ""
        return f"whose sides are a multiple of {rule.modulus}{offset} pixels"
    return "of any size"
