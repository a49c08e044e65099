"""Every backend gives the same answers as the reference evaluator, keeps its promises, and says why it cannot."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

from deploy_runtime import backend_onnxruntime, backend_openvino, backend_tensorrt_rtx, backends, cuda
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.session import Array, Session
from deploy_runtime.spec import Batch, Tensor
from tests import toys

INPUTS = (Tensor("image", ("batch", 3, 16, 16)),)
OUTPUTS = (Tensor("logits", ("batch", 5)),)
ONE = Batch(1, 1, 1)
ON_CPU = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.conv_graph(tmp_path_factory.mktemp("graphs") / "fp32.onnx")


@pytest.fixture
def fresh() -> Iterator[None]:
    cuda.driver.cache_clear()
    yield
    cuda.driver.cache_clear()


def opened(name: str, file: Path, batch: Batch = ONE, cache: Path | None = None, **changes: Any) -> Session:
    options: dict[str, Any] = {"precision": "fp32", "inputs": INPUTS, "outputs": OUTPUTS, "threads": 1, **changes}
    return backends.get(name).open(file, batch=batch, cache=cache, **options)


def expected(graph: Path, image: Array) -> Array:
    answers = onnx.reference.ReferenceEvaluator(onnx.load(graph)).run(None, {"image": image})
    assert isinstance(answers, list)
    return np.asarray(answers[0])


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize(
    ("batch", "sizes"), [(Batch(1, 1, 1), [1]), (Batch(3, 3, 3), [3]), (Batch(1, 2, 4), [1, 2, 4])]
)
def test_answers_are_the_references(name: str, batch: Batch, sizes: list[int], graph: Path) -> None:
    with opened(name, graph, batch) as session:
        for size in sizes:
            image = np.concatenate(toys.images(size, seed=size))
            got = session.run({"image": image})
            assert list(got) == ["logits"]
            assert got["logits"].dtype == np.float32
            np.testing.assert_allclose(got["logits"], expected(graph, image), atol=1e-5)


@pytest.mark.parametrize("name", ON_CPU)
def test_answers_are_the_callers_to_keep(name: str, graph: Path) -> None:
    one, other = toys.images(2)
    session = opened(name, graph)
    first = session.run({"image": one})["logits"]
    kept = first.copy()
    session.run({"image": other})
    session.close()
    session.close()
    np.testing.assert_array_equal(first, kept)
    first[0] = 0.0  # writable, and nobody else's


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell a thread's cores")
@pytest.mark.parametrize("every", [True, False])
def test_only_the_engines_threads_are_pinned(every: bool, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_openvino, "takes_every_core", lambda _: every)
    before = os.sched_getaffinity(0)
    with opened("openvino", graph, threads=2) as session:
        session.run({"image": toys.images(1)[0]})
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before
    assert backend_openvino.settings("fp32", 2)["ENABLE_CPU_PINNING"] is every


@pytest.mark.parametrize("name", ON_CPU)
def test_an_input_that_is_a_view_is_read_rightly(name: str, graph: Path) -> None:
    image = np.concatenate(toys.images(2))
    view = np.asfortranarray(image[1:])
    with opened(name, graph) as session:
        np.testing.assert_allclose(session.run({"image": view})["logits"], expected(graph, view), atol=1e-5)


@pytest.mark.parametrize("name", ON_CPU)
def test_what_is_compiled_is_cached_gives_the_same_and_may_be_damaged(name: str, graph: Path, tmp_path: Path) -> None:
    (image,) = toys.images(1)
    answers = []
    for _ in range(2):
        with opened(name, graph, cache=tmp_path) as session:
            answers.append(session.run({"image": image})["logits"])
    np.testing.assert_array_equal(answers[0], answers[1])
    files = sorted(tmp_path.rglob("*.*"))
    assert len(files) == 1
    for file in files:
        file.write_bytes(b"damaged")
    with opened(name, graph, cache=tmp_path) as session:
        np.testing.assert_array_equal(session.run({"image": image})["logits"], answers[0])
    assert [file.stat().st_size > 100 for file in files] == [True]  # it was made again


def test_another_batch_never_takes_the_cached_graph_of_this_one(graph: Path, tmp_path: Path) -> None:
    for size in (1, 2):
        image = np.concatenate(toys.images(size))
        with opened("onnxruntime", graph, Batch(size, size, size), tmp_path) as session:
            assert session.run({"image": image})["logits"].shape == (size, 5)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with opened("onnxruntime", graph, cache=tmp_path / "file") as session:
        assert session.run({"image": toys.images(1)[0]})["logits"].shape == (1, 5)


@pytest.mark.parametrize("name", ON_CPU)
def test_a_file_that_is_no_graph_is_an_error_of_two_lines(name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    for file in ("bad.onnx", "absent.onnx"):
        with pytest.raises(DeployError, match=r"cannot open .*\.onnx"):
            opened(name, tmp_path / file)


@pytest.mark.parametrize("name", ON_CPU)
def test_a_graph_of_another_manifest_is_refused(name: str, graph: Path) -> None:
    with pytest.raises(DeployError, match="tensors logits instead of scores"):
        opened(name, graph, outputs=(Tensor("scores", ("batch", 5)),))


@pytest.mark.parametrize("name", ON_CPU)
def test_a_precision_that_it_does_not_run_is_refused(name: str, graph: Path) -> None:
    with pytest.raises(DeployError, match="fp16"):
        opened(name, graph, precision="fp16")


def test_openvino_runs_in_bf16_or_refuses_and_never_in_something_else(graph: Path) -> None:
    import openvino  # type: ignore[import-untyped]

    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if able:
        with opened("openvino", graph, precision="bf16") as session:
            assert session.run({"image": toys.images(1)[0]})["logits"].shape == (1, 5)
    else:
        with pytest.raises(DeployError, match="this processor has no bf16"):
            opened("openvino", graph, precision="bf16")


@pytest.mark.parametrize(
    ("module", "library"),
    [(backend_openvino, "openvino"), (backend_onnxruntime, "onnxruntime")],
    ids=["openvino", "onnxruntime"],
)
def test_a_library_that_is_not_installed_is_named_with_its_command(
    module: Any, library: str, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.missing() is None
    assert module.version()[0].isdigit()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert f"pip install '{library}" in str(module.missing())
    with pytest.raises(DeployError, match="is not installed") as caught:
        opened(library, graph)
    assert f"pip install '{library}" in caught.value.fix


def test_an_unknown_backend_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean openvino"):
        backends.get("openvin")


def test_the_cuda_target_without_a_driver_is_an_error_and_never_the_cpu(
    graph: Path, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libnothing.so")
    with pytest.raises(DeployError, match="no NVIDIA driver found"):
        opened("onnxruntime", graph, target="cuda")


def test_without_a_driver_tensorrt_is_not_even_imported(
    graph: Path, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libnothing.so")
    monkeypatch.setattr("builtins.__import__", _no_tensorrt(__import__))
    assert backend_tensorrt_rtx.missing() == "no NVIDIA driver found"
    with pytest.raises(DeployError, match="no NVIDIA driver found"):
        opened("tensorrt_rtx", graph, target="rtx")
    with pytest.raises(DeployError, match="no NVIDIA driver found"):
        backend_tensorrt_rtx.version()


def _no_tensorrt(real: Any) -> Any:
    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        assert not name.startswith(("tensorrt", "cuda")), f"{name} was imported without a driver"
        return real(name, *args, **kwargs)

    return importing


class FakeDriver:
    """Stands for libcuda where only its return codes matter: no claim about a GPU rests on it."""

    def __init__(self, code: int, count: int) -> None:
        self.code, self.count = code, count

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's own name
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 6}[attribute]
        return 0


@pytest.mark.parametrize(
    ("code", "count", "said"),
    [
        (0, 1, None),
        (0, 0, "the NVIDIA driver finds no GPU"),
        (100, 0, "the NVIDIA driver finds no GPU"),
        (999, 0, "the NVIDIA driver does not start (cuInit gave 999)"),
    ],
)
def test_what_the_driver_says_is_said_plainly(
    code: int, count: int, said: str | None, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(code, count))
    assert cuda.driver() == said
    assert cuda.compute_capability() == ((8, 6) if said is None else None)


def test_every_tensorrt_call_of_the_backend_exists_in_the_real_library() -> None:
    """No engine can run without a GPU, but a call that a release removed is found here."""
    import tensorrt_rtx as trt  # type: ignore[import-untyped]
    from cuda.bindings import runtime  # type: ignore[import-untyped]

    for kind, names in {
        "Runtime": "get_engine_validity deserialize_cuda_engine",
        "ICudaEngine": "num_io_tensors get_tensor_name create_runtime_config create_execution_context",
        "IRuntimeConfig": "create_runtime_cache set_runtime_cache",
        "IRuntimeCache": "serialize deserialize",
        "IExecutionContext": "set_tensor_address set_input_shape execute_async_v3",
        "EngineValidity": "INVALID",
        "Logger": "ERROR",
    }.items():
        assert [name for name in names.split() if not hasattr(getattr(trt, kind), name)] == []
    calls = "StreamCreate StreamDestroy StreamSynchronize Malloc Free MemcpyAsync MemcpyKind GetErrorString"
    assert [call for call in calls.split() if not hasattr(runtime, f"cuda{call}")] == []
