from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

import deploy_recipes as recipes
from deploy_compile.export import export
from deploy_compile.load import load
from deploy_compile.macs import MOVED, affordable, cost, macs
from deploy_compile.simplify import simplify
from tests import toys


def count(
    folder: Path, op: str, x: Sequence[int | str], weight: Sequence[int], y: Sequence[int | str], **how: object
) -> int:
    node = helper.make_node(op, ["x", "w"], ["y"], "/n", **how)  # type: ignore[arg-type]
    tensor = numpy_helper.from_array(np.zeros(tuple(weight), np.float32), "w")
    path = toys.save(folder / "g.onnx", [node], [tensor], inputs=[("x", x)], outputs=[("y", y)])
    return macs(path)["/n"]


@pytest.mark.parametrize(
    ("op", "x", "weight", "y", "how", "wanted"),
    [
        ("Conv", ["batch", 3, 8, 8], [16, 3, 3, 3], ["batch", 16, 6, 6], {}, 16 * 36 * 27),
        ("Conv", ["batch", 6, 8, 8], [6, 1, 3, 3], ["batch", 6, 6, 6], {"group": 6}, 6 * 36 * 9),
        ("Conv", ["batch", 6, 8, 8], [4, 3, 1, 1], ["batch", 4, 8, 8], {"group": 2}, 4 * 64 * 3),
        ("Conv", ["batch", 2, 4, 8, 8], [5, 2, 3, 1, 1], ["batch", 5, 2, 8, 8], {}, 5 * 128 * 6),
        ("ConvTranspose", ["batch", 4, 8, 8], [4, 6, 2, 2], ["batch", 6, 16, 16], {"strides": [2, 2]}, 256 * 24),
        ("MatMul", ["batch", 7, 4], [4, 5], ["batch", 7, 5], {}, 7 * 5 * 4),
        ("MatMul", ["batch", 3, 7, 4], [3, 4, 5], ["batch", 3, 7, 5], {}, 3 * 7 * 5 * 4),
        ("Gemm", ["batch", 4], [5, 4], ["batch", 5], {"transB": 1}, 20),
        ("Gemm", [4, "batch"], [4, 5], ["batch", 5], {"transA": 1}, 20),
    ],
)
def test_the_operators(
    tmp_path: Path,
    op: str,
    x: Sequence[int | str],
    weight: Sequence[int],
    y: Sequence[int | str],
    how: Mapping[str, object],
    wanted: int,
) -> None:
    assert count(tmp_path, op, x, weight, y, **how) == wanted


def test_a_budget_counts_the_values_that_are_moved_too(tmp_path: Path) -> None:
    count(tmp_path, "Conv", ["batch", 6, 8, 8], [6, 1, 3, 3], ["batch", 6, 6, 6], group=6)
    one = cost(tmp_path / "g.onnx")
    assert one == 6 * 36 * 9 + MOVED * (6 * 64 + 6 * 36)
    assert [affordable(tmp_path / "g.onnx", budget, 1, 4) for budget in (0, 3 * one - 1, 9 * one)] == [1, 2, 4]


def test_a_graph_is_counted_node_by_node(tmp_path: Path) -> None:
    found = macs(toys.conv_graph(tmp_path / "g.onnx"))
    assert found == {
        "/stem/Conv": 8 * 256 * 27,
        "/block/depthwise/Conv": 8 * 256 * 9,
        "/block/pointwise/Conv": 8 * 256 * 8,
        "/head/Gemm": 40,
    }


def test_an_open_shape_is_an_error(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["z"], "/z"),
        helper.make_node("Cast", ["z"], ["f"], "/f", to=1),
        helper.make_node("MatMul", ["f", "x"], ["y"], "/n"),
    ]
    path = toys.save(tmp_path / "g.onnx", nodes, [], inputs=[("x", ["batch", 4])], outputs=[("y", [2, 4])])
    with pytest.raises(ValueError, match="shape of f is open"):
        macs(path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wanted"), [("resnet50", 4.089e9), ("x3d_s", 1.963e9)])
def test_published_figures(tmp_path: Path, name: str, wanted: float) -> None:
    """4.09 G for torchvision's ResNet-50, 1.96 G for X3D-S at 13 x 160 x 160 (Feichtenhofer 2020)."""
    recipe = recipes.get(name)
    folders = [tmp_path / stage for stage in ("load", "export", "simplify")]
    for folder in folders:
        folder.mkdir()
    loaded = load(folders[0], recipe, name, {}, "seeded", None)
    graph = simplify(folders[2], export(folders[1], loaded, recipe), recipe)
    assert sum(macs(graph.path).values()) == pytest.approx(wanted, rel=1e-3)
