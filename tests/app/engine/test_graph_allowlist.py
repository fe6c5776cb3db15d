"""SavedModels with operations that are not allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.engine.graph_allowlist import ALLOWED_OPERATIONS, IMPLICIT_OPERATIONS, SAVER_OPERATIONS
from app.engine.tensorflow_runtime import Runtime
from app.errors import ModelUnavailable
from tests.app.engine.conftest import Build
from tests.model_repository import manifest, picture, save

pytestmark = pytest.mark.tf


def test_the_lists_of_operations_do_not_overlap() -> None:
    assert IMPLICIT_OPERATIONS <= ALLOWED_OPERATIONS
    assert not ALLOWED_OPERATIONS & SAVER_OPERATIONS
    assert not {name for name in ALLOWED_OPERATIONS if "File" in name or "PyFunc" in name or "Recv" in name}


def evil(name: str) -> Callable[[Any], Any]:
    """Return a function of `image` that uses a forbidden operation."""
    import tensorflow as tf

    place = {"prefix": "/tmp/never", "tensor_names": ["x"], "shape_and_slices": [""]}

    def twice(image: Any) -> Any:
        return image * 2

    functions: dict[str, Callable[[Any], Any]] = {
        "EagerPyFunc": lambda image: tf.ensure_shape(tf.py_function(twice, [image], tf.float32), [None, None, None, 3]),
        "PyFunc": lambda image: tf.ensure_shape(tf.numpy_function(twice, [image], tf.float32), [None, None, None, 3]),
        "ReadFile": lambda image: image + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32),
        "WriteFile": lambda image: after(tf.io.write_file("/tmp/never", "x"), image),
        "MatchingFiles": lambda image: image + tf.cast(tf.size(tf.io.matching_files("/*")), tf.float32),
        "PrintV2": lambda image: after(tf.print("hello"), image),
        "SaveV2": lambda image: after(tf.raw_ops.SaveV2(tensors=[image], **place), image),
        "RestoreV2": lambda image: image + tf.raw_ops.RestoreV2(dtypes=[tf.float32], **place)[0],
    }  # fmt: skip

    def after(operation: Any, image: Any) -> Any:
        with tf.control_dependencies([operation] if operation is not None else []):
            return tf.identity(image)

    return functions[name]


@pytest.mark.parametrize(
    "operation",
    ["EagerPyFunc", "PyFunc", "ReadFile", "WriteFile", "MatchingFiles", "PrintV2", "SaveV2", "RestoreV2"],
)
def test_forbidden_operation_is_found_wherever_it_hides(runtime: Runtime, build: Build, operation: str) -> None:
    import tensorflow as tf

    inner = tf.function(evil(operation))  # one function further in than a signature
    folder = build(lambda image: tf.cond(tf.reduce_sum(image) > 1e30, lambda: inner(image), lambda: image))
    listed = manifest(operations=[*sorted(ALLOWED_OPERATIONS), operation])  # listing it in the manifest does not help
    assert f"operation {operation} is not allowed in a signature" in runtime.problems(folder, listed)
    with pytest.raises(ModelUnavailable):
        runtime.load(folder, listed)


def test_operation_must_be_listed_in_the_manifest_too(runtime: Runtime, build: Build) -> None:
    import tensorflow as tf

    folder = build(lambda image: tf.nn.relu(image) * 2)
    assert runtime.problems(folder, manifest(operations=["Mul"])) == ["operation Relu is not listed in the manifest"]
    assert runtime.problems(folder, manifest(operations=["Mul", "Relu"])) == []


def test_functions_beside_the_signatures_are_checked_as_well(runtime: Runtime, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.hidden = tf.function(
        lambda image: tf.numpy_function(lambda x: x, [image], tf.float32), input_signature=[tf.TensorSpec([1])]
    )
    module.hidden.get_concrete_function()
    folder = save(module, {"denoise": (lambda image: {"image": image * 2}, {"image": picture()})}, tmp_path / "model")
    assert "operation PyFunc is not allowed in a signature" in runtime.problems(folder, manifest())


def test_state_between_calls_is_refused(runtime: Runtime, build: Build) -> None:
    import tensorflow as tf

    seen = tf.Variable(0.0)
    folder = build(lambda image: image + seen.assign_add(tf.reduce_mean(image)), seen=seen)
    assert "operation AssignAddVariableOp is not allowed in a signature" in runtime.problems(folder, manifest())


def test_tables_and_assets_are_refused(runtime: Runtime, tmp_path: Path, build: Build) -> None:
    import tensorflow as tf

    (tmp_path / "words").write_text("a\nb\n", encoding="utf-8")
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "words"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )  # fmt: skip
    folder = build(lambda image: image + tf.cast(table.lookup(tf.constant("a")), tf.float32), table=table)
    problems = runtime.problems(folder, manifest())
    assert "assets are not allowed" in problems
    assert "an object of kind resource is not allowed" in problems
    assert "operation LookupTableFindV2 is not allowed in a signature" in problems


@contextmanager
def edited(folder: Path) -> Iterator[Any]:
    """Yield the graph of a SavedModel, and write it back as it is then."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    yield saved.meta_graphs[0]
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())


def add_function(graph: Any, name: str, operation: str) -> Any:
    """Add a function of one node to the library of a graph, and return it."""
    function = graph.graph_def.library.function.add()
    function.signature.name = name
    node = function.node_def.add()
    node.name, node.op = "inner", operation
    return function


def serving_function(graph: Any) -> Any:
    """Return the function of a graph that multiplies, which only the signature leads to."""
    functions = graph.graph_def.library.function
    return next(one for one in functions if any(node.op == "Mul" for node in one.node_def))


@pytest.mark.parametrize("operation", ["ReadFile", "PyFunc", "EagerPyFunc", "WriteFile", "Mul"])
def test_a_function_with_the_name_of_an_operation_is_refused(runtime: Runtime, build: Build, operation: str) -> None:
    folder = build(lambda image: image * 2)
    with edited(folder) as graph:
        add_function(graph, operation, "NoOp")
        serving_function(graph).node_def.add(name="call", op=operation)
    problems = runtime.problems(folder, manifest())
    assert f"function {operation} has the name of an operation" in problems
    assert (f"operation {operation} is not allowed in a signature" in problems) == (operation != "Mul")
    with pytest.raises(ModelUnavailable):
        runtime.load(folder, manifest())


@pytest.mark.parametrize("operation", ["ReadFile", "PyFunc", "WriteFile", "SaveV2"])
def test_a_function_called_like_an_operation_is_followed(runtime: Runtime, build: Build, operation: str) -> None:
    folder = build(lambda image: image * 2)
    with edited(folder) as graph:
        add_function(graph, "Brighten", "Sharpen")
        add_function(graph, "Sharpen", operation)
        serving_function(graph).node_def.add(name="call", op="Brighten")
    assert runtime.problems(folder, manifest()) == [f"operation {operation} is not allowed in a signature"]


def test_a_function_passed_to_a_function_is_followed(runtime: Runtime, build: Build) -> None:
    folder = build(lambda image: image * 2)
    with edited(folder) as graph:
        apply = add_function(graph, "Apply", "PartitionedCall")
        apply.signature.attr.add(name="what", type="func")
        apply.node_def[0].attr["f"].placeholder = "what"
        add_function(graph, "Hidden", "SaveV2")
        call = serving_function(graph).node_def.add(name="call", op="PartitionedCall")
        call.attr["f"].func.name = "Apply"
        call.attr["f"].func.attr["what"].func.name = "Hidden"
    assert runtime.problems(folder, manifest()) == ["operation SaveV2 is not allowed in a signature"]


def test_a_function_that_may_be_another_is_refused(runtime: Runtime, build: Build) -> None:
    folder = build(lambda image: image * 2)
    with edited(folder) as graph:
        add_function(graph, "Twice", "NoOp")
        add_function(graph, "Twice", "Identity")
        add_function(graph, "Replaced", "NoOp").attr["api_implements"].s = b"sharpen"
    assert runtime.problems(folder, manifest()) == [
        "function Twice is defined 2 times",
        "function Replaced may be replaced by another, which is not allowed",
    ]


def test_an_operation_that_tensorflow_does_not_have_is_refused(runtime: Runtime, build: Build) -> None:
    folder = build(lambda image: image * 2)
    with edited(folder) as graph:
        serving_function(graph).node_def.add(name="call", op="NoSuchFunction")
    assert runtime.problems(folder, manifest()) == ["operation NoSuchFunction is not allowed in a signature"]


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
def test_a_second_graph_beside_the_first_is_refused(runtime: Runtime, build: Build, name: str) -> None:
    folder = build(lambda image: image * 2)
    assert runtime.problems(folder, manifest()) == []
    (folder / name).touch()
    assert runtime.problems(folder, manifest()) == [f"{name} is not allowed beside saved_model.pb"]
    with pytest.raises(ModelUnavailable):
        runtime.load(folder, manifest())


def test_a_signature_that_reaches_the_saver_is_refused(runtime: Runtime, build: Build) -> None:
    """A graph whose signature was rewired by hand: what is allowed for saving is not allowed for serving."""
    import tensorflow as tf

    weight = tf.Variable(2.0)
    folder = build(lambda image: image * weight, weight=weight)
    assert runtime.problems(folder, manifest()) == []
    with edited(folder) as graph:
        graph.signature_def["denoise"].outputs["image"].name = graph.saver_def.restore_op_name + ":0"
    assert "operation RestoreV2 is not allowed in a signature" in runtime.problems(folder, manifest())
