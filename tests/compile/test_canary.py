"""Batch canaries sing for a sound graph and fall silent for one that mixes its samples."""

from dataclasses import replace
from pathlib import Path

import pytest
from onnx import helper

from deploy_compile import canary
from deploy_compile.results import Graph
from deploy_recipes import Features, Recipe, Tensor
from deploy_runtime.errors import GateError
from tests import toys

IMAGE = ("batch", 3, 16, 16)


def recipe(output: Tensor) -> Recipe:
    image = Tensor("image", IMAGE, layout="NCHW")
    return Recipe("toy", "toy", lambda: None, (image,), (output,), Features(), 1, "test")  # type: ignore[arg-type,return-value]


def test_a_sound_graph_passes_with_its_numbers(tmp_path: Path) -> None:
    path = toys.conv_graph(tmp_path / "toy.onnx")
    found = canary.canaries(tmp_path, Graph(path, "fp32", 9, 4, 0, {}), recipe(Tensor("logits", ("batch", 5))))
    assert found.permuted <= canary.MOST_RELATIVE
    assert found.alone <= canary.MOST_RELATIVE


def test_a_batch_statistic_is_caught(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], "/mean", keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["out"], "/sub"),
    ]
    path = toys.save(tmp_path / "mean.onnx", nodes, [], inputs=[("image", IMAGE)], outputs=[("out", IMAGE)])
    with pytest.raises(GateError, match="running samples one by one changes the answers"):
        canary.canaries(tmp_path, Graph(path, "fp32", 2, 0, 0, {}), recipe(Tensor("out", IMAGE)))


def test_an_answer_that_depends_on_the_place_is_caught(tmp_path: Path) -> None:
    nodes = [helper.make_node("CumSum", ["image", "axis"], ["out"], "/cumsum")]
    axis = helper.make_tensor("axis", 7, [], [0])
    path = toys.save(tmp_path / "sum.onnx", nodes, [axis], inputs=[("image", IMAGE)], outputs=[("out", IMAGE)])
    wanted = replace(recipe(Tensor("out", IMAGE)), name="sums")
    with pytest.raises(GateError, match="sums: permuting the batch"):
        canary.canaries(tmp_path, Graph(path, "fp32", 1, 0, 0, {}), wanted)
