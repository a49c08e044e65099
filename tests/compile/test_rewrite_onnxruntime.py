import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deploy_compile.build_onnxruntime import layers
from deploy_compile.heavy import heavy_nodes
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Ranges
from deploy_compile.rewrite_onnxruntime import rewrite
from deploy_compile.sample_files import write
from tests import toys
from tests.compile.quantized_toy import Toy, toy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(tmp_path_factory.mktemp("toy"))


def run(path: Path, images: np.ndarray, *, optimised: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


def sqnr(reference: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - found) ** 2).sum()))


@pytest.mark.parametrize("unsigned", [True, False])
def test_accuracy_is_kept(made: Toy, tmp_path: Path, unsigned: bool) -> None:
    images = np.concatenate(toys.images(8, seed=1))
    reference = run(made.fp32.path, images)
    found = run(rewrite(made.int8_cpu.path, tmp_path / "u8.onnx", made.ranges, unsigned=unsigned), images)
    assert sqnr(reference, found) > sqnr(reference, run(made.int8_cpu.path, images)) - 3


def test_every_heavy_node_runs_in_integers(made: Toy, tmp_path: Path) -> None:
    path = rewrite(made.int8_cpu.path, tmp_path / "u8.onnx", made.ranges)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert {layer.precision for layer in layers(optimised, heavy_nodes(made.fp32.path))} == {"int8"}
    assert "QLinearAdd" in {node.op_type for node in optimised.graph.node}


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    taken: Sequence[int],
    given_back: Sequence[int],
) -> Path:
    """Write a graph image -> logits of these shapes behind the batch."""
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return toys.save(path, nodes, initializers, [("image", ["batch", *taken])], [("logits", ["batch", *given_back])])


def one_conv(
    path: Path,
    scale: float,
    zero: int,
    weights: np.ndarray,
    weight_scales: np.ndarray,
    size: int,
    stride: int = 1,
    pad: int = 0,
) -> Path:
    """Write image [batch, inner, size, size] -> Q/DQ of this grid -> Conv (int8 weights) -> logits."""
    outer, inner, kernel, _ = weights.shape
    constants: dict[str, np.ndarray] = {
        "s": np.array(scale, np.float32), "z": np.array(zero, np.int8), "w": weights,
        "ws": weight_scales.astype(np.float32), "wz": np.zeros(outer, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"], "Q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "DQ"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "WDQ", axis=0),
        helper.make_node("Conv", ["d", "wd"], ["logits"], "conv", strides=[stride] * 2, pads=[pad] * 4),
    ]
    side = (size + 2 * pad - kernel) // stride + 1
    return saved(path, nodes, constants, (inner, size, size), (outer, side, side))


def picture_conv(path: Path, activations: np.ndarray, *, zero: int = 0) -> Path:
    """Write a convolution over toys' images, on the grid of symmetric S8 over `activations` moved by `zero`."""
    weights = np.random.default_rng(0).integers(-60, 60, (4, 3, 3, 3)).astype(np.int8)
    return one_conv(path, float(np.abs(activations).max()) / 127, zero, weights, np.full(4, 0.01), 16)


@settings(max_examples=40, deadline=None)
@given(
    inner=st.integers(1, 9),
    outer=st.integers(1, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    scale=st.floats(1e-3, 2.0),
    zero=st.integers(-128, 127),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_layer_on_any_grid_moves_to_u8_without_a_bit_changed(
    inner: int, outer: int, kernel: int, stride: int, scale: float, zero: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (outer, inner, kernel, kernel)).astype(np.int8)
    images = rng.normal(0, 60 * scale, (2, inner, 9, 9)).astype(np.float32)  # some saturate on every grid
    with tempfile.TemporaryDirectory() as folder:
        steps = rng.uniform(0.001, 0.1, outer)
        source = one_conv(Path(folder, "s8.onnx"), scale, zero, weights, steps, 9, stride, pad=1)
        found = rewrite(source, Path(folder, "u8.onnx"), Ranges({}, 0))
        assert types(found) >= {TensorProto.UINT8}
        np.testing.assert_array_equal(run(found, images), run(source, images))


@settings(max_examples=25, deadline=None)
@given(
    layers=st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=4),
    channels=st.integers(1, 6),
    cpu=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_network_in_s8_and_in_u8_gives_the_same_bits(
    layers: list[tuple[int, bool, bool, bool]], channels: int, cpu: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights, nodes, last = {}, [], "image"
    for number, (kernel, depthwise, relu, residual) in enumerate(layers):
        group = channels if depthwise else 1
        weights[f"w{number}"] = rng.normal(0, 0.4, (channels, channels // group, kernel, kernel)).astype(np.float32)
        pads = [(kernel - 1) // 2, (kernel - 1) // 2, kernel // 2, kernel // 2]
        nodes.append(
            helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], f"conv{number}", group=group, pads=pads)
        )
        before, last = last, f"c{number}"
        if relu:
            nodes.append(helper.make_node("Relu", [last], [f"r{number}"], f"relu{number}"))
            last = f"r{number}"
        if residual:
            nodes.append(helper.make_node("Add", [last, before], [f"a{number}"], f"add{number}"))
            last = f"a{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["logits"], "pool"))
    images = rng.standard_normal((4, channels, 8, 8)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = saved(folder / "fp32.onnx", nodes, weights, (channels, 8, 8), (channels, 1, 1))
        fp32 = Graph(path, "fp32", 3, 2, 0, {})
        write(folder / "samples", ({"image": image[None]} for image in images[:2]))
        ranges = calibrate(folder, fp32, folder / "samples", "percentile", 1)
        int8 = quantize(folder, fp32, ranges, (), "cpu" if cpu else "").path
        unsigned, signed = (rewrite(int8, folder / f"{u}.onnx", ranges, unsigned=u) for u in (True, False))
        assert TensorProto.UINT8 in types(unsigned)
        assert TensorProto.UINT8 not in types(signed)
        np.testing.assert_array_equal(run(unsigned, images), run(signed, images))


def types(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def test_a_grid_of_its_own_is_kept(tmp_path: Path) -> None:
    images = np.concatenate(toys.images(4))
    source = picture_conv(tmp_path / "s8.onnx", images, zero=5)
    found = rewrite(source, tmp_path / "u8.onnx", Ranges({}, 0))
    np.testing.assert_array_equal(run(found, images), run(source, images))


def test_activations_of_another_width_are_refused(tmp_path: Path) -> None:
    model = onnx.load(picture_conv(tmp_path / "s8.onnx", np.ones(1, np.float32)))
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "z")
    zero.CopyFrom(numpy_helper.from_array(np.array(0, np.int16), "z"))
    onnx.save(model, tmp_path / "s16.onnx")
    with pytest.raises(ValueError, match="not 8 bits wide"):
        rewrite(tmp_path / "s16.onnx", tmp_path / "u8.onnx", Ranges({}, 0))


def test_probabilities_between_integer_layers_do_not_wrap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in {"w1": (8, 3, 1), "w2": (4, 8, 1)}.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["scores"], "/one/Conv"),
        helper.make_node("Softmax", ["scores"], ["shares"], "/Softmax", axis=1),
        helper.make_node("Conv", ["shares", "w2"], ["logits"], "/two/Conv"),
    ]
    size: list[int | str] = ["batch", 3, 16]
    shape: list[int | str] = ["batch", 4, 16]
    path = toys.save(tmp_path / "fp32.onnx", nodes, weights, [("image", size)], [("logits", shape)])
    (tmp_path / "samples").mkdir()
    np.savez(tmp_path / "samples" / "000.npz", image=toys.images(1)[0][..., 0])
    fp32 = Graph(path, "fp32", 3, 2, 0, {})
    ranges = calibrate(tmp_path, fp32, tmp_path / "samples", "minmax", 1)
    clipped = replace(ranges.tensors["shares"], threshold=ranges.tensors["shares"].threshold * 0.1)
    ranges = replace(ranges, tensors={**ranges.tensors, "shares": clipped})
    made = rewrite(quantize(tmp_path, fp32, ranges, ()).path, tmp_path / "u8.onnx", ranges)
    images = np.concatenate(toys.images(4, seed=1))[..., 0]
    assert sqnr(run(made, images), run(made, images, optimised=True)) > 30
