import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy_compile import onnx_graph
from deploy_compile.quantize import quantize
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Range, Ranges
from deploy_compile.scales import DENSE_LEVELS, LEAST_SCALE, LEVELS, quantized, scales
from deploy_recipes.recipe import Keep
from deploy_runtime.errors import DeployError
from tests import toys
from tests.compile.quantized_toy import Toy, toy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(tmp_path_factory.mktemp("toy"))


def seen(largest: float) -> Range:
    return Range(-largest, largest, largest, 0.0, "minmax")


def constants(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def answer(path: Path, **inputs: np.ndarray) -> np.ndarray:
    (found,) = ReferenceEvaluator(str(path)).run(None, inputs)
    return np.asarray(found)


def matmul(path: Path, op: str, weight: np.ndarray, wide: int, **attributes: Any) -> Graph:
    toys.save(
        path,
        [helper.make_node(op, ["x", "w"], ["y"], "/heavy", **attributes)],
        [numpy_helper.from_array(weight, "w")],
        inputs=[("x", ["batch", weight.shape[1 if attributes.get("transB") else 0]])],
        outputs=[("y", ["batch", wide])],
    )
    return Graph(path, "fp32", 1, 1, 0, {})


@given(st.floats(0, 1e7, width=32), st.sampled_from([DENSE_LEVELS, LEVELS]))
def test_scales_are_fp16_exact_never_zero_and_never_round_down(largest: float, levels: int) -> None:
    scale = scales(np.array(largest), levels)
    assert scale > 0
    if np.isfinite(scale):
        assert np.float32(np.float16(scale)) == scale
        assert largest == 0 or scale * levels >= largest
        assert scale <= max(largest / levels * (1 + 2**-4), LEAST_SCALE) or largest == 0
    else:
        assert largest > 65504 * levels * (1 - 2**-10)


def test_dead_tiny_and_infinite_channels_get_usable_scales() -> None:
    found = scales(np.array([0.0, 1e-30, 1e-4, np.inf]), LEVELS)
    assert found[0] == 1.0
    assert found[1] == LEAST_SCALE
    assert 1e-4 / LEVELS <= found[2] < 1.1e-4 / LEVELS or found[2] == LEAST_SCALE
    assert np.isinf(found[3])


@given(st.integers(0, 2**31), st.sampled_from([0, 1]))
def test_weights_stay_within_half_a_step(seed: int, axis: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
    scale = scales(np.abs(weight).max(axis=1 - axis), DENSE_LEVELS)
    stored = quantized(weight, scale, axis)
    assert np.abs(stored.astype(int)).max() <= DENSE_LEVELS
    step = scale[:, None] if axis == 0 else scale
    assert np.all(np.abs(stored * step - weight) <= 0.5001 * step)


def test_the_form_that_tensorrt_takes(made: Toy) -> None:
    model = onnx.load(made.int8.path)
    links = onnx_graph.links(model)
    values = constants(made.int8.path)
    assert (made.int8.heavy, made.int8.quantized, dict(made.int8.kept_float)) == (4, 4, {})
    ops = [node.op_type for node in model.graph.node]
    assert (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) == (4, 8)
    for node in onnx_graph.heavy_nodes(model):
        data, weight = (links.producers[name] for name in node.input[:2])
        assert {data.op_type, weight.op_type} == {"DequantizeLinear"}
        assert links.producers[data.input[0]].op_type == "QuantizeLinear"
        assert values[data.input[2]].dtype == values[weight.input[0]].dtype == np.int8
        assert values[data.input[2]] == 0
        assert values[data.input[1]].shape == ()
        assert values[weight.input[1]].shape == (values[weight.input[0]].shape[0],)
        assert values[node.input[2]].dtype == np.float32  # the bias


def test_one_pair_serves_every_reader_of_a_tensor(tmp_path: Path) -> None:
    weight = np.eye(4, dtype=np.float32)
    path = toys.save(
        tmp_path / "fp32.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], "/a"),
            helper.make_node("MatMul", ["x", "w"], ["b"], "/b"),
            helper.make_node("Add", ["a", "x"], ["c"], "/c"),
            helper.make_node("Add", ["b", "c"], ["y"], "/d"),
        ],
        [numpy_helper.from_array(weight, "w")],
        inputs=[("x", ["batch", 4])],
        outputs=[("y", ["batch", 4])],
    )
    made = quantize(tmp_path, Graph(path, "fp32", 4, 2, 0, {}), Ranges({"x": seen(1.0)}, 1), ())
    model = onnx.load(made.path)
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 1
    assert [node.op_type for node in model.graph.node].count("DequantizeLinear") == 2
    assert model.graph.node[-2].input[1] == "x"  # the residual stays float


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "axis"),
    [("Gemm", (6, 4), {"transB": 1}, 0), ("Gemm", (4, 6), {}, 1), ("MatMul", (4, 6), {}, 1)],
)
def test_scales_follow_the_output_channels(
    tmp_path: Path, op: str, shape: tuple[int, int], attributes: dict[str, int], axis: int
) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = matmul(tmp_path / "fp32.onnx", op, weight, 6, **attributes)
    made = quantize(tmp_path, graph, Ranges({"x": seen(3.0)}, 1), ())
    node = next(n for n in onnx.load(made.path).graph.node if n.name.startswith("w_"))
    assert onnx_graph.attribute(node, "axis", -9) == axis
    assert constants(made.path)["w_scale"].shape == (6,)


def test_transposed_convolutions_have_their_channels_on_axis_1(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 6, 2, 2)).astype(np.float32)
    path = toys.save(
        tmp_path / "fp32.onnx",
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "/up", strides=[2, 2])],
        [numpy_helper.from_array(weight, "w")],
        inputs=[("x", ["batch", 4, 8, 8])],
        outputs=[("y", ["batch", 6, 16, 16])],
    )
    made = quantize(tmp_path, Graph(path, "fp32", 1, 1, 0, {}), Ranges({"x": seen(1.0)}, 1), ())
    assert constants(made.path)["w_scale"].shape == (6,)


def test_numbers_are_those_of_the_definition(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weight, x = rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal((9, 4)).astype(np.float32)
    graph = matmul(tmp_path / "fp32.onnx", "MatMul", weight, 6)
    made = quantize(tmp_path, graph, Ranges({"x": seen(1.5)}, 1), ())
    step = scales(np.array(1.5), LEVELS)
    steps = scales(np.abs(weight).max(axis=0), DENSE_LEVELS)
    wanted = (np.clip(np.rint(x / step), -128, 127) * step) @ (np.rint(weight / steps) * steps)
    np.testing.assert_allclose(answer(made.path, x=x), wanted, rtol=1e-5, atol=1e-5)


def test_the_toy_still_says_what_it_said(made: Toy) -> None:
    for image in toys.images(4, seed=9):
        wanted, got = answer(made.fp32.path, image=image), answer(made.int8.path, image=image)
        assert np.sum(wanted**2) / np.sum((got - wanted) ** 2) > 10**2.5  # 25 dB


def test_dense_weights_fit_16_bit_sums_and_depthwise_ones_use_all_levels(made: Toy) -> None:
    values = constants(made.int8.path)
    assert np.abs(values["w0_quantized"].astype(int)).max() == DENSE_LEVELS
    assert np.abs(values["w1_quantized"].astype(int)).max() == LEVELS


def test_kept_nodes_stay_float_with_their_reason(made: Toy, tmp_path: Path) -> None:
    kept = quantize(tmp_path, made.fp32, made.ranges, (Keep("/head*", "softmax head"), Keep("*/Conv", "try"))[:1])
    assert dict(kept.kept_float) == {"/head/Gemm": "softmax head"}
    assert kept.quantized == 3
    gemm = onnx_graph.heavy_nodes(onnx.load(kept.path))[-1]
    assert list(gemm.input) == ["f", "w3", "b3"]


def test_a_glob_that_matches_nothing_is_an_error(made: Toy, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"'blocks\.9' matches no"):
        quantize(tmp_path, made.fp32, made.ranges, (Keep("blocks.9", "typo"),))


@pytest.mark.parametrize(("largest", "reason"), [(0.0, "zero in every"), (1e8, "too large for an fp16 scale")])
def test_what_cannot_be_quantized_stays_float_and_says_why(
    made: Toy, tmp_path: Path, largest: float, reason: str
) -> None:
    ranges = replace(made.ranges, tensors={**made.ranges.tensors, "f": seen(largest)})
    kept = quantize(tmp_path, made.fp32, ranges, ()).kept_float
    assert list(kept) == ["/head/Gemm"]
    assert reason in kept["/head/Gemm"]


def test_names_never_collide(tmp_path: Path) -> None:
    path = toys.save(
        tmp_path / "fp32.onnx",
        [
            helper.make_node("Identity", ["x"], ["x_quantized"], "x_scale"),
            helper.make_node("MatMul", ["x_quantized", "w"], ["x_quantized_quantized"], "/a"),
            helper.make_node("MatMul", ["x_quantized_quantized", "w"], ["y"], "/b"),
        ],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
        inputs=[("x", ["batch", 4])],
        outputs=[("y", ["batch", 4])],
    )
    tensors = {"x_quantized": seen(1.0), "x_quantized_quantized": seen(1.0)}
    made = quantize(tmp_path, Graph(path, "fp32", 3, 2, 0, {}), Ranges(tensors, 1), ())
    nodes = onnx.load(made.path).graph.node
    outputs = [name for node in nodes for name in node.output]
    assert len(set(outputs)) == len(outputs)
    assert len({node.name for node in nodes}) == len(nodes)


def test_the_tensorrt_parser_takes_the_graph(made: Toy) -> None:
    program = """
import sys, tensorrt_rtx as trt
log = trt.Logger(trt.Logger.ERROR)
network = trt.Builder(log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, log)
ok = parser.parse_from_file(sys.argv[1])
print([parser.get_error(i).desc() for i in range(parser.num_errors)])
sys.exit(0 if ok else 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(made.int8.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
