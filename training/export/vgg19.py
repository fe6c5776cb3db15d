"""`stylize/vgg19`: VGG19 as a model that paints step by step. Nothing of it is trained here."""

from __future__ import annotations

import datetime
import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from models import repository
from models.manifest import Geometry, Manifest, Provenance, Serving, SizeRule
from training.architectures import style_optimizer, vgg19
from training.export.manifest import flops_per_pixel, mebibytes_per_megapixel, operations, parameters, signature
from training.export.savedmodel import compare, save

SIDE, SIDE_ON_GPU = 384, 1024
"""The picture is worked on with at most so many pixels a side of a square."""
STYLE_WEIGHT = 10.0
"""What the Gram matrices weigh beside the content, both relative to what they should be."""
INPUTS: dict[str, dict[str, Any]] = {
    "mean": {"range": None, "meaning": "zeros at first, then what the call before gave"},
    "square": {"range": None, "meaning": "zeros at first, then what the call before gave"},
    "content": {"range": None, "meaning": "of the picture, by the signature content"},
    "grams": {"range": None, "meaning": "of the style, by the signature look"},
    "turn": {"range": None, "meaning": "steps to take, steps taken before, steps in all, weight of the style"},
}
LICENCE = "VGG19's weights: CC BY 4.0 (Simonyan and Zisserman, Visual Geometry Group)"


class WeightsUnavailable(ValueError):
    """Weights of VGG19 that cannot be read or fetched; the message says what to do."""


def publish(root: Path, weights: Path | None) -> Path:
    """Put VGG19 in the model repository `root` as the next version of stylize/vgg19 and return its folder.

    `weights` is an `.npz` as `vgg19.build` reads it; None takes those of `keras.applications`, which downloads them.
    Raises RepositoryError, SavedModelMismatch, and WeightsUnavailable where the weights cannot be read or fetched.
    """
    root.mkdir(parents=True, exist_ok=True)  # fail before the model is made
    with tempfile.TemporaryDirectory() as scratch:
        source = weights or _downloaded(Path(scratch) / "vgg19.npz")
        try:
            vgg = vgg19.build(sorted({style_optimizer.CONTENT, *style_optimizer.STYLE}), source)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise WeightsUnavailable(
                f"{source} is not a file of its weights ({error}); docs/data.md describes the format"
            ) from None
        networks = style_optimizer.build(vgg)
        folder = Path(scratch) / "model"
        save(networks, folder)
        compare(networks, folder, tolerance=2e-3)  # Adam divides by slopes that are nearly nothing
        manifest = Manifest(
            task="stylize",
            name="vgg19",
            version=repository.next_version("stylize", "vgg19", root),
            title="Any style, by optimization",
            description="Changes a picture step by step until its VGG19 features match the style of another picture "
            "(`method=optimize`).",
            created=datetime.datetime.now(datetime.UTC).date(),
            architecture="VGG19 up to block5_conv2; Adam on the picture (Gatys et al. 2016)",
            parameters=parameters(networks),
            flops_per_pixel=flops_per_pixel(networks["content"], (64, 64)),
            licence=LICENCE,
            signatures={name: signature(network, INPUTS) for name, network in networks.items()},
            geometry=Geometry(kind="whole", multiple=16, size_rule=SizeRule(modulus=16)),
            defaults={
                "side": SIDE,
                "side_on_gpu": SIDE_ON_GPU,
                "pixels_a_call": SIDE**2,
                "style_weight": STYLE_WEIGHT,
            },
            provenance=Provenance(
                recipe="vgg19",
                recipe_digest=hashlib.sha256(Path(vgg19.__file__).read_bytes()).hexdigest(),
                data={},
                command="python -m training publish vgg19",
                hours=0,
                device="none",
                seed=0,
                steps=0,
                started_from=source.name if weights else "keras.applications",
            ),
            files={},
            serving=Serving(mebibytes_per_megapixel=mebibytes_per_megapixel(folder, "content", (256, 256))),
            operations=operations(folder),
        )
        return repository.publish(manifest, folder, root)


def _downloaded(target: Path) -> Path:
    """Write the weights of `keras.applications` to `target` and return it. Raises WeightsUnavailable."""
    try:
        whole = keras.applications.VGG19(include_top=False)
    except Exception as error:  # Keras has no narrower one for a download that fails
        raise WeightsUnavailable(f"{error}; download failed, use --weights FILE.npz (docs/data.md)") from None
    arrays: dict[str, Any] = {}
    for layer in whole.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            arrays |= {f"{layer.name}/kernel": kernel, f"{layer.name}/bias": bias}
    np.savez(target, **arrays)
    return target
