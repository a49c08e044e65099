from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy_compile import build as building
from deploy_compile import parity_run
from deploy_compile.audit import audit
from deploy_compile.build import build
from deploy_compile.build_openvino import layers
from deploy_compile.heavy import heavy_aliases
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Built, Graph, Layer
from deploy_compile.sample_files import paths
from deploy_compile.targets import Target, get
from deploy_compile.worker import Crashed, call
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Backend, Precision
from deploy_runtime.spec import Batch, Tensor
from tests import toys
from tests.compile.quantized_toy import INPUTS, OUTPUTS, Toy, toy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(tmp_path_factory.mktemp("toy"))


def built(
    out: Path, made: Toy, backend: Backend, precision: Precision, target: str, batch: Batch | None = None
) -> Built:
    quantized = made.int8_cpu if target == "cpu" else made.int8
    graph = quantized if precision.startswith("int8") else made.fp32
    args = (graph, made.fp32, backend, precision, get(target), batch or Batch(), INPUTS, OUTPUTS, made.ranges)
    return build(out, *args)


@pytest.mark.parametrize(
    ("backend", "precision", "target", "status"),
    [
        ("openvino", "fp32", "cpu", "passed"),
        ("openvino", "int8", "cpu", "passed"),
        ("onnxruntime", "fp32", "cpu", "passed"),
        ("onnxruntime", "int8", "cpu", "passed"),
        ("tensorrt_rtx", "fp32", "rtx", "built_not_run"),
        ("tensorrt_rtx", "int8", "rtx", "built_not_run"),
    ],
)
def test_every_heavy_node_gets_its_precision(
    made: Toy, tmp_path: Path, backend: Backend, precision: Precision, target: str, status: str
) -> None:
    engine = built(tmp_path, made, backend, precision, target)
    assert engine.status == status, engine.reason
    assert engine.file is not None
    assert engine.file.stat().st_size > 0
    found = audit(tmp_path, made.fp32, engine, {}).coverage
    assert found.layers == {precision: 4}
    assert found.macs == {precision: 1.0}
    assert found.breaches == ()


@pytest.mark.parametrize(("backend", "target"), [("openvino", "cpu"), ("tensorrt_rtx", "rtx")])
def test_a_batch_range_builds(made: Toy, tmp_path: Path, backend: Backend, target: str) -> None:
    engine = built(tmp_path, made, backend, "int8", target, Batch(1, 2, 4))
    assert engine.file is not None, engine.reason
    assert audit(tmp_path, made.fp32, engine, {}).coverage.breaches == ()


def test_bf16_is_refused_or_really_bf16(made: Toy, tmp_path: Path) -> None:
    engine = built(tmp_path, made, "openvino", "bf16", "cpu")
    if engine.status == "refused":
        assert "no bf16" in engine.reason
    else:
        assert "bf16" in {layer.precision for layer in engine.layers}


@pytest.mark.parametrize(("backend", "precision"), [("openvino", "int8"), ("onnxruntime", "int8")])
def test_an_engine_answers_like_its_graph(made: Toy, tmp_path: Path, backend: Backend, precision: Precision) -> None:
    wanted = parity_run.outputs(
        made.fp32.path, "onnxruntime", "fp32", INPUTS, OUTPUTS, Batch(), paths(made.samples), 1
    )["logits"]  # fmt: skip
    engine = built(tmp_path, made, backend, precision, "cpu")
    assert engine.file is not None
    three = paths(made.samples)[:3]
    found = parity_run.outputs(engine.file, backend, precision, INPUTS, OUTPUTS, Batch(), three, 1)
    assert found["logits"].shape == (3, 5)
    assert float(np.abs(found["logits"] - wanted[:3]).max()) < 0.1 * float(np.abs(wanted).max())


def test_a_parser_refusal_names_the_nodes(tmp_path: Path) -> None:
    nodes = [helper.make_node("MaxPool", ["image"], ["logits", "where"], "/net/pool", kernel_shape=[2, 2])]
    nodes.append(helper.make_node("Cast", ["where"], ["indices"], "/net/cast", to=1))
    shape: list[int | str] = ["batch", 3, 15, 15]
    path = toys.save(
        tmp_path / "g.onnx", nodes, [], [("image", ["batch", 3, 16, 16])], [("logits", shape), ("indices", shape)]
    )
    graph = Graph(path, "fp32", 2, 0, 0, {})
    outputs = (Tensor("logits", ("batch", 3, 15, 15)), Tensor("indices", ("batch", 3, 15, 15)))
    engine = build(tmp_path, graph, graph, "tensorrt_rtx", "fp32", get("rtx"), Batch(), INPUTS, outputs)
    assert engine.status == "refused"
    assert "MaxPool /net/pool" in engine.reason


@pytest.mark.parametrize(("backend", "target"), [("openvino", "cpu"), ("onnxruntime", "cpu"), ("tensorrt_rtx", "rtx")])
def test_a_file_that_is_no_graph_is_refused(made: Toy, tmp_path: Path, backend: Backend, target: str) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no graph")
    graph = Graph(broken, "fp32", 0, 0, 0, {})
    engine = build(tmp_path, graph, made.fp32, backend, "fp32", get(target), Batch(), INPUTS, OUTPUTS)
    assert (engine.status, engine.file) == ("refused", None)
    assert engine.reason


def test_a_crash_is_a_row(made: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object, **options: object) -> object:
        raise Crashed("killed by signal 11 (SIGSEGV)", "the last words")

    monkeypatch.setattr(building, "call", crash)
    engine = built(tmp_path, made, "openvino", "fp32", "cpu")
    assert (engine.status, engine.reason) == ("crashed", "killed by signal 11 (SIGSEGV)")
    assert (tmp_path / "crash.log").read_text() == "the last words"


def test_a_compute_capability_that_does_not_exist_is_told(made: Toy, tmp_path: Path) -> None:
    target = Target("odd", "", {"tensorrt_rtx": ("fp32",)}, compute_capabilities=("sm999",))
    with pytest.raises(DeployError, match="no compute capability 'sm999'"):
        build(tmp_path, made.fp32, made.fp32, "tensorrt_rtx", "fp32", target, Batch(), INPUTS, OUTPUTS)


def test_an_engine_that_cannot_be_opened_is_told(made: Toy, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"this is no graph")
    files = paths(made.samples)
    with pytest.raises(DeployError, match="cannot open"):
        parity_run.outputs(tmp_path / "broken.onnx", "openvino", "fp32", INPUTS, OUTPUTS, Batch(), files, 1)


def test_convolutions_that_share_a_bias_are_int8_all_the_same(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b"], ["x"], "/one/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x"], ["r"], "/Relu"),
        helper.make_node("Conv", ["r", "w2", "b"], ["y"], "/two/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["logits"], "/Relu_1"),
    ]
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "b": (8,)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    size: list[int | str] = ["batch", 3, 16, 16]
    shape: list[int | str] = ["batch", 8, 16, 16]
    path = toys.save(tmp_path / "fp32.onnx", nodes, weights, [("image", size)], [("logits", shape)])
    np.savez(tmp_path / "000.npz", image=toys.images(1)[0])
    fp32 = Graph(path, "fp32", 4, 2, 0, {})
    ranges = calibrate(tmp_path, fp32, tmp_path, "minmax", 1)
    int8 = quantize(tmp_path, fp32, ranges, ())
    biases = {node.input[2] for node in onnx.load(int8.path).graph.node if node.op_type == "Conv"}
    assert len(biases) == 2
    outputs = (Tensor("logits", ("batch", 8, 16, 16)),)
    built = build(tmp_path, int8, fp32, "openvino", "int8", get("cpu"), Batch(), INPUTS, outputs, ranges)
    assert {layer.precision for layer in built.layers} == {"int8"}, built.reason


def test_building_imports_no_library_in_this_process() -> None:
    loaded = call("builtins:eval", "__import__('deploy_compile.build') and sorted(__import__('sys').modules)")
    assert not {"openvino", "onnxruntime", "tensorrt_rtx", "torch"}.intersection(loaded)


def operator(kind: str, originals: str, precision: str) -> dict[str, str]:
    return {"layerType": kind, "originalLayersNames": originals, "runtimePrecision": precision}


def test_openvino_layers_are_found_under_all_their_names() -> None:
    operators = [
        operator("Convolution", "/a/Conv/WithoutBiases,Multiply_17,/a/Conv,r_QuantizeLinear", "u8"),
        operator("Convolution", "/b/Conv,/c/Conv,/relu", "bf16"),  # two convolutions in one layer
        operator("FullyConnected", "logits", "f32"),  # the last one goes by its output
        operator("Reorder", "/a/Conv", "f32"),  # moves values only
        operator("Subgraph", "/q/Mul,/q/Softmax,/v/MatMul,/q/Transpose", "bf16"),  # attention in one kernel
        operator("Subgraph", "/q/Mul", "f32"),  # pointwise, though a product may go by that name
        operator("Subgraph", "/a/Conv/scaled", "f32"),  # pointwise, with a name derived from a convolution's
    ]
    nodes = {"/a/Conv": "Conv", "/b/Conv": "Conv", "/c/Conv": "Conv", "/head": "Gemm", "/absent": "Conv"}
    nodes |= {"/q/MatMul": "MatMul", "/v/MatMul": "MatMul"}
    assert layers(operators, nodes, {"logits": "/head", "/q/Mul": "/q/MatMul"}) == (
        Layer("/a/Conv", "Conv", "int8"),
        Layer("/b/Conv", "Conv", "bf16"),
        Layer("/c/Conv", "Conv", "bf16"),
        Layer("/head", "Gemm", "fp32"),
        Layer("/q/MatMul", "MatMul", "bf16"),
        Layer("/v/MatMul", "MatMul", "bf16"),
    )


def test_a_product_is_known_by_its_bias(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], "/fc/MatMul"),
        helper.make_node("Add", ["b", "xw"], ["y"], "/fc/Add"),
        helper.make_node("Mul", ["y", "b"], ["s"], "/ls/Mul"),
        helper.make_node("MatMul", ["s", "w"], ["yw"], "/last/MatMul"),
        helper.make_node("Add", ["s", "yw"], ["z"], "/residual"),
    ]
    weights = [
        numpy_helper.from_array(np.ones((4, 4), np.float32), "w"),
        numpy_helper.from_array(np.ones(4, np.float32), "b"),
    ]
    toys.save(tmp_path / "g.onnx", nodes, weights, [("x", ["batch", 4])], [("z", ["batch", 4])])
    assert heavy_aliases(tmp_path / "g.onnx") == {
        "xw": "/fc/MatMul", "/fc/Add": "/fc/MatMul", "y": "/fc/MatMul", "/ls/Mul": "/fc/MatMul", "s": "/fc/MatMul",
        "yw": "/last/MatMul",
    }  # fmt: skip


def test_nodes_without_a_name_of_their_own_cannot_be_audited(tmp_path: Path) -> None:
    model = onnx.load(toys.conv_graph(tmp_path / "g.onnx"))
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, tmp_path / "g.onnx")
    from deploy_compile.heavy import heavy_nodes

    with pytest.raises(ValueError, match="no name of its own"):
        heavy_nodes(tmp_path / "g.onnx")


def test_a_linear_layer_over_tokens_stays_in_integers_at_a_fixed_batch(tmp_path: Path) -> None:
    """ONNX Runtime would write it as Reshape and Gemm once it knows the batch, and compute that in float."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((16, 8)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal(8).astype(np.float32), "b"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "/linear/MatMul"),
        helper.make_node("Add", ["m", "b"], ["y"], "/linear/Add"),
    ]
    path = toys.save(tmp_path / "fp32.onnx", nodes, weights, [("x", ["batch", 7, 16])], [("y", ["batch", 7, 8])])
    fp32 = Graph(path, "fp32", 2, 1, 0, {})
    (tmp_path / "samples").mkdir()
    np.savez(tmp_path / "samples" / "000.npz", x=rng.standard_normal((1, 7, 16)).astype(np.float32))
    ranges = calibrate(tmp_path, fp32, tmp_path / "samples", "minmax", 1)
    tensors = (Tensor("x", ("batch", 7, 16)),), (Tensor("y", ("batch", 7, 8)),)
    graph = quantize(tmp_path, fp32, ranges, (), "cpu")
    (tmp_path / "out").mkdir()
    engine = build(tmp_path / "out", graph, fp32, "onnxruntime", "int8", get("cpu"), Batch(), *tensors, ranges)
    assert engine.layers == (Layer("/linear/MatMul", "MatMul", "int8"),)
