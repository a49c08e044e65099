from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_compile.audit import audit, coverage, expected
from deploy_compile.build import build
from deploy_compile.results import Built, Graph, Layer
from deploy_compile.targets import get
from deploy_runtime.evidence import Backend, Precision
from deploy_runtime.spec import Batch
from tests.compile.quantized_toy import INPUTS, OUTPUTS, Toy, toy

NODES = {"a": "Conv", "b": "Conv", "c": "Gemm"}
MACS = {"a": 70, "b": 20, "c": 10}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(tmp_path_factory.mktemp("toy"))


def engine(precision: Precision, **got: str) -> Built:
    layers = tuple(Layer(node, NODES.get(node, "Conv"), given) for node, given in got.items())
    return Built("openvino", precision, "cpu", "passed", "", Path("x"), layers, 0.0)


def test_counts_and_shares() -> None:
    found = coverage(NODES, engine("int8", a="int8", b="int8", c="fp32"), {"c": "softmax head"}, MACS)
    assert found.layers == {"int8": 2, "fp32": 1}
    assert found.macs == {"int8": 0.9, "fp32": 0.1}
    assert found.breaches == ()


def test_a_node_in_another_precision_is_named() -> None:
    assert coverage(NODES, engine("int8", a="int8", b="fp32", c="int8"), {}, MACS).breaches == ("b",)


def test_a_node_that_cannot_be_found_is_a_breach() -> None:
    found = coverage(NODES, engine("int8", a="int8", c="int8"), {"b": "even where it may be float"}, MACS)
    assert found.breaches == ("b (not found in the layer table)",)
    assert found.layers == {"int8": 2, "unknown": 1}


def test_an_engine_that_was_not_built_has_nothing_to_count(made: Toy, tmp_path: Path) -> None:
    found = audit(tmp_path, made.fp32, replace(engine("int8"), file=None), {}).coverage
    assert (found.layers, found.macs, found.breaches) == ({}, {}, ())


def test_a_table_that_lists_what_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="'z'"):
        coverage(NODES, engine("fp32", a="fp32", z="fp32"), {}, MACS)


@pytest.mark.parametrize(
    ("precision", "kept", "wanted"),
    [
        ("fp32", False, ("fp32",)),
        ("bf16", True, ("bf16",)),
        ("fp16", False, ("fp16",)),
        ("fp16", True, ("fp16", "fp32")),
        ("int8_fp16", True, ("int8", "fp16", "fp32")),
        ("int8", False, ("int8",)),
        ("int8", True, ("int8", "fp32")),
        ("int8_bf16", True, ("int8", "bf16")),
        ("int8_fp16", False, ("int8",)),
    ],
)
def test_what_each_candidate_promises(precision: str, kept: bool, wanted: tuple[str, ...]) -> None:
    assert expected(precision, kept) == wanted


@given(st.dictionaries(st.sampled_from(sorted(NODES)), st.sampled_from(["int8", "fp32", "fp16", "bf16"])))
def test_every_node_is_counted_once_and_shares_add_up(got: dict[str, str]) -> None:
    found = coverage(NODES, engine("int8", **got), {}, MACS)
    assert sum(found.layers.values()) == len(NODES)
    assert sum(found.macs.values()) == pytest.approx(1.0)
    assert len(found.breaches) == sum(got.get(node) != "int8" for node in NODES)


def without_quantization(source: Path, destination: Path, node_name: str) -> Path:
    """Take the Q/DQ pairs of one node out of a quantized graph, as a careless pass would."""
    model = onnx.load(source)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    node = next(node for node in model.graph.node if node.name == node_name)
    activation, weight = (producers[name] for name in node.input[:2])
    node.input[0] = producers[activation.input[0]].input[0]
    values, scale = constants[weight.input[0]], constants[weight.input[1]]
    floats = values * scale.reshape(-1, *(1,) * (values.ndim - 1))
    model.graph.initializer.append(onnx.numpy_helper.from_array(floats.astype("float32"), "floats"))
    node.input[1] = "floats"
    onnx.save(model, destination)
    return destination


@pytest.mark.parametrize(("backend", "target"), [("openvino", "cpu"), ("onnxruntime", "cpu"), ("tensorrt_rtx", "rtx")])
def test_a_graph_whose_quantization_was_removed_is_rejected(
    made: Toy, tmp_path: Path, backend: Backend, target: str
) -> None:
    node = "/block/pointwise/Conv"
    path = without_quantization(
        (made.int8_cpu if target == "cpu" else made.int8).path, tmp_path / "stripped.onnx", node
    )
    graph = Graph(path, "int8", 0, 0, 0, {})
    built = build(
        tmp_path, graph, made.fp32, backend, "int8", get(target), Batch(), INPUTS, OUTPUTS, made.ranges
    )  # fmt: skip
    found = audit(tmp_path, made.fp32, built, {}).coverage
    assert found.breaches == (node,)
    assert found.layers == {"int8": 3, "fp32": 1}
    assert audit(tmp_path, made.fp32, built, {node: "on purpose"}).coverage.breaches == ()
