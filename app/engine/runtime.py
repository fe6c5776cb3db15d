"""SavedModels on TensorFlow: the only module of the service that imports it, and only once a Runtime is made.

Before a graph is loaded its operations are read from `saved_model.pb` and held against two lists: `ALLOWED` here and
`operations` in the manifest. What a signature reaches, function by function, must stand in both. The rest of the
file is TensorFlow's own saving and restoring, whose file operations (`SAVER`) are let pass there and nowhere else.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from app.engine.protocol import Arrays
from app.errors import ModelUnavailable, Overloaded
from models.manifest import Manifest, Signature

log = structlog.get_logger(__name__)

# What every SavedModel is put together with; a manifest need not list it.
WIRING = frozenset(
    """
    Const Identity IdentityN NoOp PartitionedCall Placeholder ReadVariableOp StatefulPartitionedCall VarHandleOp
    """.split()
)

# Arithmetic on tensors, its gradients, control flow. No files, no network, no Python, no state that outlives a call.
ALLOWED = WIRING | frozenset(
    """
    Abs Add AddN AddV2 All Any ArgMax ArgMin Assert AvgPool AvgPool3D BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd
    BiasAddGrad Bitcast BitwiseAnd BroadcastArgs BroadcastGradientArgs BroadcastTo Cast Ceil CheckNumerics ClipByValue
    Complex ComplexAbs Concat ConcatV2 Conj Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv3D Cos Cumsum
    DepthToSpace DepthwiseConv2dNative DepthwiseConv2dNativeBackpropInput Div DivNoNan DynamicStitch Einsum Elu
    EnsureShape Equal Erf Erfc Exp ExpandDims Expm1 FFT2D Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2
    FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual IFFT2D IRFFT2D If InvertPermutation IsFinite IsInf
    IsNan L2Loss LRN LeakyRelu LeakyReluGrad Less LessEqual LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot
    LogicalOr MatMul Max MaxPool MaxPoolGrad MaxPoolV2 Maximum Mean Min Minimum MirrorPad Mul MulNoNan Neg NotEqual
    OneHot OnesLike Pack Pad PadV2 Pow PreventGradient Prod RFFT2D Range Rank Real RealDiv Reciprocal Relu Relu6
    ReluGrad Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ReverseV2 Rint Roll Round Rsqrt
    ScaleAndTranslate ScatterNd Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Size Slice Snapshot Softmax Softplus
    Softsign SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze StatelessIf
    StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformV2 StatelessWhile StopGradient StridedSlice StridedSliceGrad Sub Sum
    Tan Tanh TanhGrad TensorScatterUpdate Tile TopKV2 Transpose TruncateDiv TruncateMod Unpack Where While Xdivy Xlogy
    ZerosLike
    """.split()
)

# TensorFlow's own saving and restoring of variables.
SAVER = frozenset(
    """
    AssignVariableOp DisableCopyOnRead MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch
    StringJoin VarIsInitializedOp
    """.split()
)

_INITIALISER = "__saved_model_init_op"
_OBJECTS = frozenset({"user_object", "variable", "function", "bare_concrete_function", "constant"})


class LoadedModel:
    """A SavedModel in memory. Safe to call from one thread at a time."""

    def __init__(self, tensorflow: Any, saved: Any, manifest: Manifest) -> None:
        self._tf = tensorflow
        self._saved = saved  # its functions hold their variables only weakly
        self._functions = {name: saved.signatures[name] for name in manifest.signatures}
        self._id = manifest.id

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """Return the outputs of a batch by name, float32, with the batch axis of `inputs`.

        Raises Overloaded when the device has too little memory for it, ModelUnavailable for any other failure.
        """
        tf = self._tf
        try:
            outputs = self._functions[signature](**{name: tf.constant(array) for name, array in inputs.items()})
            return {name: tensor.numpy() for name, tensor in outputs.items()}
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            log.warning("device out of memory", model=self._id, signature=signature, error=_short(error))
            raise Overloaded("The device has too little memory for this now. Try again later.") from None
        except (tf.errors.OpError, ValueError, TypeError) as error:
            log.error("model failed", model=self._id, signature=signature, error=_short(error))
            raise ModelUnavailable(f"The model {self._id} failed on this picture.", value=self._id) from None


class Runtime:
    """TensorFlow, imported and set up when the first Runtime is made (about 4 s)."""

    def __init__(self) -> None:
        self._tf = _tensorflow()

    @property
    def device(self) -> str:
        """What the models run on: `GPU` or `CPU`, in words."""
        gpus = self._tf.config.list_physical_devices("GPU")
        if not gpus:
            return "CPU"
        return str(self._tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))

    def load(self, folder: Path, manifest: Manifest) -> LoadedModel:
        """Return the SavedModel in `folder`, checked against `manifest`.

        Raises ModelUnavailable for operations or signatures other than the manifest says; the log line has them all.
        """
        problems = self.problems(folder, manifest)
        if problems:
            log.error("model refused", model=manifest.id, problems=problems)
            raise ModelUnavailable(f"The model {manifest.id} does not keep its contract.", value=manifest.id)
        try:
            saved = self._tf.saved_model.load(str(folder))
        except Exception as error:  # the loader raises whatever a broken file leads to
            log.error("model refused", model=manifest.id, error=_short(error))
            raise ModelUnavailable(f"The model {manifest.id} cannot be loaded.", value=manifest.id) from None
        return LoadedModel(self._tf, saved, manifest)

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return every breach of the contract in the SavedModel of `folder`, without loading it."""
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorflow.core.protobuf import saved_model_pb2

        saved = saved_model_pb2.SavedModel()
        try:
            saved.ParseFromString((folder / "saved_model.pb").read_bytes())
        except (OSError, DecodeError):
            return ["saved_model.pb cannot be read"]
        if len(saved.meta_graphs) != 1:
            return [f"saved_model.pb holds {len(saved.meta_graphs)} graphs instead of one"]
        graph = saved.meta_graphs[0]
        return _forbidden(graph, manifest.operations) + _mismatches(graph.signature_def, manifest.signatures)


def _tensorflow() -> Any:
    """Import TensorFlow quietly and let a GPU's memory grow with need."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _without_chatter():
        import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # somebody used the device before this Runtime was made
            log.warning("GPU memory growth is fixed already", device=gpu.name)
    return tf


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back what goes to standard error meanwhile, then let through all but TensorFlow's remarks on itself.

    It writes these before it has read its own log level.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not line.startswith((b"I0000 ", b"WARNING: All log messages before absl::InitializeLog()")):
                    os.write(2, line)


def _forbidden(graph: Any, listed: Iterable[str]) -> list[str]:
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    reached = set(_reached(graph, functions))
    everywhere = {node.op for node in graph.graph_def.node}
    everywhere |= {node.op for function in functions.values() for node in function.node_def}
    everywhere -= functions.keys()
    reached -= functions.keys()
    kinds = {node.WhichOneof("kind") for node in graph.object_graph_def.nodes}
    permitted = WIRING | set(listed)
    return [
        *(f"operation {name} is not allowed in a signature" for name in sorted(reached - ALLOWED)),
        *(f"operation {name} is not listed in the manifest" for name in sorted(reached & ALLOWED - permitted)),
        *(f"operation {name} is not allowed" for name in sorted(everywhere - reached - ALLOWED - SAVER)),
        *(f"an object of kind {kind} is not allowed" for kind in sorted(map(str, kinds - _OBJECTS))),
        *(["assets are not allowed"] if graph.asset_file_def else []),
    ]


def _reached(graph: Any, functions: Mapping[str, Any]) -> Iterator[str]:
    """Yield the operations that a signature, an initialiser or a function of the object graph leads to."""
    nodes = {node.name: node for node in graph.graph_def.node}
    pending = [tensor.name for signature in graph.signature_def.values() for tensor in signature.outputs.values()]
    pending += [name for nodes_of in graph.collection_def.values() for name in nodes_of.node_list.value]
    called = [node.bare_concrete_function.concrete_function_name for node in graph.object_graph_def.nodes]
    called += [name for node in graph.object_graph_def.nodes for name in node.function.concrete_functions]
    seen: set[str] = set()
    while pending:
        name = pending.pop().lstrip("^").split(":")[0]
        if name in nodes and name not in seen:
            seen.add(name)
            yield nodes[name].op
            pending.extend(nodes[name].input)
            called.extend(_calls(nodes[name]))
    seen.clear()
    while called:
        name = called.pop()
        if name in functions and name not in seen:
            seen.add(name)
            for node in functions[name].node_def:
                yield node.op
                called.extend(_calls(node))


def _calls(node: Any) -> Iterator[str]:
    yield node.op  # a function may be called as if it were an operation
    for attribute in node.attr.values():
        yield attribute.func.name
        yield from (function.name for function in attribute.list.func)


def _mismatches(defined: Mapping[str, Any], expected: Mapping[str, Signature]) -> list[str]:
    unknown = defined.keys() - expected.keys() - {_INITIALISER}
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
