"""A denoising convolutional autoencoder for 28x28 digits: 32-32-16 down, 16-32-32 up.

After Vincent et al. 2008, "Extracting and composing robust features with denoising autoencoders", with convolutions.
"""

from __future__ import annotations

import keras
from keras import layers


def build() -> keras.Model:
    """Return image [N,28,28,1] in [0, 1] -> image [N,28,28,1] in (0, 1); the code is 7x7x16."""
    image = keras.Input((28, 28, 1), name="image")
    x = image
    for depth, width in enumerate((32, 32, 16)):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"encoder_{depth}")(x)
        if depth < 2:
            x = layers.MaxPooling2D(2, name=f"shrink_{depth}")(x)
    for depth, width in enumerate((16, 32, 32)):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"decoder_{depth}")(x)
        if depth < 2:
            x = layers.UpSampling2D(2, interpolation="nearest", name=f"grow_{depth}")(x)
    exit_ = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="exit", dtype="float32")
    return keras.Model({"image": image}, {"image": exit_(x)}, name="digits_denoiser")
