"""Semantic inpainting (Yeh et al. 2017, arXiv 1607.07539): the picture of a DCGAN that agrees with what is known.

Searched for by Adam over the generator's z, under a context loss that weighs what is known by how much is missing near
it, and a prior loss: what the discriminator objects to, and that z is as long as one that is drawn. A call goes a few
steps on from the state it is given, so that whoever calls it can stop, or let others go first, in between. Needs
Keras's TensorFlow backend: its graph holds gradients.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

STARTS = 16
"""Searches side by side, from other z: one alone often ends in the wrong digit."""
DOUBT = 0.02
"""Several digits may agree with what is known: the answer is their mean, each weighed by exp(-loss / DOUBT)."""
STEPS, CALLS = 10, 10
"""Steps of Adam in a call, and calls of a search: the rate falls from RATE to nearly nothing."""
RATE = 0.1
PRIOR = 0.003
"""Weight of the prior loss, the paper's."""
LENGTH = 0.0125
"""Weight of the mean square of z, which was drawn with 1."""
WINDOW = 13
"""Pixels a side in which what is missing gives weight to what is known."""
SOLVED = 40
"""Steps of conjugate gradients for the blending: enough for holes of half of 28 pixels, to a thousandth."""


class Search(keras.layers.Layer):
    """Goes STEPS on: (image, mask, state, step) -> (image, state, step)."""

    def __init__(self, generator: keras.Model, discriminator: keras.Model, **options: Any) -> None:
        super().__init__(**options)
        self.generator, self.discriminator = generator, discriminator
        self.latent = int(generator.input.shape[-1])
        random = np.random.default_rng(0)
        self.first = random.standard_normal((1, STARTS, self.latent)).astype(np.float32)

    def call(self, image: Any, mask: Any, state: Any, step: Any) -> tuple[Any, Any, Any]:
        """Do one call of the search; return the blended picture, the new state and the next step."""
        import tensorflow as tf  # which the accelerator's machine has not, and which is not trained there

        begun = ops.cast(step[:, :, None] > 0, "float32")
        z, mean, square = state[:, :, 0], state[:, :, 1], state[:, :, 2]
        z = begun * z + (1 - begun) * self.first
        weights = _importance(mask)[:, None]
        known = image[:, None]

        def taken(z: Any, mean: Any, square: Any, so_far: Any) -> tuple[Any, Any, Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(z)
                loss, _ = self._loss(z, known, weights)
            slope = tape.gradient(loss, z)
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * ops.square(slope)
            so_far = so_far + 1
            unbiased = mean / (1 - ops.power(0.9, so_far)), square / (1 - ops.power(0.999, so_far))
            rate = RATE * ops.maximum(1.01 - so_far / (STEPS * CALLS), 0.01)
            return z - rate * unbiased[0] / (ops.sqrt(unbiased[1]) + 1e-8), mean, square, so_far

        start = (z, mean, square, step[:, :, None])
        z, mean, square, _ = ops.while_loop(_forever, taken, start, maximum_iterations=STEPS)
        loss, made = self._loss(z, known, weights)
        likely = ops.softmax(-loss / DOUBT, axis=1)
        found = ops.sum(made * likely[:, :, None, None, None], axis=1)
        return blended(image, found, mask), ops.stack([z, mean, square], axis=2), step + STEPS

    def compute_output_spec(self, image: Any, mask: Any, state: Any, step: Any) -> tuple[Any, Any, Any]:
        """Return the specs of picture, state and step: the shapes of the inputs of the same names."""
        return tuple(keras.KerasTensor(tensor.shape) for tensor in (image, state, step))

    def _loss(self, z: Any, known: Any, weights: Any) -> tuple[Any, Any]:
        """Return the loss of each start [N,STARTS] and its picture [N,STARTS,H,W,C]."""
        made = self.generator(ops.reshape(z, (-1, 1, 1, self.latent)), training=False)
        real = self.discriminator(made, training=False)
        made = ops.reshape(made, (-1, STARTS, *made.shape[1:]))
        context = ops.sum(weights * ops.abs(made - known), axis=(2, 3, 4))
        prior = PRIOR * ops.reshape(ops.softplus(-real), (-1, STARTS)) + LENGTH * ops.mean(ops.square(z), axis=-1)
        return context + prior, made


def build(generator: keras.Model, discriminator: keras.Model) -> keras.Model:
    """Return {image, mask [N,H,W,1], state [N,STARTS,3,latent], step [N,1]} -> {image, state, step}.

    `generator` makes pictures [N,H,W,C] of z [N,1,1,latent], and `discriminator` logits [N,1,1,1] of pictures.
    `state` and `step` are zeros at first, then what the call before gave. `mask` is 1 where the picture is missing; the
    answer's `image` is the best so far, blended into what is known, which comes back as it is.
    """
    size = discriminator.input.shape[1:]
    image, mask = keras.Input(size, name="image"), keras.Input((*size[:2], 1), name="mask")
    state = keras.Input((STARTS, 3, int(generator.input.shape[-1])), name="state")
    step = keras.Input((1,), name="step")
    found = Search(generator, discriminator, name="search")(image, mask, state, step)
    inputs = {"image": image, "mask": mask, "state": state, "step": step}
    return keras.Model(inputs, dict(zip(("image", "state", "step"), found, strict=True)), name="latent_search")


def _importance(mask: Any) -> Any:
    """Return how much each known pixel of `mask` [N,H,W,1] counts, by the share of its surroundings that is missing."""
    near = (1 - mask) * ops.average_pool(mask, WINDOW, 1, padding="same")
    return near / (ops.sum(near, axis=(1, 2, 3), keepdims=True) + 1e-6)


def blended(image: Any, made: Any, mask: Any) -> Any:
    """Return `image` [N,H,W,C] with what is missing from `made`, its gradients joined to what is known.

    Poisson image editing (Pérez et al. 2003): inside, the Laplacian of `made`, at the rim, `image`; by conjugate
    gradients.
    """
    start = image * (1 - mask) + made * mask
    residual = mask * (_laplacian(made) - _laplacian(start))

    def nearer(found: Any, residual: Any, direction: Any, power: Any) -> tuple[Any, Any, Any, Any]:
        along = mask * _laplacian(direction)
        length = power / (_dot(direction, along) + 1e-12)
        found, residual = found + length * direction, residual - length * along
        next_power = _dot(residual, residual)
        return found, residual, residual + next_power / (power + 1e-12) * direction, next_power

    first = (start, residual, residual, _dot(residual, residual))
    found, *_ = ops.while_loop(_forever, nearer, first, maximum_iterations=SOLVED)
    return ops.clip(found, 0.0, 1.0)


def _laplacian(x: Any) -> Any:
    """Return each pixel's difference to its neighbors above, below, left and right, as far as there are any."""
    down, right = x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]
    rows = ops.pad(down, [[0, 0], [1, 0], [0, 0], [0, 0]]) - ops.pad(down, [[0, 0], [0, 1], [0, 0], [0, 0]])
    columns = ops.pad(right, [[0, 0], [0, 0], [1, 0], [0, 0]]) - ops.pad(right, [[0, 0], [0, 0], [0, 1], [0, 0]])
    return rows + columns


def _forever(*_: Any) -> bool:
    return True


def _dot(one: Any, other: Any) -> Any:
    return ops.sum(one * other, axis=(1, 2, 3), keepdims=True)
