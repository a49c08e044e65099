"""Whole vectors of channels around depthwise convolutions: the same answers, and no more where they would be seen."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from deploy_compile.pad_channels import MULTIPLE, pad_channels
from tests.compile.test_lower_3d import SIZE, answers, graph, weight

RANKS = (4, 5)
FEW = 3  # channels of x


def block(weights: dict[str, np.ndarray], channels: int, kernel: Sequence[int], *, gate: bool) -> list[onnx.NodeProto]:
    """Return an inverted residual block with squeeze and excite: x -> y, `channels` inside."""
    shapes = {
        "wide": (channels, FEW, 1, 1, 1), "deep": (channels, 1, *kernel), "down": (4, channels, 1, 1, 1),
        "up": (channels, 4, 1, 1, 1), "narrow": (FEW, channels, 1, 1, 1),
    }  # fmt: skip
    weights |= {name: weight(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    weights |= {f"{name}.b": weight(shape[0], seed=9) for name, shape in shapes.items()}
    weights["axes"] = np.array([-3, -2, -1], np.int64)
    pads = [size // 2 for size in kernel] * 2
    nodes = [
        helper.make_node("Conv", ["x", "wide", "wide.b"], ["a"], "/wide"),
        helper.make_node("Relu", ["a"], ["b"], "/relu"),
        helper.make_node("Conv", ["b", "deep", "deep.b"], ["c"], "/deep", group=channels, pads=pads),
    ]
    if gate:
        nodes += [
            helper.make_node("ReduceMean", ["c", "axes"], ["m"], "/mean"),
            helper.make_node("Conv", ["m", "down", "down.b"], ["d"], "/down"),
            helper.make_node("Conv", ["d", "up", "up.b"], ["u"], "/up"),
            helper.make_node("Sigmoid", ["u"], ["s"], "/sigmoid"),
        ]
    nodes.append(helper.make_node("Mul", ["c", "s" if gate else "c"], ["e"], "/mul"))
    nodes.append(helper.make_node("Conv", ["e", "narrow", "narrow.b"], ["f"], "/narrow"))
    return [*nodes, helper.make_node("Add", ["x", "f"], ["y"], "/add")]


def channels_of(model: onnx.ModelProto) -> Mapping[str, tuple[int, int]]:
    """Return, by convolution, its output channels and its groups."""
    weights = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer}
    return {
        node.name: (weights[node.input[1]], next((a.i for a in node.attribute if a.name == "group"), 1))
        for node in model.graph.node
        if node.op_type == "Conv"
    }


def same(model: onnx.ModelProto, filled: onnx.ModelProto) -> bool:
    x = weight(2, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value, *SIZE, seed=3)
    pairs = zip(answers(filled, x), answers(model, x), strict=True)
    return all(np.abs(got - answer).max() <= 2e-6 * np.abs(answer).max() for got, answer in pairs)


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(2, 60), st.sampled_from([(1, 3, 3), (3, 1, 1), (3, 3, 3)]), st.booleans())
def test_a_block_answers_the_same(channels: int, kernel: Sequence[int], gate: bool) -> None:
    weights: dict[str, np.ndarray] = {}
    model = graph(block(weights, channels, kernel, gate=gate), weights, FEW)
    filled = copy(model)
    whole = -(-channels // MULTIPLE) * MULTIPLE
    grows = channels < whole <= 1.25 * channels
    assert pad_channels(filled, RANKS) == int(grows)
    onnx.checker.check_model(filled, full_check=True)
    expected = whole if grows else channels
    assert channels_of(filled)["/deep"] == (expected, expected)
    assert channels_of(filled)["/wide"] == (expected, 1)
    assert channels_of(filled)["/narrow"] == (FEW, 1)
    assert [node.name for node in filled.graph.node] == [node.name for node in model.graph.node]
    assert same(model, filled)


@pytest.mark.parametrize("how", ["answer", "mixed", "constant", "rank", "few"])
def test_channels_that_are_seen_are_left_alone(how: str) -> None:
    weights: dict[str, np.ndarray] = {}
    nodes, outputs, channels = block(weights, 14 if how != "few" else 2, (1, 3, 3), gate=False), ["y"], 14
    if how == "answer":
        outputs.append("c")
    elif how == "mixed":
        nodes.insert(3, helper.make_node("Softmax", ["c"], ["soft"], "/softmax", axis=1))
        nodes[4].input[:] = ["c", "soft"]
    elif how == "constant":
        weights["each"] = weight(1, channels, 1, 1, 1)
        nodes[3].input[:] = ["c", "each"]
    model = graph(nodes, weights, FEW, outputs)
    before = model.SerializeToString()
    assert pad_channels(model, (4,) if how == "rank" else RANKS) == 0
    assert model.SerializeToString() == before


def test_shared_weights_are_parted() -> None:
    weights: dict[str, np.ndarray] = {}
    nodes = block(weights, 14, (1, 3, 3), gate=False)
    nodes.append(helper.make_node("Conv", ["x", "wide", "wide.b"], ["again"], "/again"))  # not before a depthwise one
    model = graph(nodes, weights, FEW, ["y", "again"])
    filled = copy(model)
    assert pad_channels(filled, RANKS) == 1
    assert channels_of(filled)["/again"] == (14, 1)
    assert same(model, filled)
