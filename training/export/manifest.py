"""The manifest of a model, measured on the model."""

from __future__ import annotations

import datetime
import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from models.manifest import (
    Class,
    Geometry,
    Manifest,
    Provenance,
    QualityTable,
    Serving,
    Signature,
    Start,
    Style,
    Tensor,
)
from training.data.packs import Packs, read_rgb
from training.evaluation.tables import ResultTable
from training.export import halo
from training.export.variables import layer_variables
from training.recipe import Recipe
from training.recipe import Start as RecipeStart
from training.runs import RUN, read_previous_runs

LICENCE = "Apache-2.0 for our files; the data's terms are in the card"
TOLERANCE = 5e-4
MEANINGS = {
    "image": "a picture in [0, 1], not clipped where it comes out",
    "probabilities": "how probable each class is; of one class, the foreground",
    "level": "the root mean square of noise and artifacts, 1 = 75/255 of the range",
    "share": "how much the exit for pictures that were reduced without a filter counts",
    **dict.fromkeys(("x2", "x3", "x4"), "the logit of `share` for the signature of this name"),
    "correlation": "how alike the noise of neighboring pixels is: 0 for white noise, 1 for blocks of 2x2",
}


def describe(
    recipe: Recipe,
    networks: Mapping[str, keras.Model],
    folder: Path,
    packs: Packs,
    out: Path,
    *,
    version: int,
    quality: Sequence[ResultTable],
) -> Manifest:
    """Return the manifest of the SavedModel in `folder`; `networks` are what it was made from."""
    geometry = _geometry(recipe, networks, packs)
    own = next(iter([*geometry.valid_sizes, *geometry.canonical_sizes]), None)
    side = geometry.tile_size or recipe.side(256)
    pixels = own or (side, side)
    return Manifest(
        task=recipe.task,
        name=recipe.name,
        version=version,
        title=recipe.title,
        description=recipe.description,
        created=datetime.datetime.now(datetime.UTC).date(),
        architecture=recipe.architecture,
        parameters=parameters(networks),
        flops_per_pixel=max(flops_per_pixel(network, own or (recipe.side(64),) * 2) for network in networks.values()),
        licence=LICENCE,
        signatures={
            name: signature(
                network, recipe.inputs, recipe.side(64), bfloat16=name in recipe.parts and recipe.parts[name].bfloat16
            )
            for name, network in networks.items()
        },
        geometry=geometry,
        defaults=dict(recipe.defaults),
        classes=[Class(id=number, name=name, color=color) for number, name, color in recipe.classes],
        styles=[Style(**style) for style in recipe.styles(packs)],
        quality=[
            QualityTable(title=t.title, command=t.command, columns=t.columns, rows=t.rows, note=t.note) for t in quality
        ],
        provenance=_provenance(recipe, packs, out),
        files={},
        serving=Serving(
            batch_sizes=[1, 16, 64],
            mebibytes_per_megapixel=mebibytes_per_megapixel(folder, next(iter(networks)), pixels, recipe.side(32)),
        ),
        operations=operations(folder),
    )


def parameters(networks: Mapping[str, keras.Model]) -> int:
    """Return how many numbers the weights of all networks are; what they share counts once."""
    own = {id(v): v for network in networks.values() for _, v in layer_variables(network)}
    return sum(int(np.prod(variable.shape)) for variable in own.values())


def signature(
    network: keras.Model, inputs: Mapping[str, dict[str, Any]], side: int = 64, *, bfloat16: bool = False
) -> Signature:
    """Return the entry of `network`, which takes sides of `side` pixels; `inputs` and `bfloat16` as a recipe has
    them."""
    return Signature(
        inputs={key: _tensor(inputs.get(key, {}), key, tensor) for key, tensor in network.input.items()},
        outputs={key: _tensor(inputs.get(key, {}), key, tensor, given=False) for key, tensor in network.output.items()},
        scale=scale_of(network, side),
        bfloat16=bfloat16,
    )


def _tensor(own: dict[str, Any], key: str, tensor: Any, *, given: bool = True) -> Tensor:
    """Return the entry of an input or output; an input's `own` fields go before what is usual, and its `per` too."""
    fields: dict[str, Any] = {
        "shape": [-1 if size is None else size for size in tensor.shape],
        "per": "tile" if len(tensor.shape) == 4 and tensor.shape[1] != 1 else "sample",
        "range": (0.0, 1.0) if given else None,
        "meaning": MEANINGS.get(key, ""),
    }
    return Tensor(**(fields | (own if given else {"per": own.get("per", fields["per"])})))


def scale_of(network: keras.Model, side: int = 64) -> int:
    """Return how many times as large as its input a network's picture comes out; 1 where it gives no picture."""
    if "image" not in network.output:
        return 1
    inputs = _inputs(network, np.zeros((1, *_sizes(network, side)), np.float32), 0.5)
    return int(network(inputs)["image"].shape[1] // inputs["image"].shape[1])


def _sizes(network: keras.Model, side: int) -> tuple[int, int, int]:
    _, height, width, channels = network.input["image"].shape
    return height or side, width or side, channels


def _inputs(network: keras.Model, image: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Return inputs for `image` (N,H,W,C): the others are `level`, as large as the image where their size is free."""
    inputs = {"image": image}
    for key, tensor in network.input.items():
        if key != "image":
            shape = [size or image.shape[axis] for axis, size in enumerate(tensor.shape)]
            inputs[key] = np.full(shape, level, np.float32)
    return inputs


def flops_per_pixel(network: keras.Model, size: tuple[int, int]) -> int:
    """Return the floating-point operations of convolutions and matrix products per pixel of a `size` picture."""
    specs = {
        key: tf.TensorSpec([1, *[s or size[axis % 2] for axis, s in enumerate(tensor.shape[1:])]], tf.float32, name=key)
        for key, tensor in network.input.items()
    }
    graph = tf.function(lambda inputs: network(inputs), autograph=False).get_concrete_function(specs).graph
    total = 0
    for operation, times in _operations(graph):
        if operation.type in ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput"):
            kernel = operation.inputs[1].shape
            # A transposed convolution has one product for each of its inputs, a plain one for each of its outputs.
            places = operation.inputs[2] if operation.type == "Conv2DBackpropInput" else operation.outputs[0]
            depth = kernel[3] if operation.type == "DepthwiseConv2dNative" else kernel[2] * kernel[3]
            total += times * 2 * kernel[0] * kernel[1] * depth * _area(places, operation)
        elif operation.type == "MatMul":
            left, right = operation.inputs[0].shape, operation.inputs[1].shape
            total += times * 2 * left[0] * left[1] * right[1]
    return max(1, round(total / (size[0] * size[1])))


def _area(tensor: Any, operation: Any) -> int:
    channels_first = operation.get_attr("data_format") == b"NCHW"
    height, width = tensor.shape[2:4] if channels_first else tensor.shape[1:3]
    return int(height * width * (tensor.shape[0] or 1))


def _operations(graph: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Yield every operation with how often it runs; a loop says so where its number of turns is fixed."""
    for operation in graph.get_operations():
        yield operation, times
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            yield from _operations(graph._get_function(operation.get_attr("f").name).graph, times)
        elif operation.type in ("While", "StatelessWhile"):
            turns = max(1, int(tf.get_static_value(operation.inputs[1])))
            yield from _operations(graph._get_function(operation.get_attr("body").name).graph, times * turns)


def _geometry(recipe: Recipe, networks: Mapping[str, keras.Model], packs: Packs) -> Geometry:
    """Return the recipe's geometry with the halo measured where it is None, and tiles large enough for it."""
    fields = dict(recipe.geometry)
    if fields["kind"] == "tiled" and fields.get("halo") is None:
        fields["halo"] = _halo(recipe, networks, _backgrounds(recipe, packs)) + recipe.reach
        if fields["tile_size"] <= 2 * fields["halo"]:
            fields["tile_size"] = -(-4 * fields["halo"] // fields["tile_step"]) * fields["tile_step"]
            print(
                f"{recipe.id}: tile size raised to {fields['tile_size']} px for a halo of {fields['halo']} px",
                file=sys.stderr,
            )
    return Geometry(**fields, tolerance=TOLERANCE)


def _halo(recipe: Recipe, networks: Mapping[str, keras.Model], backgrounds: Sequence[np.ndarray]) -> int:
    """Return the largest halo of those networks that answer with a picture, measured at a quarter of the tolerance."""
    return max(
        halo.measure(
            network,
            scale=scale_of(network, recipe.side(64)),
            multiple=recipe.geometry["multiple"],
            tolerance=TOLERANCE / 4,  # half was too little: pictures that were not measured reach further
            background=background[..., : network.input["image"].shape[-1]],
        )
        for network in networks.values()
        if {"image", "probabilities"} & network.output.keys()
        for background in backgrounds
    )


def _backgrounds(recipe: Recipe, packs: Packs, side: int = 384) -> list[np.ndarray]:
    """Return pictures to measure on, float32 (1, side, side, 3): three of the recipe's and one of noise."""
    found = [np.random.default_rng(0).random((1, side, side, 3), dtype=np.float32)]
    for file in packs.files(f"{recipe.packs[0]}/train")[5:300:100]:
        picture = read_rgb(file)[:side, :side]
        missing = [(0, side - size) for size in picture.shape[:2]]
        found.append((np.pad(picture, [*missing, (0, 0)], mode="symmetric")[None] / 255).astype(np.float32))
    return found


def operations(folder: Path) -> list[str]:
    """Return the names of every operation in the SavedModel's graph and functions, but saving and restoring."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    functions = [f for f in graph.library.function if "traced_save" not in f.signature.name]
    functions = [f for f in functions if "traced_restore" not in f.signature.name]
    found = {node.op for node in graph.node} | {node.op for f in functions for node in f.node_def}
    saver = {"AssignVariableOp", "DisableCopyOnRead", "MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"}
    saver |= {"StaticRegexFullMatch", "StringJoin", "VarIsInitializedOp"}
    return sorted(found - saver - {f.signature.name for f in graph.library.function})


_MEASURE = """
import sys
import numpy as np, tensorflow as tf
folder, signature, count, height, width, least = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
saved = tf.saved_model.load(folder)
function = saved.signatures[signature]
def run(count, height, width):
    shapes = {key: spec.shape for key, spec in function.structured_input_signature[1].items()}
    sizes = {key: [count if a == 0 else s or (height, width)[a - 1] for a, s in enumerate(shape)]
             for key, shape in shapes.items()}
    function(**{key: tf.constant(np.full(size, 0.5, np.float32)) for key, size in sizes.items()})
def kibibytes(entry):
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(entry)).split()[1])
run(1, least, least)
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = kibibytes("VmRSS")
run(count, height, width)
print(kibibytes("VmHWM") - before)
"""


def mebibytes_per_megapixel(folder: Path, signature: str, size: tuple[int, int], least: int = 32) -> float:
    """Return what memory a process needs to run `signature` on a picture (or pictures) of `size`, per megapixel.

    What a picture of `least` pixels a side needs is not counted. Table in a process of its own, by the kernel's
    count (Linux).
    """
    count = max(1, 2**19 // (size[0] * size[1]))
    command = [sys.executable, "-c", _MEASURE, str(folder), signature, *map(str, (count, *size, least))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    kibibytes = int(done.stdout.split()[-1])
    return round(max(1.0, kibibytes / 1024 / (count * size[0] * size[1] / 1e6)), 1)


def licence_file(start: RecipeStart) -> str:
    """Return where in the model's folder the text of the licence of `start` lies."""
    return f"licences/{start.text}"


def _provenance(recipe: Recipe, packs: Packs, out: Path) -> Provenance:
    module = importlib.import_module(f"training.recipes.{recipe.id}")
    runs = [json.loads((out / recipe.results / part / RUN).read_text(encoding="utf-8")) for part in recipe.parts]
    # Several parts may have started from the same run: it counts once.
    previous = dict.fromkeys(one for run in runs for one in read_previous_runs(run))
    return Provenance(
        recipe=recipe.id,
        recipe_digest=hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest(),
        data={pack: packs.digest(pack) for pack in recipe.packs},
        command=f"python -m training train {recipe.results}",
        hours=round(sum(run["seconds"] for run in runs) / 3600 + sum(hours for _, hours, _ in previous), 3),
        device=", ".join(dict.fromkeys(run["device"] for run in runs)),
        seed=runs[0]["seed"],
        steps=sum(run["steps"] for run in runs) + sum(steps for *_, steps in previous),
        started_from=", ".join(dict.fromkeys(run["started_from"] for run in runs if run["started_from"])),
        precision=", ".join(dict.fromkeys(run.get("precision", "float32") for run in runs)),
        starts=[Start(name=one.name, licence=one.licence, licence_file=licence_file(one)) for one in recipe.starts],
    )
