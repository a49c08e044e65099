"""Export and simplify keep what they promise, for both exporters, and say what they cannot do."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from deploy_compile import export, load, onnx_graph, simplify, synthetic
from deploy_compile.results import Graph, Loaded
from deploy_recipes import Classes, Features, Recipe, Tensor
from deploy_runtime.errors import DeployError
from tests import toys


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        x = x + self.conv(x)
        out: torch.Tensor = self.head(x.reshape(x.shape[0], 8, -1).mean(dim=2))
        return out


class TwoStates(nn.Module):
    """Two inputs of one shape: an exporter that merges them is caught."""

    def forward(self, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 2 * h + 3 * c, h - c


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(tokens)
        return out


def recipe(network: Callable[[], nn.Module], inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Recipe:
    task = Classes(5) if outputs[0].name == "logits" else Features()
    return Recipe("toy", "toy", network, inputs, outputs, task, 1, "test")


RESIDUAL = recipe(
    Residual, (Tensor("image", ("batch", 3, 16, 16), layout="NCHW"),), (Tensor("logits", ("batch", 5), layout="NC"),)
)
STATES = recipe(
    TwoStates,
    (Tensor("h", ("batch", 4), layout="NC"), Tensor("c", ("batch", 4), layout="NC")),
    (Tensor("sum", ("batch", 4), layout="NC"), Tensor("difference", ("batch", 4), layout="NC")),
)
TOKENS = recipe(
    Attention,
    (Tensor("tokens", ("batch", 6, 16), layout="NTC"),),
    (Tensor("states", ("batch", 6, 16), layout="NTC"),),
)


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe], Loaded]:
    """Load a recipe of this file: `resolve` finds it whatever it is called."""

    def of(wanted: Recipe) -> Loaded:
        monkeypatch.setattr(load, "resolve", lambda _: wanted)
        (tmp_path / "load").mkdir()
        return load.load(tmp_path / "load", wanted, "toy", {}, "seeded", None)

    return of


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def answers(path: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feed)]


def checked(graph: Graph, wanted: Recipe, net: nn.Module) -> None:
    """Check a graph's promise, and its answers at batch 3 against the module's."""
    export.describe(graph.path, wanted)
    parts = [synthetic.sample(wanted, 9, index) for index in range(3)]
    feed = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    given = net(*(torch.from_numpy(feed[tensor.name]) for tensor in wanted.inputs))
    outputs = given if isinstance(given, tuple) else (given,)
    for value, found in zip(outputs, answers(graph.path, feed), strict=True):
        np.testing.assert_allclose(found, value.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exporter", export.EXPORTERS)
@pytest.mark.parametrize("wanted", [RESIDUAL, STATES, TOKENS], ids=["residual", "two states", "attention"])
def test_graphs_answer_as_the_module_at_another_batch_size(
    wanted: Recipe, exporter: str, loaded: Callable[[Recipe], Loaded], tmp_path: Path
) -> None:
    got = loaded(wanted)
    if exporter == "dynamo" and find_spec("onnxscript") is None:
        with pytest.raises(DeployError, match="pip install onnxscript"):
            export.export(folder(tmp_path, "export"), got, wanted, exporter)
        return
    raw = export.export(folder(tmp_path, "export"), got, wanted, exporter)
    small = simplify.simplify(folder(tmp_path, "simplify"), raw, wanted)
    for graph in (raw, small):
        checked(graph, wanted, load.module(got))
        nodes = onnx.load(graph.path).graph.node
        names = [node.name for node in nodes]
        assert len(set(names)) == len(names) == graph.nodes
        assert all(names)
        assert graph.heavy == sum(node.op_type in onnx_graph.HEAVY for node in nodes)
    assert not any(node.op_type in ("Constant", "BatchNormalization") for node in onnx.load(small.path).graph.node)
    assert [path.name for path in raw.path.parent.iterdir()] == ["fp32.onnx"]


def test_the_fast_path_of_attention_is_on_again_afterwards(loaded: Callable[[Recipe], Loaded], tmp_path: Path) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    export.export(folder(tmp_path, "export"), loaded(TOKENS), TOKENS)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_an_unknown_exporter_is_refused(loaded: Callable[[Recipe], Loaded], tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no exporter 'onnx'"):
        export.export(folder(tmp_path, "export"), loaded(STATES), STATES, "onnx")


def test_a_recipe_that_is_wrong_about_its_network_is_told_so(
    loaded: Callable[[Recipe], Loaded], tmp_path: Path
) -> None:
    from dataclasses import replace

    got = loaded(STATES)
    outputs = replace(STATES, outputs=STATES.outputs[:1])
    with pytest.raises(DeployError, match=r"gives \[\[1, 4\], \[1, 4\]\] where its recipe says \[\[1, 4\]\]"):
        export.export(folder(tmp_path, "a"), got, outputs)
    inputs = replace(STATES, inputs=STATES.inputs[:1])
    with pytest.raises(DeployError, match=r"does not take its inputs \(h \[1, 4\]\)"):
        export.export(folder(tmp_path, "b"), got, inputs)


def test_a_graph_that_breaks_its_promise_is_our_bug(tmp_path: Path) -> None:
    path = toys.conv_graph(tmp_path / "toy.onnx")
    with pytest.raises(ValueError, match="inputs are"):
        export.describe(path, STATES)
    model = onnx.load(path)
    model.opset_import[0].version = 17
    onnx.save(model, path)
    with pytest.raises(ValueError, match="opset 17"):
        export.describe(path, RESIDUAL)


def test_nodes_without_a_name_get_one_of_their_own() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["z"], name="a")]
    nodes.append(helper.make_node("Relu", ["z"], ["w"], name="a"))
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    export.name_nodes(model)
    assert [node.name for node in model.graph.node] == ["/Relu/y", "a", "/Relu/w"]


def test_large_graphs_keep_all_weights_in_one_file_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 1000)
    model = onnx.load(toys.conv_graph(tmp_path / "toy.onnx", channels=32))
    export.save(model, folder(tmp_path, "raw") / "fp32.onnx")
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["fp32.onnx", "fp32.onnx.data"]
    raw = Graph(tmp_path / "raw" / "fp32.onnx", "fp32", 9, 4, 0, {})
    small = simplify.simplify(folder(tmp_path, "small"), raw, RESIDUAL)
    assert sorted(path.name for path in small.path.parent.iterdir()) == ["fp32.onnx", "fp32.onnx.data"]
    feed = {"image": toys.images(1)[0]}
    np.testing.assert_allclose(answers(small.path, feed)[0], answers(tmp_path / "toy.onnx", feed)[0], rtol=1e-5)


def test_a_simplifier_that_changes_answers_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toys.conv_graph(tmp_path / "toy.onnx")

    def harm(model: onnx.ModelProto, skipped_optimizers: object) -> tuple[onnx.ModelProto, bool]:
        last = model.graph.initializer[-1]
        last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) + np.float32(0.5), last.name))
        return model, True

    monkeypatch.setattr("onnxsim.simplify", harm)
    with pytest.raises(ValueError, match="simplifying changed logits"):
        simplify.simplify(folder(tmp_path, "small"), Graph(path, "fp32", 9, 4, 0, {}), RESIDUAL)
