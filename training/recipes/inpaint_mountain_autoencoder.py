"""`inpaint/mountain-autoencoder`: the network of the article on inpainting, which does not get the mask.

    python -m training train inpaint_mountain_autoencoder --hours 0.3
    python -m training evaluate inpaint_mountain_autoencoder

Missing pixels are black in its input, and a black rock looks the same.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from training.architectures import valid_autoencoder
from training.recipe import Part
from training.recipes.inpaint_mountain import FillMountains, InpaintMountain


class InpaintMountainAutoencoder(InpaintMountain):
    title = "Mountains, the article's autoencoder"
    description = "Fills holes in small pictures of mountains with a network that does not see the mask; a baseline."
    architecture = "Autoencoder of valid convolutions with skip connections"

    def build_parts(self) -> dict[str, Part]:
        return {"inpaint": FillWithoutMask()}


class FillWithoutMask(FillMountains):
    """The same task without the mask."""

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> image [N,H,W,3]; height and width leave 4 when divided by 8."""
        image = keras.Input((None, None, 3), name="image")
        last = layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="exit", dtype="float32")
        found = last(valid_autoencoder.build(image))
        return keras.Model({"image": image}, {"image": found}, name="inpaint_mountain_autoencoder")

    def inputs(self, image: Any, mask: Any) -> dict[str, Any]:
        """Return the input of the network: the picture without the mask."""
        return {"image": image}
