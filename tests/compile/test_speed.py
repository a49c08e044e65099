from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy_compile import speed
from deploy_compile.results import Built, Loaded, Speeds
from deploy_compile.speed import time_engines
from deploy_compile.worker import Worker
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Backend
from deploy_runtime.spec import Batch
from tests.compile.quantized_toy import INPUTS, OUTPUTS, Toy, toy

NET = """
import torch
from dataclasses import replace
from deploy_recipes import Recipe, Tensor, Classes

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3)
    def forward(self, image):
        return self.conv(image).mean((2, 3))

net = Recipe(
    name="net", family="toys", network=Net, inputs=(Tensor("image", ("batch", 3, 16, 16)),),
    outputs=(Tensor("logits", ("batch", 5)),), task=Classes(5), parameters=140, source="a test",
)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    from deploy_compile.load import load
    from deploy_recipes import resolve

    folder = tmp_path_factory.mktemp("net")
    (folder / "nets.py").write_text(NET)
    ref = f"{folder / 'nets.py'}:net"
    return load(folder, resolve(ref), ref, {}, "seeded", None)


def engine(made: Toy, backend: Backend) -> Built:
    return Built(backend, "fp32", "cpu", "passed", "", made.fp32.path, (), 0.0)


def timed(made: Toy, loaded: Loaded, *engines: Built, threads: int = 1) -> Speeds:
    return time_engines(engines, loaded, INPUTS, OUTPUTS, Batch(), made.samples, threads, budget_s=0.2)


def test_candidates_are_timed_beside_pytorch(made: Toy, loaded: Loaded) -> None:
    found = timed(made, loaded, engine(made, "openvino"), engine(made, "onnxruntime"))
    assert set(found.measured) == {"openvino fp32", "onnxruntime fp32"}
    assert found.failed == {}
    for one in found.measured.values():
        assert one.low <= one.ratio <= one.high
        assert one.runs >= speed.LEAST_ROUNDS
        assert one.threads == found.threads == 1
        assert 0 < one.p50_ms <= one.p90_ms


def test_what_memory_does_not_hold_at_once_is_timed_in_parts(
    made: Toy, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[list[str]] = []
    side_by_side = speed.side_by_side

    def told(openers: Mapping[str, tuple[Any, ...]], *args: Any) -> Any:
        held.append(list(openers))
        return side_by_side(openers, *args)

    monkeypatch.setattr(speed, "TOGETHER", 1)
    monkeypatch.setattr(speed, "side_by_side", told)
    found = timed(made, loaded, engine(made, "onnxruntime"), engine(made, "openvino"))
    assert held == [[speed.TORCH, "onnxruntime fp32"], [speed.TORCH, "openvino fp32", "onnxruntime fp32"]]
    assert list(found.measured) == ["onnxruntime fp32", "openvino fp32"]
    lags = {name: one.lag for name, one in found.measured.items()}
    assert min(lags.values()) == 1.0


def test_one_that_cannot_be_opened_is_a_reason(made: Toy, loaded: Loaded, tmp_path: Path) -> None:
    broken = replace(engine(made, "openvino"), file=tmp_path / "absent.onnx")
    found = timed(made, loaded, broken, engine(made, "onnxruntime"))
    assert "cannot open" in found.failed["openvino fp32"]
    assert set(found.measured) == {"onnxruntime fp32"}


class Killed(Worker):
    """A worker whose third turn, where it holds OpenVINO, meets a segmentation fault."""

    turns = 0

    def hold(self, function: str, *args: object, timeout_s: float = 60.0) -> None:
        self.doomed = "openvino" in args
        super().hold(function, *args, timeout_s=timeout_s)

    def held(self, method: str, *args: object, timeout_s: float = 60.0) -> object:
        self.turns += 1
        if self.doomed and self.turns == 3:
            return self.call("os:abort")
        return super().held(method, *args, timeout_s=timeout_s)


def test_one_that_dies_is_a_reason_and_the_others_go_on(
    made: Toy, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "Worker", Killed)
    found = timed(made, loaded, engine(made, "openvino"), engine(made, "onnxruntime"))
    assert found.failed == {"openvino fp32": "killed by signal 6 (SIGABRT)"}
    assert found.measured["onnxruntime fp32"].runs >= speed.LEAST_ROUNDS


def test_without_pytorch_there_is_nothing_to_compare(made: Toy, loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises((DeployError, OSError)):
        timed(made, replace(loaded, weights=tmp_path / "absent.safetensors"), engine(made, "openvino"))


def test_no_engine_is_no_work(made: Toy, loaded: Loaded) -> None:
    assert timed(made, loaded) == Speeds({}, {}, 1)
