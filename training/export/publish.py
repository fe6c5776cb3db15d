"""From training results to a model on the shelf: networks, SavedModel, manifest, card."""

from __future__ import annotations

import datetime
import hashlib
import importlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from models import store
from models.manifest import Geometry, Manifest, Provenance, Serving, Signature, Tensor
from models.manifest import Table as ShelfTable
from training.commands import Refused
from training.data.packs import Packs
from training.export import halo, savedmodel
from training.loop import start_from
from training.recipe import Recipe
from training.tables import Table

HALF_COST_DB = 0.005
AGREES = 2e-3
"""How far a SavedModel with float16 weights may be from its network, in units of white."""

DATA_TERMS = (
    "The data packs are research data and photographs of many origins, some without a stated licence; none of them is "
    "part of this project (`docs/data.md`)."
)

LICENCE = "Apache-2.0 for our files; the data's terms are in the card"


def networks_of(recipe: Recipe, out: Path) -> dict[str, keras.Model]:
    """Return the trained networks of a recipe by part, from `out`. Raises Refused for a part without weights."""
    networks = {}
    for name, part in recipe.parts.items():
        weights = out / recipe.id / name / "weights.weights.h5"
        if not weights.is_file():
            raise Refused(f"{weights} is not there: python -m training train {recipe.id}:{name} --out {out}")
        networks[name] = part.network()
        start_from(networks[name], weights, name)
    return networks


def export(recipe: Recipe, packs: Packs, out: Path, folder: Path) -> Manifest:
    """Write the SavedModel of `recipe` into `folder` and return its manifest, without tables and file digests."""
    networks = networks_of(recipe, out)
    halves = {
        name: savedmodel.half_costs(network, lambda net, name=name: recipe.parts[name].validate(net, packs))
        < HALF_COST_DB
        for name, network in networks.items()
    }
    functions = savedmodel.save(networks, halves, folder)
    _verify(networks, functions)
    return _manifest(recipe, networks, functions, packs, out)


def publish(recipe: Recipe, packs: Packs, out: Path, shelf: Path, *, default: bool = False) -> Path:
    """Export, measure, write the card and put the model on the shelf as the next version; return its folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = export(recipe, packs, out, folder)
        tables = recipe.evaluate(networks_of(recipe, out), packs)
        version = store.next_version(recipe.task, recipe.name, shelf)
        manifest = manifest.model_copy(
            update={"version": version, "quality": [ShelfTable(**vars(table)) for table in tables]}
        )
        (folder / "card.md").write_text(_card(recipe, manifest, tables), encoding="utf-8")
        place = store.publish(Manifest.model_validate(manifest.model_dump()), folder, shelf, default=default or None)
    print(f"{manifest.id} is on the shelf: {place}")
    return place


def _verify(networks: Mapping[str, keras.Model], functions: Mapping[str, Any]) -> None:
    """Raise Refused where a saved function and its network disagree."""
    random = np.random.default_rng(5)
    for name, network in networks.items():
        inputs = {
            key: random.random([1, *(64 if n is None else n for n in tensor.shape[1:])], np.float32)
            for key, tensor in network.input.items()
        }
        expected = network(inputs, training=False)
        got = functions[name](**{key: keras.ops.convert_to_tensor(value) for key, value in inputs.items()})
        for key, tensor in expected.items():
            apart = float(np.abs(keras.ops.convert_to_numpy(tensor) - got[key].numpy()).max())
            if not apart <= AGREES:
                raise Refused(f"{name}: the SavedModel's {key} is {apart:.2g} away from the network's")


def _manifest(
    recipe: Recipe, networks: Mapping[str, keras.Model], functions: Mapping[str, Any], packs: Packs, out: Path
) -> Manifest:
    signatures = {name: _signature(network) for name, network in networks.items()}
    geometry = dict(recipe.geometry)
    if geometry["kind"] == "tiled" and geometry.get("halo") is None:
        channels = next(iter(networks.values())).input["image"].shape[-1]
        scene = halo.background(packs.pictures(f"{recipe.packs[0]}/train", slice(0, 1)), channels)
        geometry["halo"] = max(
            halo.measure(
                network, scale=signatures[name].scale, multiple=geometry["multiple"], tolerance=5e-4, background=scene
            )
            for name, network in networks.items()
            if "image" in network.output
        )
    sizes = geometry.get("valid_sizes")
    costs = [savedmodel.cost(network, sizes[0][0] if sizes else 128) for network in networks.values()]
    return Manifest(
        task=recipe.task,  # type: ignore[arg-type]
        name=recipe.name,
        version=1,
        title=recipe.title,
        description=recipe.description,
        created=datetime.datetime.now(datetime.UTC).date(),
        architecture=recipe.architecture,
        parameters=sum(network.count_params() for network in networks.values()),
        flops_per_pixel=max(operations for operations, _ in costs),
        licence=LICENCE,
        signatures=signatures,
        geometry=Geometry(**geometry),
        provenance=_provenance(recipe, packs, out),
        files={},
        serving=Serving(batch_sizes=[1], mebibytes_per_megapixel=max(memory for _, memory in costs)),
        operations=sorted(set().union(*(savedmodel.operations(function) for function in functions.values()))),
    )


def _signature(network: keras.Model) -> Signature:
    def tensor(name: str, spec: Any, given: bool) -> Tensor:
        shape = [-1 if n is None else int(n) for n in spec.shape]
        return Tensor(
            shape=shape,
            range=(0.0, 1.0) if given else None,
            per="tile" if name == "image" else "sample",
        )

    scale = 1
    if "image" in network.output:
        probe = {k: (1, *(16 if n is None else n for n in t.shape[1:])) for k, t in network.input.items()}
        made = network.compute_output_shape(probe)["image"]
        scale = int(made[1]) // probe["image"][1]
    return Signature(
        inputs={name: tensor(name, spec, True) for name, spec in network.input.items()},
        outputs={name: tensor(name, spec, False) for name, spec in network.output.items()},
        scale=scale,
    )


def _provenance(recipe: Recipe, packs: Packs, out: Path) -> Provenance:
    source = Path(importlib.import_module(f"training.recipes.{recipe.id}").__file__ or "")
    runs = [json.loads((out / recipe.id / name / "run.json").read_text()) for name in recipe.parts]
    return Provenance(
        recipe=recipe.id,
        recipe_digest=hashlib.sha256(source.read_bytes()).hexdigest(),
        data={pack: packs.digest(pack) for pack in recipe.packs},
        command="; ".join(dict.fromkeys(run["command"] for run in runs)),
        hours=round(sum(run["seconds"] for run in runs) / 3600, 3),
        device=", ".join(dict.fromkeys(run["device"] for run in runs)),
        seed=runs[0]["seed"],
        steps=sum(run["steps"] for run in runs),
        started_from="; ".join(dict.fromkeys(run["started_from"] for run in runs if run["started_from"])),
    )


def _card(recipe: Recipe, manifest: Manifest, tables: list[Table]) -> str:
    lines = [f"# {manifest.id}: {recipe.title}", "", recipe.description, "", recipe.card or ""]
    origin = manifest.provenance
    lines += [
        f"Architecture: {recipe.architecture}; {manifest.parameters:,} parameters, "
        f"{manifest.flops_per_pixel:,} floating point operations a pixel.",
        "",
        f"Trained with `{origin.command}` ({origin.hours:.2f} hours, {origin.steps} steps) on {origin.device}"
        + (f", started from {origin.started_from}" if origin.started_from else "")
        + ".",
        "",
        f"Data: {', '.join(recipe.packs)}. {DATA_TERMS}",
        "",
        f"Licence: {LICENCE}.",
        "",
    ]
    return "\n".join(lines + [table.text() + "\n" for table in tables])
