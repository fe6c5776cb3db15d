"""SavedModels on TensorFlow: the only module of the service that imports it, and only once a Runtime is made.

Before a graph is loaded its operations are read from `saved_model.pb` and held against two lists: `ALLOWED` here and
`operations` in the manifest. What a signature reaches, function by function, must stand in both. The rest of the
file is TensorFlow's own saving and restoring, whose file operations (`SAVER`) are let pass there and nowhere else.

A signature may have a variant in 8 bit, which LiteRT runs where it is installed and the variant is faster: one trial at
loading decides. Its operators are held against two lists as well, `ALLOWED_LITE` and the manifest's.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from app.engine.protocol import Arrays
from app.errors import ModelUnavailable, Overloaded
from models.benchmark import speedup
from models.manifest import Manifest, QuantizedSignature, Signature, Tensor, is_transient

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

# The same for variants: arithmetic on tensors of fixed sizes, no control flow, no state, nothing custom.
ALLOWED_LITE = frozenset(
    """
    ABS ADD AVERAGE_POOL_2D BATCH_TO_SPACE_ND BROADCAST_TO CAST CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE
    DEQUANTIZE DIV ELU EXP EXPAND_DIMS FILL FULLY_CONNECTED HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM MAX_POOL_2D MEAN
    MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 POW PRELU QUANTIZE RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SQRT SQUARE SQUARED_DIFFERENCE
    SQUEEZE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE TRANSPOSE_CONV UNPACK ZEROS_LIKE
    """.split()
)

GRAPH_GROWTH = 44
"""How many times as large as its file a graph is in memory: fitted to how much each published model lets the process
grow, 5 to 50 MiB, which `Runtime.size` tells within a quarter."""

_INITIALISER = "__saved_model_init_op"
_OBJECTS = frozenset({"user_object", "variable", "function", "bare_concrete_function", "constant"})


class LoadedModel:
    """A SavedModel in memory on `device`. Safe to call from several threads at once."""

    def __init__(self, tensorflow: Any, saved: Any, manifest: Manifest, device: str) -> None:
        self._tf = tensorflow
        self._saved = saved  # its functions hold their variables only weakly
        self._functions = {name: saved.signatures[name] for name in manifest.functions}
        self._id = manifest.id
        self._variants: dict[str, EightBit] = {}
        self._device = device

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """Return the outputs of a batch by name, float32, with the batch axis of `inputs`.

        Raises Overloaded when the device has too little memory for it, ModelUnavailable for any other failure.
        """
        variant = self._variants.get(signature)
        if variant is not None and variant.takes(inputs):
            try:
                return variant.run(inputs)
            except (RuntimeError, ValueError) as error:
                log.error("variant failed", model=self._id, signature=signature, error=_short(error))
                self._variants.pop(signature, None)  # a call beside this one may have done it
        return self._saved_run(signature, inputs)

    def offer(self, variant: EightBit) -> None:
        """Use `variant` from now on if it is faster than the SavedModel: both run in turn, on noise."""
        noise = variant.noise()
        ratio = speedup(lambda: self._saved_run(variant.signature, noise), lambda: variant.run(noise))
        log.info("variant timed", model=self._id, signature=variant.signature, speedup=round(ratio, 2))
        if ratio > 1:
            self.use(variant)

    def use(self, variant: EightBit) -> None:
        """Use `variant` from now on for what it takes."""
        self._variants[variant.signature] = variant

    def _saved_run(self, signature: str, inputs: Arrays) -> Arrays:
        tf = self._tf
        try:
            # Without it the arithmetic would go to the first device, and the weights after it at every call.
            with tf.device(self._device):
                outputs = self._functions[signature](**{name: tf.constant(array) for name, array in inputs.items()})
            return {name: tensor.numpy() for name, tensor in outputs.items()}
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            log.warning("device out of memory", model=self._id, signature=signature, error=_short(error))
            raise Overloaded("The device has too little memory for this now. Try again later.") from None
        except (tf.errors.OpError, ValueError, TypeError) as error:
            log.error("model failed", model=self._id, signature=signature, error=_short(error))
            raise ModelUnavailable(f"The model {self._id} failed on this picture.", value=self._id) from None

    def forget(self) -> None:
        """Let go of all that is in memory."""
        self._functions.clear()
        self._variants.clear()
        self._saved = None


class EightBit:
    """A variant in memory: LiteRT's interpreter of its file. Safe to call from several threads: they take turns."""

    def __init__(self, folder: Path, manifest: Manifest, variant: QuantizedSignature) -> None:
        """Raises ImportError where LiteRT is not installed, ValueError or RuntimeError for a file that is none, or
        whose signatures are not those of the manifest."""
        from ai_edge_litert.interpreter import Interpreter

        self.signature = variant.signature
        self._tensors = manifest.signatures[variant.signature].inputs
        self._sizes = variant.sizes
        content = (folder / variant.file).read_bytes()
        self._interpreter = Interpreter(model_content=content, num_threads=_cores())
        self._lock = threading.Lock()
        self._runners = {}
        for size in variant.sizes:
            runner = self._interpreter.get_signature_runner("{}x{}".format(*size))
            problems = _lite_mismatches(runner, manifest.signatures[variant.signature], size)
            if problems:
                raise ValueError("; ".join(problems))
            self._runners[_shapes({name: _fixed(tensor, size) for name, tensor in self._tensors.items()})] = runner

    def takes(self, inputs: Arrays) -> bool:
        """Return whether `inputs` are a batch of one of a size that it has."""
        return _shapes({name: array.shape for name, array in inputs.items()}) in self._runners

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs by name, float32. Raises RuntimeError or ValueError."""
        runner = self._runners[_shapes({name: array.shape for name, array in inputs.items()})]
        with self._lock:
            return dict(runner(**inputs))

    def noise(self) -> Arrays:
        """Return inputs of its first size, anything between 0 and 1."""
        random = np.random.default_rng(0)
        return {
            name: random.random(_fixed(tensor, self._sizes[0]), np.float32) for name, tensor in self._tensors.items()
        }


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
        """How many batches a device does best at once: on a CPU two where it has two threads, since no network keeps
        them all busy all the time (5 to 45 % more tiles a second on two cores); on an accelerator one."""
        threads = int(os.environ.get("TF_NUM_INTRAOP_THREADS", "0")) or _cores()
        return min(2, threads) if self.device == "CPU" else 1

    def size(self, folder: Path) -> int:
        """Return about how many bytes of memory the SavedModel in `folder` takes once it is loaded: its variables as
        they are stored, and its graph, of which TensorFlow makes functions."""
        variables = sum(path.stat().st_size for path in (folder / "variables").glob("*"))
        return variables + GRAPH_GROWTH * (folder / "saved_model.pb").stat().st_size

    def unload(self, model: LoadedModel) -> None:
        """Give the memory of a model back, which is not called again. Takes up to 0.2 s, in which nothing else runs."""
        model.forget()
        gc.collect()  # functions and their graphs refer to each other

    def load(self, folder: Path, manifest: Manifest, device: str = "") -> LoadedModel:
        """Return the SavedModel in `folder`, checked against `manifest`, on `device` (the first, unless told).

        Raises ModelUnavailable for operations or signatures other than the manifest says (the log line has them all),
        Overloaded when the device has too little memory for it.
        """
        tf, device = self._tf, device or self.devices[0]
        problems = self.problems(folder, manifest)
        if problems:
            log.error("model refused", model=manifest.id, problems=problems)
            raise ModelUnavailable(f"The model {manifest.id} does not keep its contract.", value=manifest.id)
        try:
            with tf.device(device):  # where its variables stay
                saved = tf.saved_model.load(str(folder))
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            log.warning("device out of memory", model=manifest.id, device=device, error=_short(error))
            raise Overloaded("The device has too little memory for this now. Try again later.") from None
        except Exception as error:  # the loader raises whatever a broken file leads to
            log.error("model refused", model=manifest.id, error=_short(error))
            raise ModelUnavailable(f"The model {manifest.id} cannot be loaded.", value=manifest.id) from None
        model = LoadedModel(tf, saved, manifest, device)
        for variant in manifest.quantized:
            try:
                model.offer(EightBit(folder, manifest, variant))
            except ImportError:
                log.info("LiteRT is not installed: no 8 bit", model=manifest.id)
            except (OSError, RuntimeError, ValueError, ModelUnavailable, Overloaded) as error:
                log.error("variant refused", model=manifest.id, signature=variant.signature, error=_short(error))
        return model

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return every breach of the contract in the SavedModel of `folder`, without loading it. Raises OSError for
        what is_transient."""
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorflow.core.protobuf import saved_model_pb2

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
            *_forbidden(graph, manifest.operations),
            *_mismatches(graph.signature_def, manifest.functions),
            *(problem for variant in manifest.quantized for problem in _forbidden_lite(folder, variant)),
        ]


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
    gc.collect()
    gc.freeze()  # what TensorFlow is made of stays: later collections, of models unloaded, need not walk it
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


def _forbidden_lite(folder: Path, variant: QuantizedSignature) -> list[str]:
    """Return what is wrong with the operators of a variant's file; nothing where LiteRT is not there to run it."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        return []
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    try:
        file = schema.Model.GetRootAs((folder / variant.file).read_bytes())
        # A code over 126 does not fit into the older field of the two, which then holds 127.
        uses = [file.OperatorCodes(number) for number in range(file.OperatorCodesLength())]
        codes = {max(use.BuiltinCode(), use.DeprecatedBuiltinCode()) for use in uses}
    except Exception:  # the reader runs into whatever a broken file leads to
        return [f"{variant.file} cannot be read"]
    found = {names.get(code, str(code)) for code in codes}
    return [
        *(f"operator {name} is not allowed in {variant.file}" for name in sorted(found - ALLOWED_LITE)),
        *(
            f"operator {name} of {variant.file} is not listed in the manifest"
            for name in sorted(found & ALLOWED_LITE - set(variant.operators))
        ),
    ]


def _lite_mismatches(runner: Any, signature: Signature, size: tuple[int, int]) -> list[str]:
    """Compare names, dtypes and shapes of a variant's function with what the manifest says for `size`."""
    larger = (size[0] * signature.scale, size[1] * signature.scale)
    sides = [
        ("input", runner.get_input_details(), {key: _fixed(one, size) for key, one in signature.inputs.items()}),
        ("output", runner.get_output_details(), {key: _fixed(one, larger) for key, one in signature.outputs.items()}),
    ]
    problems = []
    for where, found, expected in sides:
        defined = {key: (np.dtype(one["dtype"]).name, tuple(map(int, one["shape"]))) for key, one in found.items()}
        wanted = {key: ("float32", shape) for key, shape in expected.items()}
        if defined != wanted:
            problems.append(f"the {where}s at {size[0]}x{size[1]} are {defined}, the manifest says {wanted}")
    return problems


def _fixed(tensor: Tensor, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of a batch of one whose free height and width are `size`."""
    free = iter(size)
    return (1, *(next(free, 1) if length == -1 else length for length in tensor.shape[1:]))


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted(shapes.items()))


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short(error: BaseException) -> str:
    """Return the first line of a library's message, for the log."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
