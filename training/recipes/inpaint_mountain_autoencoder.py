"""`inpaint/mountain-autoencoder` (row 7): the founding article's own network, which does not see the mask; a baseline.

    python -m training train inpaint_mountain_autoencoder --hours 0.3
    python -m training evaluate inpaint_mountain_autoencoder

What is missing is black in what it gets, and a black rock looks the same.
"""

from __future__ import annotations

import keras
from keras import layers

from training.architectures import valid_autoencoder
from training.recipe import Recipe
from training.recipes.inpaint_mountain import recipe_of


def network() -> keras.Model:
    """Return image [N,H,W,3] -> image [N,H,W,3]; height and width leave 4 when divided by 8."""
    image = keras.Input((None, None, 3), name="image")
    last = layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="exit", dtype="float32")
    found = last(valid_autoencoder.build(image))
    return keras.Model({"image": image}, {"image": found}, name="inpaint_mountain_autoencoder")


def recipe() -> Recipe:
    return recipe_of(
        "mountain-autoencoder",
        network,
        title="Mountains, the article's autoencoder",
        description="Holes in small pictures of mountains, by a network that is not told where they are; a baseline.",
        architecture="Autoencoder of valid convolutions with skip connections",
    )
