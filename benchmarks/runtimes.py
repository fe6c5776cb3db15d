"""Compares the runtimes of a model: TensorFlow, LiteRT, and ONNX Runtime where it is installed.

`python -m benchmarks.runtimes [--model denoise/photo] [--signature denoise] [--size 512 512]`

One call of the published SavedModel in float32, and of its conversions for one size (`tf.lite.TFLiteConverter`; with
`pip install tf2onnx onnxruntime` in an environment of its own, `tf2onnx`). The processor time is the least of three
calls; the difference is the largest of any output from TensorFlow's (decision 35).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.litert_runtime import usable_cores
from benchmarks import results
from models import repository
from models.manifest import Manifest

PUBLISHED = Path(__file__).resolve().parent.parent / "models/published"
Outputs = list[np.ndarray[Any, Any]]


def newest(name: str) -> tuple[Path, Manifest]:
    """Return the folder and the manifest of the newest version of a published model."""
    folder = max((PUBLISHED / name).iterdir(), key=lambda path: int(path.name))
    return folder, repository.open_model(folder)


def processor_seconds(call: Callable[[], object]) -> float:
    """Return the least processor time of three calls, after one that is not counted."""
    call()
    taken = []
    for _ in range(3):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return min(taken)


def compare(name: str, signature: str, size: tuple[int, int]) -> dict[str, float | int | str]:
    """Return the figures of one signature at one size."""
    import tensorflow as tf

    folder, manifest = newest(name)
    inputs = {key: tensor.shape_at(size) for key, tensor in manifest.signatures[signature].inputs.items()}
    model = tf.saved_model.load(str(folder))
    random = np.random.default_rng(0)
    data = {key: random.random(shape, np.float32) for key, shape in inputs.items()}
    tensors = {key: tf.constant(value) for key, value in data.items()}
    call = model.signatures[signature]
    truth = [value.numpy() for value in call(**tensors).values()]
    figures: dict[str, float | int | str] = {
        "model": manifest.id,
        "signature": signature,
        "size": "{}x{}".format(*size),
    }
    figures["TensorFlow (CPU s)"] = processor_seconds(lambda: call(**tensors))

    specs = [tf.TensorSpec(shape, tf.float32, name=key) for key, shape in inputs.items()]
    fixed = tf.function(lambda *values: call(**dict(zip(inputs, values, strict=True))), input_signature=specs)
    converted = tf.lite.TFLiteConverter.from_concrete_functions([fixed.get_concrete_function()], model).convert()
    for runtime, run in (("LiteRT", _litert(converted, data)), ("ONNX Runtime", _onnx(converted, data))):
        if run is not None:
            figures[f"{runtime} (CPU s)"] = processor_seconds(run)
            figures[f"{runtime} difference"] = f"{_difference(run(), truth):.0e}"
    return figures


def _litert(converted: bytes, data: dict[str, Any]) -> Callable[[], Outputs]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=converted, num_threads=usable_cores())
    interpreter.allocate_tensors()
    entries = _match({one["index"]: list(one["shape"]) for one in interpreter.get_input_details()}, data)
    outputs = [one["index"] for one in interpreter.get_output_details()]

    def run() -> Outputs:
        for index, value in entries.items():
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run


def _onnx(converted: bytes, data: dict[str, Any]) -> Callable[[], Outputs] | None:
    if find_spec("onnxruntime") is None or find_spec("tf2onnx") is None:
        return None
    import onnxruntime
    import tf2onnx

    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(converted)
        file.flush()
        content = tf2onnx.convert.from_tflite(file.name, opset=17)[0].SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    entries = _match({one.name: list(one.shape) for one in session.get_inputs()}, data)
    return lambda: list(session.run(None, entries))


def _match(shapes: dict[Any, list[int]], data: dict[str, Any]) -> dict[Any, Any]:
    """Return the arrays by the inputs of a conversion, which lose their names: each has a shape of its own."""
    return {key: next(value for value in data.values() if list(value.shape) == shape) for key, shape in shapes.items()}


def _difference(found: Outputs, truth: Outputs) -> float:
    return max(float(np.abs(one - other).max()) for one in found for other in truth if one.shape == other.shape)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="denoise/photo")
    arguments.add_argument("--signature", default="denoise")
    arguments.add_argument("--size", type=int, nargs=2, default=(512, 512))
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    figures = compare(options.model, options.signature, tuple(options.size))
    results.report("runtimes", figures, record=not options.no_record)


if __name__ == "__main__":
    main()
