"""What inpainting recipes share: the loss, the validation and the preview grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training.data.packs import Packs
from training.evaluation import previews
from training.evaluation.inpainting import in_hole_psnr
from training.recipe import Part

FAINT = 1e-4
"""Mean square errors below this (40 dB) count little in training."""
PREVIEWS = 8


class InpaintPart(Part):
    """A network that fills holes: {image [N,H,W,3], mask [N,H,W,1]} -> image [N,H,W,3].

    Batches are `image` uint8 (N,h,w,3) and `mask` uint8 (N,h,w,1), 1 where the picture is missing. Held-out samples
    are pairs of a picture, uint8 (h,w,3), and what is missing of it, bool (h,w).
    """

    preview_fill = 0
    """The value that previews show in holes."""

    def inputs(self, image: Any, mask: Any) -> dict[str, Any]:
        """Return the network's inputs for pictures [N,H,W,3], black where `mask` [N,H,W,1] is 1."""
        return {"image": image, "mask": mask}

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return `hole_loss` of what the network fills."""
        return hole_loss(*self.fill(network, batch))

    def fill(self, network: keras.Model, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Return what the network makes of a batch, the pictures in [0, 1] and the masks, float32 [N,H,W,C]."""
        image, mask = ops.cast(batch["image"], "float32") / 255.0, ops.cast(batch["mask"], "float32")
        return network(self.inputs(image * (1.0 - mask), mask))["image"], image, mask

    def run(self, network: keras.Model, picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """Return `picture`, uint8 (height, width, 3), with what is `missing`, bool (height, width), filled.

        The sides must be sizes that the network takes.
        """
        mask = missing[None, ..., None].astype(np.float32)
        image = (picture[None] / 255).astype(np.float32) * (1 - mask)
        found = ops.convert_to_numpy(network(self.inputs(image, mask))["image"])[0]
        return np.where(missing[..., None], np.clip(np.rint(found * 255), 0, 255).astype(np.uint8), picture)

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean PSNR (dB) inside the holes of the held-out pictures."""
        found = [
            in_hole_psnr(self.run(network, picture, missing), picture, missing)
            for picture, missing in self.held_out(packs)
        ]
        return {"psnr": float(np.mean(found))}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of damaged | ours | the picture."""
        rows = []
        for picture, missing in self.held_out(packs)[:PREVIEWS]:
            damaged = np.where(missing[..., None], np.uint8(self.preview_fill), picture)
            row = (damaged, self.run(network, picture, missing), picture)
            rows.append([one.astype(np.float32) / 255 for one in row])
        return previews.grid(rows)


def hole_loss(found: Any, true: Any, mask: Any) -> Any:
    """Return the mean over the samples of the logarithm of the mean square error where `mask` is 1.

    All are [N,H,W,C], pictures in [0, 1]. This is the PSNR: a scratch in a calm sky weighs as much as half a picture of
    leaves.
    """
    square = ops.sum(ops.square((found - true) * mask), axis=(1, 2, 3))
    return ops.mean(ops.log(square / (true.shape[-1] * ops.sum(mask, axis=(1, 2, 3)) + 1.0) + FAINT))


def feature_distance(features: keras.Model, found: Any, true: Any, mask: Any) -> Any:
    """Return the distance of activations of `features` where `mask` is 1: the loss to `perception.FeatureDistance`.

    All are [N,H,W,C], pictures in [0, 1]. Activations are scaled to length 1 at every position (LPIPS, Zhang et al.
    2018), their squared differences averaged over the holes of a sample, and the layers summed.
    """
    seen, wanted = features(found), features(true)
    total, hole = 0.0, mask
    for name in features.output:
        while hole.shape[1] > seen[name].shape[1]:
            hole = ops.average_pool(hole, 2, 2)
        one, other = (_unit_length(ops.cast(values[name], "float32")) for values in (seen, wanted))
        square = ops.sum(ops.square(one - other), axis=-1, keepdims=True)
        total += ops.mean(ops.sum(square * hole, axis=(1, 2, 3)) / (ops.sum(hole, axis=(1, 2, 3)) + 1.0))
    return total


def _unit_length(values: Any) -> Any:
    return values * ops.rsqrt(ops.sum(ops.square(values), axis=-1, keepdims=True) + 1e-6)
