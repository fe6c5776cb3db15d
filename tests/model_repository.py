"""A shelf of tiny real models, for tests: SavedModels made with `tf.Module`, published through `models.repository`.

`tiny_repository` (a session's fixture; needs TensorFlow, so mark its users `tf`) holds

    denoise/identity      image -> image
    denoise/blur          3x3 mean, colour, tiled with a halo of 1 and a real variable
    denoise/photo         the default: `denoise` (image, level) -> image mixed with its blur by `level`; `estimate`
    denoise/digits        28x28 grey only, image -> image
    superres/nearest      the default: `x2` and `x3`, no `x4`
    segment/light         the default: how light each pixel is, canonical sizes

`manifest(...)` alone needs no TensorFlow: it is the manifest of a model that may not exist.
"""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

import pytest

from models import repository
from models.manifest import Class, Geometry, Manifest, Provenance, Serving, Signature, SizeRule, Style, Tensor

TILED = Geometry(kind="tiled", halo=1, multiple=4, tile_size=64, tile_step=32)
DIGIT = Geometry(kind="fixed", valid_sizes=[(28, 28)])
CANONICAL = Geometry(kind="canonical", multiple=16, canonical_sizes=[(48, 64), (64, 48), (64, 64)])
LIGHT_CLASSES = [Class(id=0, name="background", color=(0, 0, 0)), Class(id=1, name="light", color=(255, 255, 0))]

STYLES = [
    Style(name="starry-night", title="A Red Square", artist="Nobody", year="1915"),
    Style(name="green-field", title="Green Field", artist="Somebody", year="c. 1900"),
]
PAINTER = {"statistics_side": 96, "style_side": 64}
WHOLE = Geometry(kind="whole", multiple=16, size_rule=SizeRule(modulus=16))
OPTIMIZER = {"side": 256, "side_on_gpu": 512, "pixels_a_call": 128 * 128 * 2, "style_weight": 4.0}

_OPERATIONS = [
    "AddV2", "Const", "Conv2D", "DepthwiseConv2dNative", "Identity", "Max", "Mean", "Mul", "NoOp", "PartitionedCall",
    "Placeholder", "ReadVariableOp", "ResizeNearestNeighbor", "Shape", "Square", "StatefulPartitionedCall",
    "StridedSlice", "Sub", "VarHandleOp", "Pack", "MirrorPad",
]  # fmt: skip


def picture(channels: int = 3, size: int = -1) -> Tensor:
    """Return the tensor of a batch of pictures of free size, or of `size` by `size`."""
    return Tensor(shape=[-1, size, size, channels], range=(0.0, 1.0))


def level() -> Tensor:
    """Return the tensor of one noise level a sample."""
    return Tensor(shape=[-1, 1, 1, 1], range=(0.0, 1.0), per="sample")


def manifest(
    task: str = "denoise",
    name: str = "identity",
    *,
    version: int = 1,
    signatures: dict[str, Signature] | None = None,
    geometry: Geometry = TILED,
    default: bool = False,
    batch_sizes: list[int] | None = None,
    **changes: Any,
) -> Manifest:
    """Return a manifest that keeps the contract; `changes` are other keys of it."""
    fields: dict[str, Any] = {
        "task": task,
        "name": name,
        "version": version,
        "title": f"{name} for tests",
        "description": "A tiny model for tests.",
        "created": datetime.date(2026, 1, 2),
        "architecture": name,
        "parameters": 1,
        "flops_per_pixel": 1,
        "licence": "Apache-2.0",
        "signatures": signatures or {"denoise": Signature(inputs={"image": picture()}, outputs={"image": picture()})},
        "geometry": geometry,
        "defaults": {"default": True} if default else {},
        "provenance": Provenance(
            recipe="tests", recipe_digest="0" * 64, data={}, command="none", hours=0, device="none", seed=0, steps=0
        ),
        "files": {},
        "serving": Serving(batch_sizes=batch_sizes or [1, 4], mebibytes_per_megapixel=100),
        "operations": _OPERATIONS,
        **changes,
    }
    return Manifest(**fields)


def photo_signatures() -> dict[str, Signature]:
    """Return the signatures of denoise/photo: `denoise` with a level, and `estimate`."""
    return {
        "denoise": Signature(inputs={"image": picture(), "level": level()}, outputs={"image": picture()}),
        "estimate": Signature(inputs={"image": picture()}, outputs={"level": level()}),
    }


def correlated_signatures() -> dict[str, Signature]:
    """Return the signatures of a denoise/photo with a second network for correlated noise, and how to tell."""
    signatures = photo_signatures()
    told = Signature(inputs={"image": picture()}, outputs={"level": level(), "correlation": level()})
    return {**signatures, "denoise_correlated": signatures["denoise"], "estimate": told}


def digit_signatures() -> dict[str, Signature]:
    """Return the signature of denoise/digits."""
    return {"denoise": Signature(inputs={"image": picture(1, 28)}, outputs={"image": picture(1, 28)})}


def superres_signatures(*scales: int) -> dict[str, Signature]:
    """Return one signature `x<scale>` for each of `scales`."""
    return {
        f"x{scale}": Signature(inputs={"image": picture()}, outputs={"image": picture()}, scale=scale)
        for scale in scales
    }


def two_exit_signatures(*scales: int) -> dict[str, Signature]:
    """Return signatures `x<scale>` that mix two exits by a share, and `aliasing`, which tells how."""
    signatures = {
        name: one.model_copy(update={"inputs": {**one.inputs, "share": level()}})
        for name, one in superres_signatures(*scales).items()
    }
    evidence = dict.fromkeys(signatures, Tensor(shape=[-1, 1, 1, 1], per="sample"))
    return {**signatures, "aliasing": Signature(inputs={"image": picture()}, outputs=evidence)}


def segment_signatures(classes: int) -> dict[str, Signature]:
    """Return the signature of a segmentation into `classes`."""
    found = Tensor(shape=[-1, -1, -1, classes], range=(0.0, 1.0))
    return {"segment": Signature(inputs={"image": picture()}, outputs={"probabilities": found})}


def inpaint_signatures() -> dict[str, Signature]:
    """Return the signature of inpainting: a picture and where it is missing."""
    mask = Tensor(shape=[-1, -1, -1, 1], range=(0.0, 1.0))
    return {"inpaint": Signature(inputs={"image": picture(), "mask": mask}, outputs={"image": picture()})}


def stylize_signatures() -> dict[str, Signature]:
    """Return the signatures of a painter whose styles are colours."""
    vector = Tensor(shape=[-1, 3], per="sample")
    moments = Tensor(shape=[-1, 1, 3], per="sample")
    index = Tensor(shape=[-1, 1], per="sample")
    return {
        "paint": Signature(
            inputs={"image": picture(), "vector": vector, "moments": moments}, outputs={"image": picture()}
        ),
        "statistics": Signature(inputs={"image": picture(), "vector": vector}, outputs={"moments": moments}),
        "encode": Signature(inputs={"style": picture()}, outputs={"vector": vector}),
        "preset": Signature(inputs={"index": index}, outputs={"vector": vector}),
    }


def optimize_signatures() -> dict[str, Signature]:
    """Return the signatures of a model that goes to a style step by step; its Gram matrices are a mean colour."""
    grams, turn = Tensor(shape=[-1, 3], per="sample"), Tensor(shape=[-1, 4], per="sample")
    state = {"image": picture(), "mean": picture(), "square": picture()}
    losses = Tensor(shape=[-1, 2], per="sample")
    return {
        "optimize": Signature(
            inputs={**state, "content": picture(), "grams": grams, "turn": turn}, outputs={**state, "losses": losses}
        ),
        "content": Signature(inputs={"image": picture()}, outputs={"content": picture()}),
        "look": Signature(inputs={"style": picture()}, outputs={"grams": grams}),
    }


def save(module: Any, functions: dict[str, tuple[Any, dict[str, Tensor]]], folder: Path) -> Path:
    """Write a SavedModel of `functions` {signature: (function of keywords, its inputs)} to `folder`."""
    import tensorflow as tf

    signatures = {}
    for signature, (function, inputs) in functions.items():
        specs = {
            key: tf.TensorSpec([None if size == -1 else size for size in tensor.shape], tf.float32, name=key)
            for key, tensor in inputs.items()
        }
        signatures[signature] = tf.function(function).get_concrete_function(**specs)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def publish(described: Manifest, module: Any, functions: dict[str, Any], root: Path) -> Path:
    """Save `functions` {signature: function} of `module` and publish them as `described`; return the folder."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = {name: signature.inputs for name, signature in described.signatures.items()}
        source = save(module, {name: (functions[name], inputs[name]) for name in functions}, Path(folder) / "model")
        return repository.publish(described, source, root)


def build(root: Path) -> Path:
    """Publish the tiny models of this module on `shelf` and return it."""
    import numpy as np
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(np.full((3, 3, 3, 1), 1 / 9, np.float32), name="kernel")
    module.one = tf.Variable(1.0, name="one")

    def blurred(image: Any) -> Any:
        return tf.nn.depthwise_conv2d(image, module.kernel, [1, 1, 1, 1], "SAME")

    def same(image: Any) -> Any:
        return {"image": image * module.one}

    def blur(image: Any) -> Any:
        return {"image": blurred(image)}

    def mix(image: Any, level: Any) -> Any:
        return {"image": image + level * (blurred(image) - image)}

    def estimate(image: Any) -> Any:
        return {"level": tf.reduce_mean(tf.square(image - blurred(image)), axis=[1, 2, 3], keepdims=True)}

    def enlarge(scale: int) -> Any:
        def nearest(image: Any) -> Any:
            return {"image": tf.image.resize(image, tf.shape(image)[1:3] * scale, "nearest") * module.one}

        return nearest

    def lightness(image: Any) -> Any:
        return {"probabilities": tf.reduce_mean(image, axis=3, keepdims=True) * module.one}

    publish(manifest(), module, {"denoise": same}, root)
    publish(manifest(name="blur"), module, {"denoise": blur}, root)
    photo = manifest(name="photo", signatures=photo_signatures(), default=True)
    publish(photo, module, {"denoise": mix, "estimate": estimate}, root)
    digits = manifest(name="digits", signatures=digit_signatures(), geometry=DIGIT)
    publish(digits, module, {"denoise": same}, root)
    nearest = manifest("superres", "nearest", signatures=superres_signatures(2, 3), default=True)
    publish(nearest, module, {"x2": enlarge(2), "x3": enlarge(3)}, root)
    light = manifest(
        "segment", "light", signatures=segment_signatures(1), geometry=CANONICAL, classes=LIGHT_CLASSES, default=True
    )
    publish(light, module, {"segment": lightness}, root)
    return root


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a shelf with the tiny models. Treat it as read-only."""
    return build(tmp_path_factory.mktemp("shelf"))
