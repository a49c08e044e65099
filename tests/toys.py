"""Small nets and graphs, built in code, that every test runs in milliseconds to seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy_recipes.recipe import Recipe, Task, Tensor


def conv_graph(path: Path, *, channels: int = 8, size: int = 16, seed: int = 0) -> Path:
    """Write image [batch,3,size,size] -> stem, depthwise, pointwise Conv + residual Add, pool, Gemm -> logits."""
    rng = np.random.default_rng(seed)
    c = channels

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        fan_in = int(np.prod(shape[1:]))
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["c0"], "/stem/Conv", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"], "/stem/Relu"),
        helper.make_node(
            "Conv", ["r0", "w1", "b1"], ["c1"], "/block/depthwise/Conv", kernel_shape=[3, 3], pads=[1] * 4, group=c
        ),
        helper.make_node("Relu", ["c1"], ["r1"], "/block/Relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "/block/pointwise/Conv", kernel_shape=[1, 1]),
        helper.make_node("Add", ["c2", "r0"], ["a"], "/block/Add"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "/pool"),
        helper.make_node("Flatten", ["p"], ["f"], "/flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], "/head/Gemm", transB=1),
    ]
    weights = [
        weight("w0", c, 3, 3, 3), weight("b0", c), weight("w1", c, 1, 3, 3), weight("b1", c),
        weight("w2", c, c, 1, 1), weight("b2", c), weight("w3", 5, c), weight("b3", 5),
    ]  # fmt: skip
    return save(
        path,
        nodes,
        weights,
        inputs=[("image", ["batch", 3, size, size])],
        outputs=[("logits", ["batch", 5])],
    )


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    inputs: Sequence[tuple[str, Sequence[int | str]]],
    outputs: Sequence[tuple[str, Sequence[int | str]]],
) -> Path:
    """Write a checked opset-19 graph of float inputs and outputs."""
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def images(count: int, *, size: int = 16, seed: int = 0) -> list[np.ndarray]:
    """Return `count` smooth random images [1, 3, size, size] in float32."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 1, 3, 4, 4)).astype(np.float32)
    return [np.repeat(np.repeat(image, size // 4, axis=2), size // 4, axis=3) for image in coarse]


def recipe(inputs: Sequence[Tensor], outputs: Sequence[Tensor], task: Task, **more: Any) -> Recipe:
    """Return a recipe for what looks at no network: building one fails."""

    def network() -> None:
        raise AssertionError("this recipe has no network")

    return Recipe("toy", "toy", network, tuple(inputs), tuple(outputs), task, parameters=0, source="", **more)  # type: ignore[arg-type]
