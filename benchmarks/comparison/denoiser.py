"""The code that users of other servers write around denoise/photo: decode, tile, call, encode. Independent of `app`.

A picture of up to one tile is processed whole. A larger one is split into the manifest's tiles with its halo, because
50 megapixels at once would take about 27 GB.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

LEVEL = 0.2
QUALITY = 90

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]
Window = tuple[slice, slice]


class Denoiser:
    """The SavedModel in `folder`, on `threads` cores."""

    def __init__(self, folder: Path, threads: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        geometry = json.loads((folder / "manifest.json").read_text())["geometry"]
        self._step, self._tile, self._halo = (geometry[name] for name in ("tile_step", "tile_size", "halo"))
        self._constant = tf.constant
        self._saved = tf.saved_model.load(str(folder))
        self._call = self._saved.signatures["denoise"]
        self.run([np.zeros((self._tile, self._tile, 3), np.float32)])

    def split(self, pixels: Pixels) -> Iterator[tuple[Window, Window, Values]]:
        """Yield (part of the picture, part of the tile, values) for each tile, padded to multiples of the step."""
        height, width = pixels.shape[:2]
        core = self._tile if max(height, width) <= self._tile else self._tile - 2 * self._halo
        for top in range(0, height, core):
            for left in range(0, width, core):
                bottom, right = min(height, top + core), min(width, left + core)
                above, before = max(0, top - self._halo), max(0, left - self._halo)
                piece = pixels[above : bottom + self._halo, before : right + self._halo]
                padding = [(0, -size % self._step) for size in piece.shape[:2]]
                values = np.pad(piece, [*padding, (0, 0)], "symmetric").astype(np.float32) / np.float32(255)
                inner = slice(top - above, bottom - above), slice(left - before, right - before)
                yield (slice(top, bottom), slice(left, right)), inner, values

    def run(self, tiles: list[Values]) -> list[Values]:
        """Return the results of tiles of any sizes; tiles of the same size are processed in one call."""
        results: list[Values] = [np.empty(0, np.float32)] * len(tiles)
        for shape in {tile.shape for tile in tiles}:
            which = [index for index, tile in enumerate(tiles) if tile.shape == shape]
            levels = np.full((len(which), 1, 1, 1), LEVEL, np.float32)
            batch = np.stack([tiles[index] for index in which])
            outputs = self._call(image=self._constant(batch), level=self._constant(levels))["image"].numpy()
            for index, output in zip(which, outputs, strict=True):
                results[index] = output
        return results


def parse_options(description: str | None) -> argparse.Namespace:
    """Parse the command line of a server."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="folder of the SavedModel")
    arguments.add_argument("--port", type=int, required=True, help="port to listen on")
    arguments.add_argument("--workers", type=int, default=1, help="worker processes")
    arguments.add_argument("--batch", type=int, default=1, help="largest batch")
    return arguments.parse_args()


def decode(data: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    return pixels


def paste(pixels: Pixels, where: Window, inner: Window, result: Values) -> None:
    """Copy the inner part of a tile's result into the picture."""
    pixels[where] = np.clip(np.rint(result[inner] * 255), 0, 255).astype(np.uint8)


def encode(pixels: Pixels) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorspace="RGB", colorsubsampling="444")
    return data
