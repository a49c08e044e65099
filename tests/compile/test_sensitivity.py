"""Both forms of a graph in one, and what each layer's INT8 form does to the output."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy_compile import onnx_graph, session
from deploy_compile.sensitivity import alone, noise, sensitivity
from deploy_compile.switches import Switched, switched
from tests import toys
from tests.compile.quantized_toy import Toy, toy

WORST = "/layer57"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def both(made: Toy) -> Iterator[Switched]:
    with switched(made.fp32.path, made.int8.path, 1) as opened:
        yield opened


def answer(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    return session.answers(model, [{"image": image}], 1, optimised=False)["logits"]


def test_all_on_is_the_int8_graph_and_all_off_the_fp32_one(made: Toy, both: Switched) -> None:
    image = toys.images(1, seed=3)[0]
    for graph, on in ((made.fp32, ()), (made.int8, both.nodes)):
        wanted = answer(onnx_graph.load(graph.path), image)
        np.testing.assert_allclose(both.run({"image": image}, on)["logits"], wanted, rtol=0, atol=1e-5)


def test_every_set_of_layers_has_an_answer_of_its_own(both: Switched) -> None:
    image = {"image": toys.images(1, seed=3)[0]}
    sets = [on for count in range(3) for on in itertools.combinations(both.nodes, count)]
    answers = {on: both.run(image, on)["logits"].tobytes() for on in sets}
    assert len(set(answers.values())) == len(sets)


def test_a_node_without_an_int8_form_cannot_be_switched(both: Switched) -> None:
    with pytest.raises(ValueError, match="/block/Add has no INT8 form"):
        both.run({"image": toys.images(1)[0]}, ["/block/Add"])


def test_graphs_of_two_networks_are_refused(made: Toy, tmp_path: Path) -> None:
    renamed = onnx_graph.load(made.fp32.path)
    renamed.graph.node[0].name = "/other"
    other = onnx_graph.save(renamed, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="not two forms of one graph"), switched(other, made.int8.path, 1):
        pass


def test_the_layer_with_a_broken_scale_comes_first(made: Toy, tmp_path: Path) -> None:
    broken = onnx_graph.load(made.int8.path)
    scale = next(tensor for tensor in broken.graph.initializer if tensor.name == "w2_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
    samples = [{"image": image} for image in toys.images(4, seed=5)]
    found = sensitivity(made.fp32.path, onnx_graph.save(broken, tmp_path / "broken.onnx"), samples, 1)
    first, *others = found.layers
    assert (first.node, first.op) == ("/block/pointwise/Conv", "Conv")
    assert first.own_db < 10 < min(layer.own_db for layer in others)
    assert first.alone_db < min(layer.alone_db for layer in others)
    assert first.without_db > found.whole_db + 3
    assert found.samples == 4


def test_errors_of_layers_add_up(made: Toy) -> None:
    samples = [{"image": image} for image in toys.images(8, seed=5)]
    found = sensitivity(made.fp32.path, made.int8.path, samples, 1)
    together = -10 * np.log10(sum(10 ** (-layer.alone_db / 10) for layer in found.layers))
    assert together == pytest.approx(found.whole_db, abs=3.0)


def test_noise_counts_outputs_alike_and_an_output_of_zeros_by_its_noise() -> None:
    wanted = {"a": np.array([3.0, 4.0]), "b": np.zeros(2)}
    got = {"a": np.array([3.0, 4.5]), "b": np.array([0.1, 0.0])}
    assert noise(wanted, got) == pytest.approx((0.25 / 25 + 0.01) / 2)


class Many:
    """A network of which every layer adds a power of noise of its own, and each run takes a second."""

    def __init__(self) -> None:
        self.powers = {f"/layer{index}": 1e-4 + 1e-6 * index for index in range(100)} | {WORST: 0.1}
        self.nodes, self.runs = tuple(self.powers), 0

    def run(self, _: object, nodes: Sequence[str]) -> dict[str, np.ndarray]:
        self.runs += 1
        return {"y": np.full((1, 1), 1.0 + sum(self.powers[node] for node in nodes) ** 0.5)}


@pytest.mark.parametrize("seconds", [1.0, 4.0, 16.0, 40.0, 99.0, 101.0, 1000.0])
def test_many_layers_in_little_time_are_measured_in_groups(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Many()
    monkeypatch.setattr("time.monotonic", lambda: float(both.runs))
    found = alone(cast(Switched, both), [{"x": np.ones(1)}], {"y": np.ones((1, 1))}, seconds, seconds)
    assert both.runs <= seconds + 1
    assert found.keys() == both.powers.keys()
    assert sum(found.values()) == pytest.approx(sum(both.powers.values()))
    if seconds >= 16:
        assert max(found, key=lambda node: found[node]) == WORST
        assert found[WORST] == pytest.approx(0.1, rel=0.1)
    if seconds >= 101:
        assert found == pytest.approx(both.powers)
