from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy_compile import onnx_graph
from deploy_compile.cast import LARGEST, cast
from deploy_compile.promises import interface
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Range, Ranges
from deploy_compile.retype import half
from deploy_recipes.recipe import Keep
from deploy_runtime.errors import DeployError
from tests import toys
from tests.compile.quantized_toy import Toy, toy

NODE = helper.make_node
EYE = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(tmp_path_factory.mktemp("toy"))


def small(tmp_path: Path, nodes: Sequence[onnx.NodeProto], weights: Sequence[TensorProto], *outputs: str) -> Graph:
    shapes: list[tuple[str, Sequence[int | str]]] = [(name, ["batch", 4]) for name in outputs]
    path = toys.save(tmp_path / "fp32.onnx", nodes, weights, inputs=[("x", ["batch", 4])], outputs=shapes)
    return Graph(path, "fp32", len(nodes), 0, 0, {})


def reaching(**largest: float) -> Ranges:
    return Ranges({name: Range(-most, most, most, 0.0, "minmax") for name, most in largest.items()}, 1)


def types(path: Path) -> dict[str, int]:
    return {name: kind for name, (kind, _) in onnx_graph.inferred(onnx.load(path)).items()}


def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, inputs)]


def test_everything_but_inputs_and_outputs_is_fp16(made: Toy, tmp_path: Path) -> None:
    graph = cast(tmp_path, made.fp32, made.ranges, "fp16")
    assert (graph.precision, dict(graph.kept_float)) == ("fp16", {})
    assert interface(graph.path) == interface(made.fp32.path)
    found = types(graph.path)
    assert {name for name, kind in found.items() if kind == TensorProto.FLOAT} == {"image", "logits"}
    image = toys.images(1)[0]
    np.testing.assert_allclose(
        run(graph.path, image=image)[0], run(made.fp32.path, image=image)[0], rtol=0.02, atol=0.01
    )


def test_what_a_recipe_keeps_is_computed_in_fp32(tmp_path: Path) -> None:
    nodes = [NODE("MatMul", ["x", "w"], ["a"], "/body"), NODE("Softmax", ["a"], ["y"], "/head/Softmax")]
    fp32 = small(tmp_path, nodes, [EYE], "y")
    graph = cast(tmp_path, fp32, reaching(), "fp16", [Keep("/head/*", "all but even probabilities")])
    assert dict(graph.kept_float) == {"/head/Softmax": "all but even probabilities"}
    halves = {name for name, kind in types(graph.path).items() if kind == TensorProto.FLOAT16}
    read = {node.name: node.input[0] for node in onnx.load(graph.path).graph.node}
    assert read["/head/Softmax"] not in halves
    assert read["/body"] in halves
    with pytest.raises(DeployError, match=r"keep_fp32 '/tail/\*' matches no float node of the graph"):
        cast(tmp_path, fp32, reaching(), "fp16", [Keep("/tail/*", "never")])


def test_the_int8_graph_keeps_its_pairs_and_its_scales_exactly(made: Toy, tmp_path: Path) -> None:
    graph = cast(tmp_path, made.int8, made.ranges, "int8_fp16")
    before, after = onnx.load(made.int8.path), onnx.load(graph.path)
    for op in ("QuantizeLinear", "DequantizeLinear"):
        assert sum(n.op_type == op for n in before.graph.node) == sum(n.op_type == op for n in after.graph.node)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    for tensor in before.graph.initializer:
        if tensor.name.endswith("_scale"):
            assert stored[tensor.name].dtype == np.float16
        if tensor.name.endswith(("_scale", "_quantized", "_zero_point")):
            assert np.array_equal(stored[tensor.name].astype(np.float32), numpy_helper.to_array(tensor))
    assert (graph.quantized, graph.heavy) == (4, 4)


def test_nodes_out_of_range_stay_fp32_with_reason_and_value(tmp_path: Path) -> None:
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"], "/a"), NODE("Exp", ["a"], ["b"], "/b"),
        NODE("Log", ["b"], ["c"], "/c"), NODE("MatMul", ["c", "w"], ["y"], "/d"),
    ]  # fmt: skip
    graph = cast(tmp_path, small(tmp_path, nodes, [EYE], "y"), reaching(x=12, a=12, b=162754.8, c=12, y=12), "fp16")
    assert set(graph.kept_float) == {"/b", "/c"}
    assert "b reaches 1.628e+05" in graph.kept_float["/b"]
    found = types(graph.path)
    assert found["b"] == TensorProto.FLOAT
    assert found["a"] == TensorProto.FLOAT16
    assert sum(node.op_type == "Cast" for node in onnx.load(graph.path).graph.node) == 4  # in, to /b, from /c, out
    x = np.full((2, 4), 12, np.float32)
    np.testing.assert_allclose(run(graph.path, x=x)[0], x, rtol=1e-3)


def test_a_weight_out_of_range_keeps_its_node_and_is_not_clipped(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.full(4, 3.0e4, np.float32), "big")
    graph = cast(
        tmp_path, small(tmp_path, [NODE("Mul", ["x", "big"], ["y"], "/m")], [weight], "y"), reaching(x=1, y=1), "fp16"
    )
    assert list(graph.kept_float) == ["/m"]
    assert run(graph.path, x=np.ones((1, 4), np.float32))[0][0, 0] == 3.0e4 > LARGEST


def test_an_output_that_is_read_inside_stays_fp32_under_its_name(tmp_path: Path) -> None:
    nodes = [NODE("MatMul", ["x", "w"], ["features"], "/a"), NODE("MatMul", ["features", "w"], ["y"], "/b")]
    graph = cast(tmp_path, small(tmp_path, nodes, [EYE], "features", "y"), reaching(), "fp16")
    x = np.arange(4, dtype=np.float32)[None]
    assert all(np.array_equal(value, x) and value.dtype == np.float32 for value in run(graph.path, x=x))


def test_a_weight_shared_with_a_kept_node_exists_in_both_types(tmp_path: Path) -> None:
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"], "/a"),
        NODE("MatMul", ["a", "w"], ["b"], "/b"),
        NODE("MatMul", ["b", "w"], ["y"], "/c"),
    ]
    graph = cast(tmp_path, small(tmp_path, nodes, [EYE], "y"), reaching(b=1e5), "fp16")
    assert set(graph.kept_float) == {"/b", "/c"}
    assert {types(graph.path)[name] for name in ("w", "w_fp32")} == {TensorProto.FLOAT, TensorProto.FLOAT16}
    x = np.arange(4, dtype=np.float32)[None]
    assert np.array_equal(run(graph.path, x=x)[0], x)


def test_an_integer_cast_to_float_becomes_a_cast_to_fp16(tmp_path: Path) -> None:
    nodes = [
        NODE("Shape", ["x"], ["s"], "/s"), NODE("Cast", ["s"], ["c"], "/c", to=TensorProto.FLOAT),
        NODE("ReduceMax", ["c"], ["m"], "/m", keepdims=0), NODE("Mul", ["x", "m"], ["y"], "/y"),
    ]  # fmt: skip
    graph = cast(tmp_path, small(tmp_path, nodes, [], "y"), reaching(), "fp16")
    assert run(graph.path, x=np.ones((1, 4), np.float32))[0][0, 0] == 4.0


def test_an_operator_that_onnx_defines_for_fp32_only_stays(tmp_path: Path) -> None:
    """Resize reads its scales in fp32 and its image in any type."""
    scales = numpy_helper.from_array(np.array([1, 2], np.float32), "scales")
    nodes = [NODE("Resize", ["x", "", "scales"], ["r"], "/r"), NODE("Slice", ["r", "a", "b", "axis"], ["y"], "/s")]
    ends = [numpy_helper.from_array(np.array([at], np.int64), name) for name, at in (("a", 0), ("b", 4), ("axis", 1))]
    graph = cast(tmp_path, small(tmp_path, nodes, [scales, *ends], "y"), reaching(), "fp16")
    assert types(graph.path)["r"] == TensorProto.FLOAT16
    assert types(graph.path)["scales"] == TensorProto.FLOAT
    assert np.array_equal(run(graph.path, x=np.array([[1, 2, 3, 4]], np.float32))[0], [[1, 1, 2, 2]])


def test_a_body_stays_fp32_and_reads_what_it_captures(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    yes = helper.make_graph([NODE("Mul", ["a", "a"], ["t"], "/t")], "yes", [], [value("t", TensorProto.FLOAT, None)])
    no = helper.make_graph([NODE("Add", ["a", "w"], ["n"], "/n")], "no", [], [value("n", TensorProto.FLOAT, None)])
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"], "/a"),
        NODE("If", ["flag"], ["b"], "/if", then_branch=yes, else_branch=no),
        NODE("MatMul", ["b", "w"], ["c"], "/c"), NODE("Add", ["a", "c"], ["y"], "/y"),
    ]  # fmt: skip
    flag = numpy_helper.from_array(np.array(True), "flag")
    graph = cast(tmp_path, small(tmp_path, nodes, [EYE, flag], "y"), reaching(), "fp16")
    assert list(graph.kept_float) == ["/if"]
    assert run(graph.path, x=np.full((1, 4), 3, np.float32))[0][0, 0] == 12.0


def test_tiny_constants_do_not_become_zero_and_infinity_stays() -> None:
    values = np.array([0.0, 1e-12, -1e-12, 1e-7, 1.0, -np.inf], np.float32)
    found = half(values)
    assert found[0] == 0.0
    assert found[1] == -found[2] == 2.0**-24
    assert found[3] == np.float16(1e-7)
    assert found[5] == -np.inf


def test_casting_warns_of_nothing_and_names_stay_unique(made: Toy, tmp_path: Path) -> None:
    graph = cast(tmp_path, made.int8, made.ranges, "int8_fp16")  # a warning would be an error here
    names = [node.name for node in onnx.load(graph.path).graph.node]
    assert len(set(names)) == len(names) == graph.nodes
    onnx.checker.check_model(str(graph.path), full_check=True)
