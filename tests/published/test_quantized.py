"""Published models in 8 bit: near float32 for a photograph, at every size that the file has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.engine.tensorflow_runtime import Runtime
from models.manifest import QuantizedSignature, read
from tests.published.test_bfloat16 import given
from tests.published.test_repository import FOLDERS

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tf

RMS = {"denoise": 3e-3, "superres": 3e-3, "inpaint": 3e-3, "segment": 4e-2}
"""The root mean square difference of a picture, or of probabilities, in [0, 1], by task; what a file may cost in dB or
IoU stands in the manifest."""
FILES = [(folder, entry) for folder in FOLDERS for entry in read(folder).quantized]


@pytest.mark.parametrize(
    ("folder", "entry"), FILES, ids=[f"{'-'.join(folder.parts[-3:])}-{entry.signature}" for folder, entry in FILES]
)
def test_it_is_near_float32(folder: Path, entry: QuantizedSignature) -> None:
    manifest = read(folder)
    model = Runtime().load(folder, manifest)
    signature = manifest.signatures[entry.signature]
    for size in entry.sizes:
        inputs = {name: given(manifest.task, name, tensor) for name, tensor in signature.inputs.items()}
        for name in inputs.keys() & {"image", "mask"}:
            sides = [(0, 0), *((0, side - 128) for side in size), (0, 0)]
            inputs[name] = np.pad(inputs[name], sides, mode="reflect")
        usual, found = (model.run(function, inputs) for function in (entry.signature, f"{entry.signature}:int8"))
        for name in usual:
            assert 0 < np.sqrt(np.mean((found[name] - usual[name]) ** 2)) <= RMS[manifest.task]
