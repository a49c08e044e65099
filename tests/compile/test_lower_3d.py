"""Clips as frames: the same answers as the operators for clips give, and whatever has no form for frames left alone."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from deploy_compile.lower_3d import lower

ROUNDING = 2e-6  # of the largest answer
SIZE = (6, 7, 9)  # time, height, width
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=60)


def graph(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], channels: int, outputs: Sequence[str] = ("y",)
) -> onnx.ModelProto:
    """Return a graph of one clip x [batch, channels, *SIZE]."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", channels, *SIZE])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    del model.graph.value_info[:]
    return model


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def answers(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(answer) for answer in session.run(None, {"x": x})]


def compared(model: onnx.ModelProto, batch: int = 1) -> onnx.ModelProto:
    """Return the lowered graph, which answers as `model` does under the same names."""
    x = weight(batch, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value, *SIZE, seed=1)
    wanted, interface = answers(model, x), [model.graph.input[0].SerializeToString(), list(model.graph.output)]
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    lower(lowered, batch)
    onnx.checker.check_model(lowered, full_check=True)
    assert [lowered.graph.input[0].SerializeToString(), list(lowered.graph.output)] == interface
    for got, answer in zip(answers(lowered, x), wanted, strict=True):
        assert got.shape == answer.shape
        assert float(np.abs(got - answer).max()) <= ROUNDING * float(np.abs(answer).max()) + 1e-7
    return lowered


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def ranks(model: onnx.ModelProto) -> set[int]:
    """Return of how many axes the weights of its convolutions are."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return {len(weights[node.input[1]].dims) for node in model.graph.node if node.op_type == "Conv"}


def conv(source: str, output: str, weights: dict[str, np.ndarray], *shape: int, groups: int = 1) -> onnx.NodeProto:
    """Return a Conv whose padding keeps sizes, and add its weights."""
    weights[f"{output}.w"] = weight(*shape, seed=len(weights))
    half = [size // 2 for size in shape[2:]]
    name, inputs = f"/{output}/Conv", [source, f"{output}.w"]
    return helper.make_node("Conv", inputs, [output], name, kernel_shape=shape[2:], pads=half * 2, group=groups)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, int]:
    """A Conv of any window, stride, padding, dilation and groups that fits, behind a plain one, and a batch size."""
    groups = draw(st.sampled_from([1, 1, 1, 3]))
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, strides = draw(st.tuples(*[st.integers(1, 4)] * 3)), draw(st.tuples(*[st.integers(1, 3)] * 3))
    dilations = tuple(1 if k == 1 else draw(st.integers(1, 2)) for k in kernel)
    pads = [draw(st.integers(0, k)) for k in kernel] + [draw(st.integers(0, k)) for k in kernel]
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads[3:] = [max(e, span - size - b) for b, e, span, size in zip(pads, pads[3:], spans, SIZE, strict=False)]
    weights = {"w": weight(outputs, channels // groups, *kernel)}
    if draw(st.booleans()):
        weights["b"] = weight(outputs)
    node = helper.make_node(
        "Conv", ["first", *weights], ["y"], "/conv", kernel_shape=kernel, strides=strides, dilations=dilations,
        pads=pads, group=groups,
    )  # fmt: skip
    first = conv("x", "first", weights, channels, channels, 1, 1, 1)
    return graph([first, node], weights, channels), draw(st.integers(1, 2))


@EXAMPLES
@given(convolutions())
def test_a_convolution_is_the_same_over_frames(case: tuple[onnx.ModelProto, int]) -> None:
    lowered = compared(*case)
    assert ranks(lowered) == {4}
    first, *parts = [node.name for node in lowered.graph.node if node.op_type == "Conv"]
    assert first == "/first/Conv"
    assert parts == ["/conv"] or all(name.startswith("/conv/") for name in parts)


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, int]:
    """A row of convolutions, elementwise operators, pools and what has no form for frames; some of it are answers."""
    channels = 4
    weights: dict[str, np.ndarray] = {"axes": np.array([2, 3, 4], np.int64), "one": np.ones(1, np.float32)}
    weights["channel"] = weight(1, channels, 1, 1, 1)
    nodes, last, clips = [], "x", ["x"]
    for step in range(draw(st.integers(2, 6))):
        output, kind = (
            f"t{step}",
            draw(st.sampled_from(["conv", "depthwise", "relu", "add", "mul", "pool", "gate", "turn"])),
        )
        if kind in ("conv", "depthwise"):
            kernel = draw(st.sampled_from([(1, 1, 1), (1, 3, 3), (3, 1, 1), (3, 3, 3), (5, 1, 1)]))
            groups = channels if kind == "depthwise" else 1
            nodes.append(conv(last, output, weights, channels, channels // groups, *kernel, groups=groups))
        elif kind == "pool":
            op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
            window = draw(st.sampled_from([(1, 3, 3), (3, 3, 3)]))
            pads = [size // 2 for size in window] * 2
            nodes.append(helper.make_node(op, [last], [output], f"/{output}/Pool", kernel_shape=window, pads=pads))
        elif kind == "gate":  # as squeeze and excite
            op = draw(st.sampled_from(["GlobalAveragePool", "ReduceMean"]))
            axes = ["axes"] if op == "ReduceMean" else []
            nodes.append(helper.make_node(op, [last, *axes], [f"{output}.mean"], f"/{output}/mean"))
            nodes.append(helper.make_node("Sigmoid", [f"{output}.mean"], [f"{output}.gate"], f"/{output}/gate"))
            nodes.append(helper.make_node("Mul", [last, f"{output}.gate"], [output], f"/{output}/Mul"))
        elif kind == "turn":  # no form for frames
            nodes.append(helper.make_node("Transpose", [last], [f"{output}.t"], f"/{output}/t", perm=[0, 1, 2, 4, 3]))
            nodes.append(
                helper.make_node("Transpose", [f"{output}.t"], [output], f"/{output}/back", perm=[0, 1, 2, 4, 3])
            )
        elif kind == "relu":
            nodes.append(helper.make_node("Relu", [last], [output], f"/{output}/Relu"))
        else:
            other = draw(st.sampled_from([*clips, "one", "channel"]))
            nodes.append(helper.make_node(kind.capitalize(), [last, other], [output], f"/{output}/{kind}"))
        clips.append(output)
        last = output
    more = draw(st.lists(st.sampled_from(clips[1:]), max_size=2, unique=True))
    return graph(nodes, weights, channels, list(dict.fromkeys([last, *more]))), draw(st.integers(1, 2))


@EXAMPLES
@given(networks())
def test_a_network_answers_the_same(case: tuple[onnx.ModelProto, int]) -> None:
    compared(*case)


def test_what_is_all_of_frames_needs_one_transpose() -> None:
    weights: dict[str, np.ndarray] = {"axes": np.array([2, 3, 4], np.int64)}
    nodes = [
        conv("x", "a", weights, 8, 3, 3, 3, 3),
        helper.make_node("Relu", ["a"], ["b"], "/relu"),
        conv("b", "c", weights, 8, 8, 1, 3, 3),
        helper.make_node("Concat", ["b", "c"], ["d"], "/concat", axis=1),
        helper.make_node("ReduceMean", ["d", "axes"], ["y"], "/mean"),
    ]
    found = operators(compared(graph(nodes, weights, 3)))
    assert found.count("Transpose") == 1  # of the input; the answer has one moment
    assert found.count("Gather") == 2


@pytest.mark.parametrize("how", ["alone", "a sum first", "computed weights", "automatic padding", "two axes"])
def test_what_is_not_plain_is_left_alone(how: str) -> None:
    weights: dict[str, np.ndarray] = {}
    nodes = [conv("x", "y", weights, 3, 3, 1, 3, 3)]
    if how == "alone":
        nodes = [
            conv("x", "a", weights, 3, 3, 3, 3, 3),
            helper.make_node("Transpose", ["a"], ["t"], "/t", perm=[0, 1, 2, 4, 3]),
            conv("t", "y", weights, 3, 3, 3, 3, 3),
        ]
    elif how == "a sum first":
        nodes = [conv("x", "y", weights, 3, 1, 3, 3, 3, groups=3)]
    elif how != "two axes":
        nodes = [conv("x", "a", weights, 3, 3, 1, 3, 3), conv("a", "y", weights, 3, 3, 1, 3, 3)]
        if how == "computed weights":
            nodes[0].input[1] = "w"
            nodes.insert(0, helper.make_node("Relu", ["a.w"], ["w"], "/weights"))
        else:
            del nodes[0].attribute[:]
            nodes[0].attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
    else:
        shape = np.array([0, 3, SIZE[0] * SIZE[1], SIZE[2]], np.int64)
        nodes = [helper.make_node("Reshape", ["x", "shape"], ["p"], "/flat"), conv("p", "y", weights, 3, 3, 3, 3)]
        weights["shape"] = shape
    model = graph(nodes, weights, 3)
    before = model.SerializeToString()
    assert not lower(model, 1)
    assert model.SerializeToString() == before


def test_a_sum_goes_along() -> None:
    weights: dict[str, np.ndarray] = {}
    nodes = [conv("x", "a", weights, 4, 4, 1, 1, 1), conv("a", "y", weights, 4, 1, 3, 3, 3, groups=4)]
    found = compared(graph(nodes, weights, 4))
    assert ranks(found) == {4}
    names = [node.name for node in found.graph.node if node.op_type == "Conv"]
    assert names == ["/a/Conv", "/y/Conv/0", "/y/Conv/1", "/y/Conv/2"]
    assert operators(found).count("Transpose") == 2


def test_zeros_take_no_room_in_the_file() -> None:
    weights: dict[str, np.ndarray] = {}
    nodes = [conv("x", "a", weights, 3, 3, 3, 3, 3), conv("a", "y", weights, 3, 3, 3, 3, 3)]
    model = graph(nodes, weights, 3)
    small = len(model.SerializeToString())
    lower(model, 1)
    assert len(model.SerializeToString()) < small + 4096
