"""SavedModels on TensorFlow: the only module of the service that imports it, and only once a Runtime is made.

A graph is loaded after its operations (`graph_allowlist`) and signatures were compared with the manifest. A signature
is also computed in bfloat16, or in 8 bit by LiteRT (`litert_runtime`): `precision` names these functions.
"""

from __future__ import annotations

import gc
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from app.engine.graph_allowlist import forbidden_operations, forbidden_operators
from app.engine.litert_runtime import QuantizedModel, usable_cores
from app.engine.precision import BFLOAT16, INT8
from app.engine.protocol import Arrays
from app.errors import ModelUnavailable, Overloaded
from models.manifest import Manifest, Signature, is_transient
from models.onednn import enable_onednn

log = structlog.get_logger(__name__)

GRAPH_GROWTH = 44
"""How many times as large as its file a graph is in memory. Fitted to the growth of the process with each published
model, 5 to 50 MiB, which `Runtime.size` estimates within a quarter."""

_INITIALIZER = "__saved_model_init_op"


class LoadedModel:
    """A SavedModel in memory on `device`. Safe to call from several threads at once."""

    def __init__(self, tensorflow: Any, saved: Any, folder: Path, manifest: Manifest, device: str) -> None:
        self._tf = tensorflow
        self._saved = saved  # keeps the variables alive: its functions refer to them weakly
        self._functions = {name: saved.signatures[name] for name in manifest.functions}
        self._folder, self._manifest, self._id = folder, manifest, manifest.id
        self._quantized: dict[str, QuantizedModel] = {}
        self._quantized_lock = threading.Lock()
        self._device = device

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """Return the outputs of a batch by name, float32, with the batch axis of `inputs`.

        `signature` may end in the suffix of a precision. Raises Overloaded when the device has too little memory for
        it, ModelUnavailable for any other failure.
        """
        if signature.endswith(INT8):
            return self._run_quantized(signature.removesuffix(INT8), inputs)
        return self._run_saved(signature, inputs)

    def _run_quantized(self, signature: str, inputs: Arrays) -> Arrays:
        try:
            with self._quantized_lock:
                if signature not in self._quantized:
                    (entry,) = (one for one in self._manifest.quantized if one.signature == signature)
                    self._quantized[signature] = QuantizedModel(self._folder, self._manifest, entry)
            return self._quantized[signature].run(inputs)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            log.error("quantized signature failed", model=self._id, signature=signature, error=_short(error))
            raise ModelUnavailable(f"The model {self._id} failed in 8 bit.", value=self._id) from None

    def _run_saved(self, signature: str, inputs: Arrays) -> Arrays:
        tf = self._tf
        try:
            # Without it TensorFlow computes on the first device, and copies the weights there at every call.
            with tf.device(self._device):
                tensors = {name: tf.constant(array) for name, array in inputs.items()}
                if signature.endswith(BFLOAT16):
                    outputs = _call_in_bfloat16(tf, self._functions[signature.removesuffix(BFLOAT16)], tensors)
                else:
                    outputs = self._functions[signature](**tensors)
            return {name: tensor.numpy() for name, tensor in outputs.items()}
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            log.warning("device out of memory", model=self._id, signature=signature, error=_short(error))
            raise Overloaded("The device is out of memory. Try again later.") from None
        except (tf.errors.OpError, ValueError, TypeError) as error:
            log.error("model failed", model=self._id, signature=signature, error=_short(error))
            raise ModelUnavailable(f"The model {self._id} failed on this picture.", value=self._id) from None

    def release(self) -> None:
        """Drop everything that is in memory."""
        self._functions.clear()
        self._quantized.clear()
        self._saved = None


class Runtime:
    """TensorFlow, imported and set up when the first Runtime is made (about 4 s)."""

    def __init__(self) -> None:
        self._tf = _tensorflow()

    @property
    def devices(self) -> list[str]:
        """What models can be loaded on: every GPU, `GPU:0` the first, or the CPU where there is none."""
        found = self._tf.config.list_logical_devices("GPU") or self._tf.config.list_logical_devices("CPU")
        return [device.name.removeprefix("/device:") for device in found]

    @property
    def device(self) -> str:
        """What the models run on, in words: `CPU`, or the GPU's name, with how many there are of it."""
        gpus = self._tf.config.list_physical_devices("GPU")
        if not gpus:
            return "CPU"
        name = str(self._tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
        return f"{len(gpus)} × {name}" if len(gpus) > 1 else name

    @property
    def max_concurrent_batches(self) -> int:
        """How many batches a device runs best at once: on a CPU two where it has two threads, since no network keeps
        them all busy all the time (5 to 45 % more tiles per second on two cores); on an accelerator one."""
        threads = int(os.environ.get("TF_NUM_INTRAOP_THREADS", "0")) or usable_cores()
        return min(2, threads) if self.device == "CPU" else 1

    def size(self, folder: Path) -> int:
        """Return about how many bytes of memory the SavedModel in `folder` takes once it is loaded: its variables as
        they are stored, and the functions that TensorFlow makes of its graph."""
        variables = sum(path.stat().st_size for path in (folder / "variables").glob("*"))
        return variables + GRAPH_GROWTH * (folder / "saved_model.pb").stat().st_size

    def unload(self, model: LoadedModel) -> None:
        """Free the memory of a model, which is not called again. Blocks the process for up to 0.2 s."""
        model.release()
        gc.collect()  # functions and their graphs refer to each other

    def load(self, folder: Path, manifest: Manifest, device: str = "") -> LoadedModel:
        """Return the SavedModel in `folder`, checked against `manifest`, on `device` (by default the
        first).

        Raises ModelUnavailable for operations or signatures other than the manifest says (the log line has them all),
        Overloaded when the device has too little memory for it.
        """
        tf, device = self._tf, device or self.devices[0]
        problems = self.problems(folder, manifest)
        if problems:
            log.error("model refused", model=manifest.id, problems=problems)
            raise ModelUnavailable(f"The model {manifest.id} does not match its manifest.", value=manifest.id)
        try:
            with tf.device(device):  # where its variables stay
                saved = tf.saved_model.load(str(folder))
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            log.warning("device out of memory", model=manifest.id, device=device, error=_short(error))
            raise Overloaded("The device is out of memory. Try again later.") from None
        except Exception as error:  # the loader raises whatever a broken file leads to
            log.error("model refused", model=manifest.id, error=_short(error))
            raise ModelUnavailable(f"The model {manifest.id} cannot be loaded.", value=manifest.id) from None
        return LoadedModel(tf, saved, folder, manifest, device)

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return every breach of the contract in the SavedModel of `folder`, without loading it. Raises OSError for
        what is_transient."""
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorflow.core.protobuf import saved_model_pb2
        from tensorflow.python.framework import op_def_registry

        saved = saved_model_pb2.SavedModel()
        try:
            saved.ParseFromString((folder / "saved_model.pb").read_bytes())
        except (OSError, DecodeError) as error:
            if isinstance(error, OSError) and is_transient(error):
                raise
            return ["saved_model.pb cannot be read"]
        if len(saved.meta_graphs) != 1:
            return [f"saved_model.pb holds {len(saved.meta_graphs)} graphs instead of one"]
        graph = saved.meta_graphs[0]
        return [
            *(f"{name} is not allowed beside saved_model.pb" for name in _find_other_graphs(folder)),
            *forbidden_operations(graph, manifest.operations, lambda name: op_def_registry.get(name) is not None),
            *_mismatches(graph.signature_def, manifest.functions),
            *(problem for quantized in manifest.quantized for problem in forbidden_operators(folder, quantized)),
        ]


def _call_in_bfloat16(tf: Any, function: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a concrete function whose convolutions and matrix products are computed in bfloat16.

    TensorFlow rewrites its graph for this call: weights and inputs stay float32 and are rounded where they are used.
    """
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    outputs = tf.raw_ops.StatefulPartitionedCall(
        args=[*(tensors[name] for name in sorted(function.structured_input_signature[1])), *function.captured_inputs],
        Tout=[output.dtype for output in function.outputs],
        f=function,
        config_proto=config.SerializeToString(),
    )
    return dict(zip(sorted(function.structured_outputs), outputs, strict=True))


def _tensorflow() -> Any:
    """Import TensorFlow quietly and let a GPU's memory grow with need."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    enable_onednn()
    # Sums stay float32 in bfloat16: in the sum of picture and correction, a picture would have 256 levels.
    os.environ.setdefault("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_INFERLIST_REMOVE", "Add,AddV2")
    with _without_notes():
        import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the device was used before this Runtime was made
            log.warning("GPU memory growth not enabled", device=gpu.name)
    gc.collect()
    gc.freeze()  # TensorFlow's own objects stay: collections after a model was unloaded need not visit them
    with _without_notes():
        tf.zeros([], tf.float16)  # on some processors the first of these is announced
    return tf


_NOTE = re.compile(
    rb"I\d{4} .*|WARNING: All log messages before absl::InitializeLog.*|E\d{4} .* oneDNN supports DT_HALF only on .*"
)


@contextmanager
def _without_notes() -> Iterator[None]:
    """Drop the notes that TensorFlow writes to standard error before it reads its log level, such as that oneDNN is
    used (on newer processors only); pass everything else on."""
    try:
        kept, written = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    except OSError:  # no standard error, or no room for a file
        yield
        return
    with written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            for line in written:
                if not _NOTE.match(line):
                    os.write(2, line)


def _find_other_graphs(folder: Path) -> list[str]:
    """Return the other files that a version of TensorFlow may load instead of `saved_model.pb`, such as
    `saved_model.pbtxt` and `saved_model.cpb`."""
    return sorted(path.name for path in folder.glob("saved_model.*") if path.name != "saved_model.pb")


def _mismatches(defined: Mapping[str, Any], expected: Mapping[str, Signature]) -> list[str]:
    unknown = defined.keys() - expected.keys() - {_INITIALIZER}
    problems = [f"signature {name} is missing" for name in sorted(expected.keys() - defined.keys())]
    problems += [f"signature {name} is not in the manifest" for name in sorted(unknown)]
    for name in sorted(expected.keys() & defined.keys()):
        inputs = {key: tensor.shape for key, tensor in expected[name].inputs.items()}
        outputs = {key: tensor.shape for key, tensor in expected[name].outputs.items()}
        problems += _tensors(f"{name} input", defined[name].inputs, inputs)
        problems += _tensors(f"{name} output", defined[name].outputs, outputs)
    return problems


def _tensors(where: str, defined: Mapping[str, Any], expected: Mapping[str, list[int]]) -> list[str]:
    """Compare names, dtypes and shapes. The graph may leave a size open that the manifest gives, not the reverse."""
    from tensorflow.core.framework import types_pb2

    if defined.keys() != expected.keys():
        return [f"{where}s are {sorted(defined)}, the manifest says {sorted(expected)}"]
    problems = []
    for key, shape in expected.items():
        tensor = defined[key]
        sizes = [dim.size for dim in tensor.tensor_shape.dim]
        if tensor.dtype != types_pb2.DT_FLOAT:
            problems.append(f"{where} {key} is {types_pb2.DataType.Name(tensor.dtype)}, not float32")
        matches = len(sizes) == len(shape) and not tensor.tensor_shape.unknown_rank
        matches = matches and all(a in (b, -1) for a, b in zip(sizes, shape, strict=True))
        if not matches:
            problems.append(f"{where} {key} has shape {sizes}, the manifest says {shape}")
    return problems


def _short(error: BaseException) -> str:
    """Return the first line of a library's message, for the log."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
