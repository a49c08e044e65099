"""Fused q, k, v products in three: the same numbers, and INT8 in a compiler that would lose it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy_compile.split_qkv import split_qkv
from tests import toys

TOKENS, HEADS, WIDTH = 5, 2, 4
DIM = HEADS * WIDTH
APART = [2, 0, 3, 1, 4]


def attention(path: Path, perm: list[int], parts: int = 3, bias: bool = True) -> onnx.ModelProto:
    """q · k + v of one fused product, taken apart as timm does."""
    rng = np.random.default_rng(0)
    names = [f"part_{i}" for i in range(parts)]
    ends = [f"end_{i}" for i in range(parts)]
    product = [helper.make_node("MatMul", ["x", "w"], ["wide"], "/qkv/MatMul")]
    if bias:
        product.append(helper.make_node("Add", ["b", "wide"], ["biased"], "/qkv/Add"))
    nodes = [
        *product,
        helper.make_node("Reshape", ["biased" if bias else "wide", "shape"], ["five"], "/Reshape"),
        helper.make_node("Transpose", ["five"], ["turned"], "/Transpose", perm=perm),
        helper.make_node("Split", ["turned", "ones"], names, "/Split", axis=0),
        *(
            helper.make_node("Squeeze", [name, "zero"], [end], f"/Squeeze_{end}")
            for name, end in zip(names, ends, strict=True)
        ),
        helper.make_node("Mul", ends[:2], ["qk"], "/Mul"),
        helper.make_node("Add", ["qk", ends[-1]], ["y"], "/Add"),
    ]
    weights = {
        "w": rng.standard_normal((DIM, parts * DIM)).astype(np.float32),
        "b": rng.standard_normal(parts * DIM).astype(np.float32),
        "shape": np.array([-1, TOKENS, parts, HEADS, WIDTH]),
        "ones": np.ones(parts, np.int64),
        "zero": np.zeros(1, np.int64),
    }
    if not bias:
        del weights["b"]
    sizes: dict[int, int | str] = {2: parts, 0: "batch", 3: HEADS, 1: TOKENS, 4: WIDTH}
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    shape = [sizes[axis] for axis in perm][1:]
    return onnx.load(toys.save(path, nodes, tensors, [("x", ["batch", TOKENS, DIM])], [("y", shape)]))


def answer(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((2, TOKENS, DIM)).astype(np.float32)
    given = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(given, list)
    return np.asarray(given[0])


def test_the_same_number_from_three_products(tmp_path: Path) -> None:
    model = attention(tmp_path / "g.onnx", APART)
    before = answer(model)
    assert split_qkv(model) == 1
    onnx.checker.check_model(model, full_check=True)
    ops = [node.op_type for node in model.graph.node]
    assert (ops.count("MatMul"), ops.count("Split"), ops.count("Squeeze")) == (3, 0, 0)
    assert "/qkv/MatMul/q" in {node.name for node in model.graph.node}
    assert len({node.name for node in model.graph.node}) == len(ops)
    assert "w" not in {tensor.name for tensor in model.graph.initializer}
    np.testing.assert_allclose(answer(model), before, rtol=1e-6, atol=1e-6)
    assert split_qkv(model) == 0  # and no second time


@pytest.mark.parametrize("changed", [{"perm": [2, 0, 1, 3, 4]}, {"parts": 2}, {"bias": False}])
def test_anything_else_is_left_alone(tmp_path: Path, changed: dict[str, object]) -> None:
    model = attention(tmp_path / "g.onnx", **{"perm": APART, **changed})  # type: ignore[arg-type]
    before = model.SerializeToString()
    assert split_qkv(model) == 0
    assert onnx.ModelProto.FromString(before) == model
