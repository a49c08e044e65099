from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy_compile import onnx_graph
from tests import toys


def test_saving_leaves_one_file(tmp_path: Path) -> None:
    model = onnx_graph.load(toys.conv_graph(tmp_path / "toy.onnx"))
    path = onnx_graph.save(model, onnx_graph.save(model, tmp_path / "again.onnx"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.onnx", "toy.onnx"]
    assert onnx_graph.load(path) == model


def test_weights_go_beside_a_graph_too_large_for_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toys.conv_graph(tmp_path / "toy.onnx", channels=64)
    whole = onnx_graph.load(path)
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 10_000)
    onnx_graph.save(onnx_graph.load(path), tmp_path / "large.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data", "toy.onnx"]
    assert onnx_graph.stored(tmp_path / "large.onnx") > path.stat().st_size == onnx_graph.stored(path)
    onnx.checker.check_model(str(tmp_path / "large.onnx"), full_check=True)
    read = onnx_graph.load(tmp_path / "large.onnx")
    for one, other in zip(whole.graph.initializer, read.graph.initializer, strict=True):
        assert (onnx_graph.array(one) == onnx_graph.array(other)).all()


@pytest.mark.slow
def test_a_graph_of_more_than_2_gib_is_written_and_read(tmp_path: Path) -> None:
    """protobuf 7 cannot tell the size of such a graph."""
    part = np.arange(2**27, dtype=np.float32)  # 512 MiB
    weights = [numpy_helper.from_array(part, f"w{index}") for index in range(5)]
    given, made = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"], "/same")], "large", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    del weights, graph
    path = onnx_graph.save(model, tmp_path / "large.onnx")
    del model
    assert path.stat().st_size < 2**20
    assert (tmp_path / "large.onnx.data").stat().st_size >= 5 * part.nbytes
    read = onnx_graph.load(path).graph.initializer
    assert len(read) == 5
    assert (onnx_graph.array(read[4]) == part).all()


def test_shapes_are_inferred_at_a_batch_without_weights(tmp_path: Path) -> None:
    model = onnx.load(toys.conv_graph(tmp_path / "toy.onnx"), load_external_data=False)
    open_axis, fixed = onnx_graph.inferred(model), onnx_graph.inferred(model, batch=3)
    assert open_axis["c0"] == (onnx.TensorProto.FLOAT, (None, 8, 16, 16))
    assert fixed["c0"] == (onnx.TensorProto.FLOAT, (3, 8, 16, 16))
    assert fixed["logits"] == (onnx.TensorProto.FLOAT, (3, 5))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_links_know_constants_producers_and_consumers(tmp_path: Path) -> None:
    links = onnx_graph.links(onnx_graph.load(toys.conv_graph(tmp_path / "toy.onnx")))
    assert "w0" in links.constants
    assert links.producers["r0"].op_type == "Relu"
    assert [node.name for node in links.consumers["r0"]] == ["/block/depthwise/Conv", "/block/Add"]


def test_names_are_numbered_only_where_they_are_in_use() -> None:
    used = {"a", "a_1"}
    assert [onnx_graph.unique(name, used) for name in ("b", "a", "a")] == ["b", "a_2", "a_3"]
