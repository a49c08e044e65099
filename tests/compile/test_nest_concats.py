"""Nested Concats: the same numbers whatever is joined, fewer operands in a dense block, others left alone."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from deploy_compile.nest_concats import nest_concats
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.rewrite_openvino import rewrite
from deploy_compile.switches import switched
from tests import toys

FEATURES, SIDE, LAYERS = 12, 4, 8
LEAST_DB = 40.0  # of OpenVINO against the graph as it is written


def joins(concats: list[tuple[int, list[int]]]) -> onnx.ModelProto:
    """FEATURES tensors [1, 1, SIDE, SIDE] made of one input, and Concats of some of them, each an output."""
    factors = [numpy_helper.from_array(np.array(index + 1, np.float32), f"k{index}") for index in range(FEATURES)]
    nodes = [helper.make_node("Mul", ["x", f"k{index}"], [f"f{index}"], f"/mul{index}") for index in range(FEATURES)]
    outputs = []
    for number, (axis, picked) in enumerate(concats):
        nodes.append(helper.make_node("Concat", [f"f{index}" for index in picked], [f"y{number}"], axis=axis))
        shape = [1, 1, SIDE, SIDE]
        shape[axis] *= len(picked)
        outputs.append(helper.make_tensor_value_info(f"y{number}", onnx.TensorProto.FLOAT, shape))
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, SIDE, SIDE])
    graph = helper.make_graph(nodes, "joins", [given], outputs, factors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def operands(model: onnx.ModelProto) -> int:
    return sum(len(node.input) for node in model.graph.node if node.op_type == "Concat")


def answers(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 1, SIDE, SIDE)).astype(np.float32)
    return [np.asarray(answer) for answer in session.run(None, {"x": x})]


one_concat = st.tuples(st.integers(0, 3), st.lists(st.integers(0, FEATURES - 1), min_size=1, max_size=FEATURES))


@settings(max_examples=60, deadline=None)
@given(st.lists(one_concat, min_size=1, max_size=6), st.lists(st.integers(1, FEATURES), max_size=6), st.integers(1, 3))
def test_every_graph_answers_as_before(odd: list[tuple[int, list[int]]], grown: list[int], axis: int) -> None:
    model = joins(odd + [(axis, list(range(count))) for count in grown])
    before, many = answers(model), operands(model)
    made = nest_concats(model)
    onnx.checker.check_model(model, full_check=True)
    for wanted, found in zip(before, answers(model), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (operands(model) < many) == (made > 1) or made == 1  # one run that two share: as many operands as before


def test_a_growing_block_joins_each_run_once() -> None:
    model = joins([(1, list(range(count))) for count in range(2, FEATURES + 1)])
    assert operands(model) == sum(range(2, FEATURES + 1))
    assert nest_concats(model) == 4  # f0-f2, f3-f5 and f6-f8, and those three
    assert all(len(node.input) <= 4 for node in model.graph.node if node.op_type == "Concat")


def test_what_shares_no_run_is_left_alone() -> None:
    for concats in ([(1, [0, 1, 2, 3, 4])], [(1, [0, 1, 2, 3]), (2, [0, 1, 2, 3])], [(0, [0, 1, 2, 3])] * 2):
        model = joins(concats)
        before = model.SerializeToString()
        assert nest_concats(model) == 0
        assert model.SerializeToString() == before


def dense(folder: Path) -> tuple[Path, Path]:
    """A dense block of LAYERS, quantized for CPUs: each joins all features before it. The fp32 graph and the other."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32), name)

    nodes = [helper.make_node("Conv", ["image", "stem"], ["f0"], "/stem/Conv", pads=[1] * 4)]
    weights = [weight("stem", 8, 3, 3, 3)]
    for layer in range(1, LAYERS + 1):
        many = 8 * layer
        weights += [weight(f"w{layer}", 8, many, 1, 1), weight(f"g{layer}", 1, many, 1, 1)]
        nodes += [
            helper.make_node("Concat", [f"f{index}" for index in range(layer)], [f"c{layer}"], f"/{layer}/Cat", axis=1),
            helper.make_node("Mul", [f"c{layer}", f"g{layer}"], [f"m{layer}"], f"/{layer}/Mul"),
            helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"], f"/{layer}/Relu"),
            helper.make_node("Conv", [f"r{layer}", f"w{layer}"], [f"f{layer}"], f"/{layer}/Conv"),
        ]
    nodes.append(helper.make_node("Identity", [f"f{LAYERS}"], ["logits"], "/out"))
    path = toys.save(
        folder / "fp32.onnx", nodes, weights, [("image", ["batch", 3, 16, 16])], [("logits", ["batch", 8, 16, 16])]
    )
    samples = folder / "samples"
    samples.mkdir()
    for index, image in enumerate(toys.images(4)):
        np.savez(samples / f"{index:03}.npz", image=image)
    fp32 = Graph(path, "fp32", len(nodes), len(weights), 0, {})
    return path, quantize(folder, fp32, calibrate(folder, fp32, samples, "minmax", 1), (), "cpu").path


def run(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


def test_a_quantized_dense_block_is_computed_and_diagnosed_as_it_is_written(tmp_path: Path) -> None:
    import openvino  # type: ignore[import-untyped]

    fp32, source = dense(tmp_path)
    made = rewrite(source, tmp_path / "model.onnx")
    assert operands(onnx.load(made)) < operands(onnx.load(source))
    image = toys.images(1, seed=1)[0]
    wanted = run(source, image)
    np.testing.assert_array_equal(run(made, image), wanted)
    model = openvino.Core().read_model(made)
    model.reshape(
        [1, 3, 16, 16]
    )  # with a batch left open it answers zeros here, nested or not (2026.4): parity's to see
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    noise = np.square(np.asarray(compiled({"image": image})[0]) - wanted).sum()
    assert 10 * np.log10(np.square(wanted).sum() / max(noise, 1e-30)) > LEAST_DB
    with switched(fp32, made, 1) as opened:
        assert len(opened.nodes) == LAYERS + 1
        np.testing.assert_allclose(opened.run({"image": image}, opened.nodes)["logits"], wanted, atol=1e-5)
