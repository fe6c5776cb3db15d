"""The operations that a model's graph may use: arithmetic on tensors, and nothing that reaches outside of it.

Before a graph is loaded its operations are read from `saved_model.pb` and compared with two lists: `ALLOWED_OPERATIONS`
and `operations` in the manifest. What a signature reaches, function by function, must be in both. The rest of the file
is TensorFlow's own saving and restoring, whose file operations (`SAVER_OPERATIONS`) are allowed there and nowhere else.
A node may call a function as if it were an operation, so no function may have the name of one.

The operators of a LiteRT file are compared with two lists as well, `ALLOWED_LITERT_OPERATORS` and the manifest's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from models.manifest import QuantizedSignature

# Every SavedModel has these; a manifest need not list them.
IMPLICIT_OPERATIONS = frozenset(
    """
    Const Identity IdentityN NoOp PartitionedCall Placeholder ReadVariableOp StatefulPartitionedCall VarHandleOp
    """.split()
)

# Arithmetic on tensors, its gradients, control flow. No files, no network, no Python, no state that outlives a call.
ALLOWED_OPERATIONS = IMPLICIT_OPERATIONS | frozenset(
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
SAVER_OPERATIONS = frozenset(
    """
    AssignVariableOp DisableCopyOnRead MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch
    StringJoin VarIsInitializedOp
    """.split()
)

# The same for quantized signatures: arithmetic on tensors of fixed sizes, no control flow, no state, nothing custom.
ALLOWED_LITERT_OPERATORS = frozenset(
    """
    ABS ADD AVERAGE_POOL_2D BATCH_TO_SPACE_ND BROADCAST_TO CAST CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE
    DEQUANTIZE DIV ELU EXP EXPAND_DIMS FILL FULLY_CONNECTED HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM MAX_POOL_2D MEAN
    MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 POW PRELU QUANTIZE RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RSQRT SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SQRT SQUARE
    SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE TRANSPOSE_CONV UNPACK ZEROS_LIKE
    """.split()
)

_OBJECT_KINDS = frozenset({"user_object", "variable", "function", "bare_concrete_function", "constant"})


def forbidden_operations(graph: Any, listed: Iterable[str], is_operation: Callable[[str], bool]) -> list[str]:
    """Return what is wrong with the operations of a SavedModel's meta graph; the manifest lists `listed`.

    `is_operation` tells whether TensorFlow has an operation of a name.
    """
    library = graph.graph_def.library
    functions = {function.signature.name: function for function in library.function}
    calls = {name for name in functions if not is_operation(name)}
    reachable = set(_reachable_operations(graph, functions)) - calls
    everywhere = {node.op for node in graph.graph_def.node}
    everywhere |= {node.op for function in library.function for node in function.node_def}
    everywhere -= calls
    kinds = {node.WhichOneof("kind") for node in graph.object_graph_def.nodes}
    permitted = IMPLICIT_OPERATIONS | set(listed)
    return [
        *(f"operation {name} is not allowed in a signature" for name in sorted(reachable - ALLOWED_OPERATIONS)),
        *(
            f"operation {name} is not listed in the manifest"
            for name in sorted(reachable & ALLOWED_OPERATIONS - permitted)
        ),
        *(
            f"operation {name} is not allowed"
            for name in sorted(everywhere - reachable - ALLOWED_OPERATIONS - SAVER_OPERATIONS)
        ),
        *_find_ambiguous_functions(library, functions.keys() - calls),
        *(f"an object of kind {kind} is not allowed" for kind in sorted(map(str, kinds - _OBJECT_KINDS))),
        *(["assets are not allowed"] if graph.asset_file_def else []),
    ]


def _find_ambiguous_functions(library: Any, named_like_operations: Iterable[str]) -> Iterator[str]:
    """Yield what makes it uncertain which function a call reaches."""
    for name in sorted(named_like_operations):
        yield f"function {name} has the name of an operation"
    counts = Counter(function.signature.name for function in library.function)
    for name in sorted(name for name, count in counts.items() if count > 1):
        yield f"function {name} is defined {counts[name]} times"
    # TensorFlow may replace a function by another one with this attribute of the same value.
    for name in sorted({one.signature.name for one in library.function if "api_implements" in one.attr}):
        yield f"function {name} may be replaced by another, which is not allowed"


def _reachable_operations(graph: Any, functions: Mapping[str, Any]) -> Iterator[str]:
    """Yield the operations that a signature, an initializer or a function of the object graph leads to."""
    nodes = {node.name: node for node in graph.graph_def.node}
    pending = [tensor.name for signature in graph.signature_def.values() for tensor in signature.outputs.values()]
    pending += [name for nodes_of in graph.collection_def.values() for name in nodes_of.node_list.value]
    called = [node.bare_concrete_function.concrete_function_name for node in graph.object_graph_def.nodes]
    called += [name for node in graph.object_graph_def.nodes for name in node.function.concrete_functions]
    visited: set[str] = set()
    while pending:
        name = pending.pop().lstrip("^").split(":")[0]
        if name in nodes and name not in visited:
            visited.add(name)
            yield nodes[name].op
            pending.extend(nodes[name].input)
            called.extend(_find_called_functions(nodes[name]))
    visited.clear()
    while called:
        name = called.pop()
        if name in functions and name not in visited:
            visited.add(name)
            for node in functions[name].node_def:
                yield node.op
                called.extend(_find_called_functions(node))


def _find_called_functions(node: Any) -> Iterator[str]:
    """Yield the names of the functions that a node may call."""
    yield node.op  # a function may be called as if it were an operation
    pending = list(node.attr.values())
    while pending:
        attribute = pending.pop()
        for function in (attribute.func, *attribute.list.func):
            yield function.name
            pending.extend(function.attr.values())  # functions that a function gets as its arguments


def forbidden_operators(folder: Path, quantized: QuantizedSignature) -> list[str]:
    """Return what is wrong with the operators of a LiteRT file; nothing where LiteRT is not installed to run it."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        return []
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    try:
        file = schema.Model.GetRootAs((folder / quantized.file).read_bytes())
        # A code over 126 does not fit into the older field of the two, which then holds 127.
        uses = [file.OperatorCodes(number) for number in range(file.OperatorCodesLength())]
        codes = {max(use.BuiltinCode(), use.DeprecatedBuiltinCode()) for use in uses}
    except Exception:  # the reader runs into whatever a broken file leads to
        return [f"{quantized.file} cannot be read"]
    found = {names.get(code, str(code)) for code in codes}
    return [
        *(f"operator {name} is not allowed in {quantized.file}" for name in sorted(found - ALLOWED_LITERT_OPERATORS)),
        *(
            f"operator {name} of {quantized.file} is not listed in the manifest"
            for name in sorted(found & ALLOWED_LITERT_OPERATORS - set(quantized.operators))
        ),
    ]
