"""Plan, cut, run, blend: how a picture of any size goes through a model of one size.

Tiles are cut when their turn comes, and few of one picture are in flight, so that memory does not grow with the
picture and no request fills the queue. Cutting and blending run on threads.
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
from app.imaging.tiles import Box, Canvas, Plan, Tile, cut, make_plan
from app.tasks.concurrency import bounded_gather
from models.manifest import Geometry, Manifest, Signature

Finish = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


class Stopwatch:
    """Splits what a task took into `model`, the device's time for this client, and `queue`, all the rest."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self._begin = time.perf_counter()
        self._spent = context.usage.device_seconds

    def seconds(self) -> dict[str, float]:
        """Return the seconds since the start."""
        model = self._context.usage.device_seconds - self._spent
        return {"queue": max(0.0, time.perf_counter() - self._begin - model), "model": model}


def require_signature(manifest: Manifest, name: str) -> Signature:
    """Return a signature that the task cannot do without. Raises ModelUnavailable."""
    if name not in manifest.signatures:
        raise ModelUnavailable(f"The model {manifest.id} has no signature {name!r}.", field="model", value=manifest.id)
    return manifest.signatures[name]


async def plan_for(picture: Picture, manifest: Manifest, signature: str) -> Plan:
    """Return the tiles of `picture` for a model.

    Raises WrongSize where its geometry or its channels do not fit,
    ModelUnavailable where its geometry is none that a task can use."""
    expected = require_signature(manifest, signature)
    geometry = manifest.geometry
    if geometry.kind == "canonical":  # the whole picture reduced and enlarged again is no restoration
        text = f"The model {manifest.id} works on reduced pictures, which this task cannot use."
        raise ModelUnavailable(text, field="model", value=manifest.id)
    check_size(picture, manifest, expected.inputs["image"].shape[-1])
    tiled = geometry.kind == "tiled"
    return await asyncio.to_thread(  # a small tile size makes tens of thousands of tiles
        make_plan,
        picture.height,
        picture.width,
        tile_size=geometry.tile_size if tiled else max(picture.height, picture.width),
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
    """Return what `signature` makes of the picture: (height × scale, width × scale, channels), the picture's dtype.

    Another `output` than `image` has its own channels, and [0, 1] becomes the whole range of `dtype`.
    Each tile is a step of the client's progress.
    `constants` are inputs beside `image`, the same for every tile. `finish(window, result)` may change the result
    of a tile, [1, h, w, channels] in the picture's own channels, before it is rounded. Raises what the engine
    raises; the first error ends the rest.
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
    tiles: int,
) -> list[Arrays]:
    """Return the outputs of `signature` for at most `tiles` tiles, spread evenly over the plan.

    What lies outside the picture is left out of a tile that is larger than `tile_step` without it: a signature that
    looks at a tile as a whole would take reflections for something that the picture shows.
    """
    geometry = manifest.geometry
    places = np.linspace(0, len(plan.tiles) - 1, min(tiles, len(plan.tiles))).round().astype(int)
    outputs: dict[int, Arrays] = {}

    async def one(tile: Tile) -> None:
        window = await asyncio.to_thread(cut, picture.pixels, plan, _inside(tile.window, plan, geometry))
        outputs[tile.index] = await _run(window, manifest, signature, engine, context, {})

    await bounded_gather([plan.tiles[place] for place in places], one)
    return [outputs[index] for index in sorted(outputs)]


def _inside(window: Box, plan: Plan, geometry: Geometry) -> Box:
    """Return the part of `window` that the picture fills, in whole multiples, and at least one `tile_step` a side."""
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
    """Raise WrongSize unless the model takes the picture's size and channels (grey goes to any)."""
    size = (picture.height, picture.width)
    fits = channels == picture.channels or picture.channels == 1
    if fits and _takes(manifest.geometry, size):
        return
    needs = f"{_sizes(manifest.geometry)}{' in grey' if channels == 1 else ''}"
    got = f"{picture.width}×{picture.height} pixels in {'grey' if picture.channels == 1 else 'color'}"
    raise WrongSize(
        f"The model {manifest.id} takes pictures of {needs}; this one is {got}.",
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
        return " or ".join(f"{width}×{height}" for height, width in geometry.valid_sizes) + " pixels"
    rule = geometry.size_rule
    if geometry.kind == "whole" and rule:
        return f"sides that leave {rule.remainder} when divided by {rule.modulus}"
    return "any size"
