"""The DCGAN (Radford et al. 2016, arXiv 1511.06434): a generator of transposed convolutions and its discriminator.

Strided convolutions instead of pooling, batch normalization in both but for the generator's exit and the
discriminator's entrance, ReLU in the generator, LeakyReLU of 0.2 in the discriminator, tanh at the exit (here brought
to [0, 1]).
"""

from __future__ import annotations

import keras
from keras import layers

LATENT = 100


def build(size: int, channels: int, width: int = 64, least: int = 4) -> keras.Model:
    """Return {z [N,1,1,LATENT], image [N,size,size,channels]} -> {image, real [N,1,1,1]}.

    `image` is what the generator makes of `z`, in [0, 1]; `real` is the discriminator's logit of the given image. Both
    begin, or end, with `least` pixels a side (or the next that doubles to `size`), and `width` is the number of
    channels next to the picture. The two share no layer: `halves` takes them apart.
    """
    steps, side = 0, size
    while side % 2 == 0 and side // 2 >= least:
        steps, side = steps + 1, side // 2
    z, image = keras.Input((1, 1, LATENT), name="z"), keras.Input((size, size, channels), name="image")
    wide = width * 2 ** (steps - 1)
    x = layers.Conv2DTranspose(2 * wide, side, use_bias=False, kernel_initializer=_start(), name="generator_0")(z)
    x = layers.ReLU(name="generator_0_relu")(_norm("generator_0")(x))
    for step in range(1, steps):
        name = f"generator_{step}"
        x = _doubled(wide // 2 ** (step - 1), name, use_bias=False)(x)
        x = layers.ReLU(name=f"{name}_relu")(_norm(name)(x))
    x = _doubled(channels, "generator_exit")(x)
    made = layers.Rescaling(0.5, 0.5, name="generator_scaled")(layers.Activation("tanh", name="generator_tanh")(x))

    y = layers.Rescaling(2.0, -1.0, name="discriminator_scaled")(image)
    for step in range(steps):
        name = f"discriminator_{step}"
        y = layers.Conv2D(width * 2**step, 5, 2, "same", use_bias=step == 0, kernel_initializer=_start(), name=name)(y)
        y = y if step == 0 else _norm(name)(y)
        y = layers.LeakyReLU(negative_slope=0.2, name=f"{name}_relu")(y)
    real = layers.Conv2D(1, side, kernel_initializer=_start(), name="discriminator_exit", dtype="float32")(y)
    return keras.Model({"z": z, "image": image}, {"image": made, "real": real}, name="dcgan")


def halves(network: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the generator, z -> image, and the discriminator, image -> real, of a network that `build` made."""
    return (
        keras.Model(network.input["z"], network.output["image"]),
        keras.Model(network.input["image"], network.output["real"]),
    )


def _doubled(width: int, name: str, **options: bool) -> layers.Layer:
    return layers.Conv2DTranspose(width, 5, 2, "same", kernel_initializer=_start(), name=name, **options)


def _norm(name: str) -> layers.Layer:
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")


def _start() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)
