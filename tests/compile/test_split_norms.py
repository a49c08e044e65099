"""Normalisations from means in two steps: the same numbers, near fp64 as PyTorch is, fp32 where fp16 would fail."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy_compile import onnx_graph
from deploy_compile.cast import cast
from deploy_compile.emulate import emulate
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.split_norms import LEAST_VALUES, STAYS_FP32, split_norms
from tests import toys

EPSILON = 1e-3  # large enough to see that it is there
GROUPS = 2
LONG = 16 * 512 * 256  # values of one group, where the plain operator is two digits worse
MOST_TIMES_TORCH = 4.0


def normalisation(
    path: Path, shape: Sequence[int], *, plain: bool = False, epsilon: float = EPSILON
) -> onnx.ModelProto:
    """Write x [batch, *shape] -> InstanceNormalization with scale and bias, or with ones and zeros where `plain`."""
    rng = np.random.default_rng(0)
    scale = np.ones(shape[0]) if plain else rng.uniform(0.5, 1.5, shape[0])
    bias = np.zeros(shape[0]) if plain else rng.normal(0, 0.5, shape[0])
    weights = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in (("scale", scale), ("bias", bias))]
    node = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], "/norm", epsilon=epsilon)
    return onnx.load(toys.save(path, [node], weights, [("x", ["batch", *shape])], [("y", ["batch", *shape])]))


def values(shape: Sequence[int], mean: float = 5.0, spread: float = 3.0, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(mean, spread, (batch, *shape)).astype(np.float32)


def exact(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Compute the one node of a graph that `normalisation` made, in fp64."""
    scale, bias = (torch.from_numpy(numpy_helper.to_array(t).astype(np.float64)) for t in model.graph.initializer)
    epsilon = model.graph.node[0].attribute[0].f
    normed = torch.nn.functional.instance_norm(torch.from_numpy(x).double(), weight=scale, bias=bias, eps=epsilon)
    return np.asarray(normed)


def on_onnxruntime(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def on_openvino(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    import openvino  # type: ignore[import-untyped]

    core = openvino.Core()
    read = core.read_model(model.SerializeToString())
    return np.array(core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[0])


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(3, LEAST_VALUES), (3, 16411), (3, 96, 256), (2, 5, 64, 96)],
    ids=["flat", "a prime number", "image", "clip"],
)
def test_the_same_number(tmp_path: Path, shape: tuple[int, ...], plain: bool) -> None:
    model, x = normalisation(tmp_path / "g.onnx", shape, plain=plain), values(shape)
    wanted = exact(model, x)
    assert split_norms(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert "InstanceNormalization" not in {node.op_type for node in model.graph.node}
    assert model.graph.node[-1].name == "/norm"
    names = [node.name for node in model.graph.node]
    read = {name for node in model.graph.node for name in node.input}
    assert len(set(names)) == len(names)
    assert {tensor.name for tensor in model.graph.initializer} <= read
    given = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(given, list)
    assert np.abs(given[0] - wanted).max() < 1e-5
    assert np.abs(on_onnxruntime(model, x) - wanted).max() < 1e-5
    assert split_norms(model) == 0  # and no second time


def test_several_share_their_constants(tmp_path: Path) -> None:
    shape: list[int | str] = ["batch", 3, 128, 128]
    ones, zeros = (numpy_helper.from_array(np.full(3, v, np.float32), n) for v, n in ((1, "scale"), (0, "bias")))
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["a"], "/0/norm"),
        helper.make_node("InstanceNormalization", ["a", "scale", "bias"], ["y"], "/1/norm", epsilon=1e-6),
    ]
    model = onnx.load(toys.save(tmp_path / "g.onnx", nodes, [ones, zeros], [("x", shape)], [("y", shape)]))
    assert split_norms(model) == 2
    onnx.checker.check_model(model, full_check=True)
    shared = [tensor.name for tensor in model.graph.initializer if tensor.name.startswith("split_norms/")]
    assert sorted(shared) == [f"split_norms/{what}" for what in ("-1", "1e-05", "1e-06", "2", "3")]


def test_short_or_unknown_ones_are_left_alone(tmp_path: Path) -> None:
    assert split_norms(normalisation(tmp_path / "short.onnx", (3, 64, 64))) == 0
    open_ended = normalisation(tmp_path / "open.onnx", (3, 128, 256))
    for value in (*open_ended.graph.input, *open_ended.graph.output):
        value.type.tensor_type.shape.dim[3].dim_param = "width"
    assert split_norms(open_ended) == 0
    styled = normalisation(tmp_path / "styled.onnx", (3, 128, 256))
    styled.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [3]))
    del styled.graph.initializer[0]
    assert split_norms(styled) == 0


@pytest.mark.parametrize("run", [on_onnxruntime, on_openvino])
@pytest.mark.parametrize(("shape", "better"), [((GROUPS, LONG), 20), ((8, 512, 512), 3)], ids=["group", "image"])
def test_as_near_to_fp64_as_pytorch(
    tmp_path: Path, run: Callable[[onnx.ModelProto, np.ndarray], np.ndarray], shape: tuple[int, ...], better: float
) -> None:
    model, x = normalisation(tmp_path / "g.onnx", shape, plain=True), values(shape, batch=1)
    wanted = exact(model, x)
    torchs = torch.nn.functional.group_norm(torch.from_numpy(x), shape[0], eps=EPSILON).numpy()
    before = np.abs(run(model, x) - wanted).max()
    assert split_norms(model) == 1
    after = np.abs(run(model, x) - wanted).max()
    assert after < MOST_TIMES_TORCH * np.abs(torchs - wanted).max()
    assert after < before / better


@pytest.mark.parametrize(
    ("mean", "spread", "least_db"),
    [(50.0, 1.0, 62.0), (0.0, 1e-3, 62.0), (100.0, 600.0, 62.0)],
    ids=["mean far from zero", "squares below fp16", "squares beyond fp16"],
)
def test_mean_and_variance_stay_fp32_in_an_fp16_graph(
    tmp_path: Path, mean: float, spread: float, least_db: float
) -> None:
    """With all of it in fp16 the first two give 50 and 60 dB, and the squares of the third are Inf."""
    shape = (GROUPS, 16, 1024)
    model = normalisation(tmp_path / "g.onnx", shape, epsilon=1e-5)
    x = values(shape, mean, spread, batch=1).astype(np.float16).astype(np.float32)
    wanted = exact(model, x)
    assert split_norms(model) == 1
    (tmp_path / "samples").mkdir()
    np.savez(tmp_path / "samples" / "0.npz", x=x)
    graph = Graph(onnx_graph.save(model, tmp_path / "fp32.onnx"), "fp32", len(model.graph.node), 0, 0, {})
    half = cast(tmp_path, graph, calibrate(tmp_path, graph, tmp_path / "samples", "minmax", 1), "fp16")
    noted = {node.name for node in model.graph.node if node.doc_string.startswith(STAYS_FP32)}
    assert set(half.kept_float) == noted
    assert "/norm" not in noted  # what touches every value once more is fp16
    error = emulate(half.path, tmp_path / "samples", None, 1)["y"] - wanted
    assert 10 * np.log10(np.square(wanted).sum() / np.square(error).sum()) > least_db
