"""The first convolution over blocks of pixels: the same sums, and only where a picture comes from outside."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deploy_compile import session
from deploy_compile.fold_strides import fold_strides
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.rewrite_onnxruntime import rewrite
from deploy_runtime.spec import Batch

OUTPUTS = 5


def picture(
    kernel: Sequence[int] = (3, 3),
    pads: Sequence[int] = (1, 1, 1, 1),
    size: Sequence[int] = (12, 10),
    *,
    channels: int = 3,
    stride: int = 2,
    dilation: int = 1,
    quantized: bool = True,
    before: str = "Reshape",
) -> onnx.ModelProto:
    """Return a graph x [1, batch, channels, *size] -> (moved) -> Conv -> y, of small integers."""
    random = np.random.default_rng(7)
    weight = random.integers(-9, 10, (OUTPUTS, channels, *kernel)).astype(np.int8 if quantized else np.float32)
    constants = {
        "w": weight, "b": random.integers(-9, 10, OUTPUTS).astype(np.float32),
        "shape": np.array([-1, channels, *size], np.int64),
        "scale": np.ones(OUTPUTS, np.float32), "zero": np.zeros(OUTPUTS, np.int8),
    }  # fmt: skip
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["frames"], "/frames")]
    nodes += [helper.make_node(before, ["frames"], ["p"], "/before")] if before != "Reshape" else []
    nodes += [helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["dw"], "/w", axis=0)] * quantized
    source = "frames" if before == "Reshape" else "p"
    window: dict[str, Any] = {
        "kernel_shape": kernel,
        "pads": pads,
        "strides": [stride] * 2,
        "dilations": [dilation] * 2,
    }
    nodes.append(helper.make_node("Conv", [source, "dw" if quantized else "w", "b"], ["y"], "/stem", **window))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "batch", channels, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def answer(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    with session.opened(model, 1, optimised=False) as opened:
        return np.asarray(opened.run(None, {"x": x})[0])


@st.composite
def stems(draw: st.DrawFn) -> onnx.ModelProto:
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    pads = [draw(st.integers(0, length - 1)) for length in (*kernel, *kernel)]
    size = [2 * draw(st.integers(4, 7)) for _ in kernel]
    return picture(kernel, pads, size, channels=draw(st.integers(1, 4)))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(stems())
def test_the_sums_are_the_same_integers(model: onnx.ModelProto) -> None:
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(3).integers(-128, 128, shape).astype(np.float32)
    before = answer(model, x)
    origin = fold_strides(model)
    onnx.checker.check_model(model, full_check=True)
    assert set(origin.values()) <= {"frames"}
    assert Counter(node.op_type for node in model.graph.node)["SpaceToDepth"] == len(origin)
    assert np.array_equal(answer(model, x), before)


@pytest.mark.parametrize("kernel", [3, 7])
def test_the_usual_stems_are_folded(kernel: int) -> None:
    model = picture([kernel] * 2, [kernel // 2] * 4)
    assert list(fold_strides(model).values()) == ["frames"]
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    assert stem.name == "/stem"
    window = {attribute.name: list(attribute.ints) for attribute in stem.attribute}
    assert window["kernel_shape"] == [(kernel + 1) // 2] * 2
    assert window["strides"] == [1, 1]


@pytest.mark.parametrize(
    "how",
    [{"stride": 1}, {"stride": 3}, {"dilation": 2}, {"size": (12, 9)}, {"channels": 5}, {"quantized": False},
     {"before": "Relu"}],
)  # fmt: skip
def test_what_is_left_alone(how: dict[str, Any]) -> None:
    model = picture(**how)
    before = model.SerializeToString()
    assert not fold_strides(model)
    assert model.SerializeToString() == before


@pytest.fixture
def int8(tmp_path: Path) -> tuple[Graph, Graph, Path]:
    """A float graph, the same quantized, and the folder of samples that set its ranges."""
    model = picture([7, 7], [3] * 4, (32, 32), quantized=False)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))
    model.graph.node.append(helper.make_node("Relu", ["y"], ["r"], "/relu"))
    pool: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    model.graph.node.append(helper.make_node("MaxPool", ["r"], ["z"], "/pool", **pool))
    folder = tmp_path / "samples"
    folder.mkdir()
    onnx.save(model, tmp_path / "fp32.onnx")
    for index in range(4):
        np.savez(folder / f"{index:03}.npz", x=samples(index))
    fp32 = Graph(tmp_path / "fp32.onnx", "fp32", len(model.graph.node), 1, 0, {})
    ranges = calibrate(tmp_path, fp32, folder, "minmax", 1)
    return fp32, quantize(tmp_path, fp32, ranges, (), "cpu"), folder


def samples(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 1, 3, 32, 32)).astype(np.float32)


def test_a_picture_is_quantized_once_and_convolved_in_integers(int8: tuple[Graph, Graph, Path], tmp_path: Path) -> None:
    fp32, quantized, folder = int8
    ranges = calibrate(tmp_path, fp32, folder, "minmax", 1)
    plain = rewrite(quantized.path, tmp_path / "plain.onnx", ranges)
    folded = rewrite(quantized.path, tmp_path / "folded.onnx", ranges, batch=Batch(1, 1, 1))
    kinds = [Counter(node.op_type for node in onnx.load(path).graph.node) for path in (plain, folded)]
    assert [kind["SpaceToDepth"] for kind in kinds] == [0, 1]
    assert kinds[1]["QuantizeLinear"] == 2  # of the blocks, and of what comes of them
    optimised, answers = tmp_path / "optimised.onnx", []
    for path in (plain, folded):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(optimised)
        opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        answers.append(opened.run(None, {"x": samples(9)})[0])
        assert "QLinearConv" in {node.op_type for node in onnx.load(optimised).graph.node}
    assert np.array_equal(*answers)
