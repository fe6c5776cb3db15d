"""Style transfer by optimization (Gatys et al. 2016, arXiv 1508.06576): the picture itself is what is learned.

Adam changes the picture until VGG19 sees in it the content of one picture and the Gram matrices of another. Two sets of
features with one Gram matrix are alike by the maximum mean discrepancy under the kernel (x·y)² (Li et al. 2017, arXiv
1701.01036). A call goes a few steps on from the state it is given, so that whoever calls it can stop, or let others go
first, in between. Needs Keras's TensorFlow backend: its graph holds gradients.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

CONTENT = "block5_conv2"
STYLE = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
REDUCED = 16
"""How many times smaller CONTENT is than the picture."""
RATE = 0.02
"""Adam's, of a picture in [0, 1]; it falls to a tenth over a search."""
VARIATION = 2.0
"""Weight of the mean square difference of neighbors, which keeps single pixels in place."""


def grams(activations: Any) -> Any:
    """Return the Gram matrix of activations [N,H,W,C], their mean product over all places: float32 [N,C,C]."""
    places = ops.cast(ops.shape(activations)[1] * ops.shape(activations)[2], "float32")
    return ops.cast(ops.einsum("nhwc,nhwd->ncd", activations, activations), "float32") / places


class Look(keras.layers.Layer):
    """Gram matrices of STYLE, flat and one after the other: picture [N,H,W,3] -> [N,numbers]."""

    def __init__(self, vgg: keras.Model, **options: Any) -> None:
        super().__init__(**options)
        self.vgg = vgg

    def call(self, image: Any) -> Any:
        """Return the Gram matrices of `image` [N,H,W,3] at all layers of STYLE, flattened and concatenated."""
        seen = self.vgg(image)
        return ops.concatenate([ops.reshape(grams(seen[name]), (-1, seen[name].shape[-1] ** 2)) for name in STYLE], -1)

    def compute_output_spec(self, image: Any) -> Any:
        """Return the spec of the concatenated Gram matrices."""
        return keras.KerasTensor((image.shape[0], sum(self.vgg.output[name].shape[-1] ** 2 for name in STYLE)))


class Steps(keras.layers.Layer):
    """Goes a few steps on: (image, mean, square, content, wanted, turn) -> (image, mean, square, losses).

    `mean` and `square` are Adam's moments of the slope, `wanted` the Gram matrices. `turn` [N,4] says how many steps to
    take, how many were taken before, how many there will be in all, and what the style weighs beside the content.
    `losses` [N,2] are those of content and style before the last step.
    """

    def __init__(self, vgg: keras.Model, **options: Any) -> None:
        super().__init__(**options)
        self.vgg = vgg

    def call(self, image: Any, mean: Any, square: Any, content: Any, wanted: Any, turn: Any) -> tuple[Any, ...]:
        """Take the steps of one call; return the picture, the moments of Adam, and the content and style losses."""
        import tensorflow as tf  # which the accelerator's machine has not, and which is not trained there

        count, before, all_steps, weight = (turn[:, i] for i in range(4))

        def taken(image: Any, mean: Any, square: Any, so_far: Any, _: Any) -> tuple[Any, ...]:
            with tf.GradientTape() as tape:
                tape.watch(image)
                content_loss, style_loss = self._distances(image, content, wanted)
                loss = content_loss + weight * style_loss + VARIATION * _variation(image)
            slope = tape.gradient(loss, image)
            so_far = so_far + 1
            step = so_far[:, None, None, None]
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * ops.square(slope)
            unbiased = mean / (1 - ops.power(0.9, step)), square / (1 - ops.power(0.999, step))
            rate = RATE * (1 - 0.9 * step / all_steps[:, None, None, None])
            moved = image - rate * unbiased[0] / (ops.sqrt(unbiased[1]) + 1e-8)
            return ops.clip(moved, 0.0, 1.0), mean, square, so_far, ops.stack([content_loss, style_loss], axis=-1)

        def going(image: Any, mean: Any, square: Any, so_far: Any, losses: Any) -> Any:
            return ops.any(so_far < before + count)

        first = (image, mean, square, before, ops.zeros((ops.shape(image)[0], 2)))
        image, mean, square, _, losses = ops.while_loop(going, taken, first)
        return image, mean, square, losses

    def compute_output_spec(self, image: Any, *_: Any) -> Any:
        """Return the specs of the picture, both moments and the two losses."""
        return (*(keras.KerasTensor(image.shape) for _ in range(3)), keras.KerasTensor((image.shape[0], 2)))

    def _distances(self, image: Any, content: Any, wanted: Any) -> tuple[Any, Any]:
        """Return how far content and Gram matrices of each picture are off, each relative to its target, [N]."""
        seen, begin, style = self.vgg(image), 0, 0.0
        for name in STYLE:
            size = int(seen[name].shape[-1])
            target = ops.reshape(wanted[:, begin : begin + size**2], (-1, size, size))
            style += _relative(grams(seen[name]), target, (1, 2)) / len(STYLE)
            begin += size**2
        return _relative(ops.depth_to_space(seen[CONTENT], REDUCED), content, (1, 2, 3)), style


def _relative(found: Any, wanted: Any, axes: tuple[int, ...]) -> Any:
    off = ops.sum(ops.square(found - wanted), axis=axes)
    return off / (ops.sum(ops.square(wanted), axis=axes) + 1e-6)


def _variation(image: Any) -> Any:
    down, right = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
    return ops.mean(ops.square(down), axis=(1, 2, 3)) + ops.mean(ops.square(right), axis=(1, 2, 3))


def build(vgg: keras.Model) -> dict[str, keras.Model]:
    """Return the networks of a search, which share `vgg` (image [N,H,W,3] in [0, 1] -> {name: activations}).

    Heights and widths are multiples of 16.

    * `optimize`: {image, mean, square [N,H,W,3], content [N,H,W,C], grams [N,numbers], turn [N,4]} -> {image, mean,
      square, losses [N,2]}: see `Steps`;
    * `content`: image [N,H,W,3] -> content [N,H,W,C]: what is to be kept of it, its depth laid out in space;
    * `look`: style [N,h,w,3] -> grams: what is to be taken of it.
    """
    image, mean, square, style = (
        keras.Input((None, None, 3), name=name) for name in ("image", "mean", "square", "style")
    )
    kept = ops.depth_to_space(vgg(image)[CONTENT], REDUCED)
    content = keras.Input(kept.shape[1:], name="content")
    looked = Look(vgg, name="look")(style)
    wanted, turn = keras.Input(looked.shape[1:], name="grams"), keras.Input((4,), name="turn")
    given = {"image": image, "mean": mean, "square": square, "content": content, "grams": wanted, "turn": turn}
    found = dict(zip(("image", "mean", "square", "losses"), Steps(vgg, name="steps")(*given.values()), strict=True))
    return {
        "optimize": keras.Model(given, found, name="optimize"),
        "content": keras.Model({"image": image}, {"content": kept}, name="content"),
        "look": keras.Model({"style": style}, {"grams": looked}, name="look"),
    }
