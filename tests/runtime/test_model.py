"""`load` takes the best engine that may run here and says why; `run` keeps bad input out of native code."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy_runtime import (
    DeployError,
    UsageError,
    backend_onnxruntime,
    backend_openvino,
    backend_tensorrt_rtx,
    device_cache,
    load,
    manifest,
    proof,
)
from deploy_runtime.session import Array, NotHereError, Session
from deploy_runtime.spec import Batch, Preprocess, Tensor
from tests import toys
from tests.runtime import tiny_bundle


class FakeEngine(Session):
    """Stands for an engine where only the choice among engines is tested."""

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return {"logits": np.zeros((len(inputs["image"]), 5), np.float32)}

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_tensorrt_rtx, "missing", lambda: None)
    monkeypatch.setattr(backend_tensorrt_rtx, "version", lambda: "1.7")
    monkeypatch.setattr(backend_tensorrt_rtx, "open", lambda *given: FakeEngine())


def absent(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
    for module in modules:
        monkeypatch.setattr(module, "find_spec", lambda name: None)


def test_the_chosen_engine_answers_as_pytorch_did(bundle: Path, no_gpu: None) -> None:
    golden = np.load(bundle / "golden" / "inputs.npz")["image"]
    answers = np.load(bundle / "golden" / "outputs.npz")["logits"]
    with load(bundle) as model:
        assert (model.backend, model.precision) == ("openvino", "fp32")
        assert model.why == "no NVIDIA driver found: TensorRT engines skipped"
        assert model.labels == ("a", "b", "c", "d", "e")
        assert [tensor.name for tensor in (*model.inputs, *model.outputs)] == ["image", "logits"]
        for one, answer in zip(golden, answers, strict=True):
            np.testing.assert_allclose(model.run({"image": one[None]})["logits"][0], answer, atol=1e-5)


def test_the_fallback_is_taken_where_the_chosen_library_is_missing(
    bundle: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, backend_openvino)
    with load(str(bundle)) as model:
        assert model.backend == "onnxruntime"
        assert "OpenVINO is not installed: openvino fp32 skipped" in model.why


def test_an_engine_that_this_processor_cannot_run_is_passed_over(
    bundle: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> Session:
        raise NotHereError("this processor has no bf16", "Use another.")

    monkeypatch.setattr(backend_openvino, "open", refuse)
    with load(bundle) as model:
        assert model.backend == "onnxruntime"
        assert "this processor has no bf16: openvino fp32 skipped" in model.why
    with pytest.raises(DeployError, match="no bf16"):
        load(bundle, backend="openvino")


def test_where_no_library_is_here_every_reason_is_named(
    bundle: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, backend_openvino, backend_onnxruntime)
    with pytest.raises(DeployError) as caught:
        load(bundle)
    for said in ("OpenVINO is not installed", "ONNX Runtime is not installed", "no NVIDIA driver found"):
        assert said in caught.value.message
    assert caught.value.fix.startswith("pip install 'openvino")


def test_a_backend_asked_for_is_the_one_or_an_error(
    bundle: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(bundle, backend="onnxruntime") as model:
        assert model.backend == "onnxruntime"
    with pytest.raises(DeployError, match="tensorrt_rtx cannot be used here: no NVIDIA driver found"):
        load(bundle, backend="tensorrt_rtx")
    with pytest.raises(UsageError, match="no backend 'tensorflow'"):
        load(bundle, backend="tensorflow")
    absent(monkeypatch, backend_onnxruntime)
    with pytest.raises(DeployError, match="onnxruntime cannot be used here: ONNX Runtime is not installed") as caught:
        load(bundle, backend="onnxruntime")
    assert "pip install 'onnxruntime" in caught.value.fix


def test_a_backend_that_the_bundle_does_not_ship_is_an_error(tmp_path: Path, bundle: Path, no_gpu: None) -> None:
    rows = manifest.read(bundle).candidates
    other = tiny_bundle.write(tmp_path / "other", candidates=(rows[0], replace(rows[1], file=None)), fallback=None)
    with pytest.raises(DeployError, match="toy ships no engine for onnxruntime") as caught:
        load(other, backend="onnxruntime")
    assert caught.value.fix == "It ships openvino: ask for one of those."


def test_an_engine_that_was_never_run_needs_this_machines_proof(bundle: Path, gpu: None) -> None:
    engine = manifest.read(bundle).candidates[2]
    with load(bundle) as model:
        assert model.backend == "openvino"
        assert "tensorrt_rtx fp32 was never run on this machine" in model.why
    with pytest.raises(DeployError, match="never run on this machine") as caught:
        load(bundle, backend="tensorrt_rtx")
    assert "deploy_runtime verify" in caught.value.fix
    proof.keep(manifest.digest(bundle), engine)
    with load(bundle) as model:
        assert model.backend == "tensorrt_rtx"


def test_a_proof_says_nothing_of_another_bundle_library_or_machine(
    bundle: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    engine, digest = manifest.read(bundle).candidates[2], manifest.digest(bundle)
    proof.keep(digest, engine)
    assert proof.kept(digest, engine)
    assert not proof.kept("0" * 64, engine)
    assert not proof.kept(digest, replace(engine, precision="fp16"))
    monkeypatch.setattr(backend_tensorrt_rtx, "version", lambda: "1.8")
    assert not proof.kept(digest, engine)
    monkeypatch.setattr(backend_tensorrt_rtx, "version", lambda: "1.7")
    for file in (cache / "verified").iterdir():
        file.write_text("{")
    assert not proof.kept(digest, engine)


@pytest.fixture
def model(bundle: Path, no_gpu: None) -> Any:
    with load(bundle, threads=1) as opened:
        yield opened


GOOD = toys.images(1)[0]


@pytest.mark.parametrize(
    ("inputs", "said", "fix"),
    [
        ({"video": GOOD}, "inputs are video instead of image", "exactly image"),
        ({}, "inputs are nothing instead of image", "exactly image"),
        ({"image": GOOD, "more": GOOD}, "inputs are image, more instead of image", "exactly image"),
        (GOOD, "inputs are a ndarray instead of image", "exactly image"),
        ({"image": GOOD.tolist()}, "image is a list instead of a numpy array", "np.asarray(value, np.float32)"),
        ({"image": GOOD.astype(np.float64)}, "image is float64 instead of float32", "image.astype(np.float32)"),
        ({"image": GOOD.astype(np.uint8)}, "image is uint8 instead of float32", "model.preprocess(frames)"),
        ({"image": GOOD[0]}, "3 axes, [3, 16, 16], instead of 4", "image[None]"),
        ({"image": GOOD[None]}, "5 axes", "[1 (batch), 3, 16, 16]"),
        ({"image": GOOD[:, :, :15]}, "shape [1, 3, 15, 16]", "[1 (batch), 3, 16, 16]"),
        ({"image": GOOD.repeat(2, axis=0)}, "shape [2, 3, 16, 16]", "[1 (batch), 3, 16, 16]"),
        ({"image": GOOD[:0]}, "shape [0, 3, 16, 16]", "[1 (batch), 3, 16, 16]"),
        ({"image": np.full_like(GOOD, np.nan)}, "NaN or Inf", "Look at where it comes from"),
        ({"image": np.where(GOOD > 0, np.inf, GOOD).astype(np.float32)}, "NaN or Inf", "Look"),
    ],
)
def test_bad_input_is_refused_with_the_actual_and_the_wanted(model: Any, inputs: Any, said: str, fix: str) -> None:
    with pytest.raises(DeployError) as caught:
        model.run(inputs)
    assert said in caught.value.message
    assert fix in caught.value.fix


def test_a_range_of_batches_is_served_and_its_ends_are_named(tmp_path: Path, no_gpu: None) -> None:
    bundle = tiny_bundle.write(tmp_path / "dynamic", batch=Batch(1, 2, 3))
    with load(bundle) as model:
        for size in (1, 2, 3):
            assert model.run({"image": np.concatenate(toys.images(size))})["logits"].shape == (size, 5)
        with pytest.raises(DeployError) as caught:
            model.run({"image": np.concatenate(toys.images(4))})
    assert "[1 to 3 (batch), 3, 16, 16]" in caught.value.fix


def test_inputs_of_different_batches_are_refused() -> None:
    from deploy_runtime.inputs import check_inputs

    wanted = (Tensor("now", ("batch", 2)), Tensor("prior", ("batch", 2)))
    arrays = {"now": np.zeros((1, 2), np.float32), "prior": np.zeros((2, 2), np.float32)}
    with pytest.raises(DeployError, match="now has 1, prior has 2"):
        check_inputs(arrays, wanted, Batch(1, 2, 2))


def test_two_inputs_exchanged_are_told_so() -> None:
    from deploy_runtime.inputs import check_inputs

    wanted = (Tensor("slow", ("batch", 3, 8, 4, 4)), Tensor("fast", ("batch", 3, 32, 4, 4)))
    slow, fast = np.zeros((1, 3, 8, 4, 4), np.float32), np.zeros((1, 3, 32, 4, 4), np.float32)
    check_inputs({"slow": slow, "fast": fast}, wanted, Batch())
    with pytest.raises(DeployError, match="slow and fast look exchanged"):
        check_inputs({"slow": fast, "fast": slow}, wanted, Batch())
    with pytest.raises(DeployError, match="slow has the shape"):
        check_inputs({"slow": fast, "fast": fast}, wanted, Batch())


def test_frames_become_what_the_network_takes(model: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = model.preprocess(frames)
    assert (image.shape, image.dtype) == ((1, 3, 16, 16), np.float32)
    assert model.run({"image": image})["logits"].shape == (1, 5)
    with pytest.raises(DeployError, match="the frames are float32"):
        model.preprocess(frames.astype(np.float32))


def test_a_bundle_without_preprocessing_says_what_to_prepare(tmp_path: Path, no_gpu: None) -> None:
    nothing: Preprocess | None = None
    bundle = tiny_bundle.write(tmp_path / "plain", preprocess=nothing)
    with load(bundle) as model, pytest.raises(DeployError, match="ships no preprocessing") as caught:
        model.preprocess(np.zeros((4, 4, 3), np.uint8))
    assert "image ['batch', 3, 16, 16]" in caught.value.fix


def test_after_close_nothing_runs(bundle: Path, no_gpu: None) -> None:
    model = load(bundle)
    model.close()
    model.close()
    with pytest.raises(DeployError, match="toy is closed"):
        model.run({"image": GOOD})


def test_several_threads_may_share_a_model(model: Any) -> None:
    samples = toys.images(8)
    wanted = [model.run({"image": sample})["logits"] for sample in samples]
    wrong: list[int] = []

    def work(numbers: Sequence[int]) -> None:
        wrong.extend(i for i in numbers if not np.array_equal(model.run({"image": samples[i]})["logits"], wanted[i]))

    threads = [threading.Thread(target=work, args=(range(start, 8),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_damaged_bundle_does_not_load_unless_told_not_to_look(bundle: Path, no_gpu: None) -> None:
    answers = bundle / "golden" / "outputs.npz"
    answers.write_bytes(answers.read_bytes()[:-1])
    with pytest.raises(DeployError, match=r"outputs\.npz has \d+ bytes"):
        load(bundle)
    load(bundle, verify=False).close()


def test_a_newer_bundle_is_refused_by_load(bundle: Path) -> None:
    path = bundle / manifest.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(DeployError, match="this bundle has format 2, this runtime reads up to 1"):
        load(bundle)


def test_threads_below_one_are_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="threads is 0"):
        load(bundle, threads=0)


def test_a_cache_that_cannot_be_made_does_not_stop_a_load(bundle: Path, no_gpu: None, cache: Path) -> None:
    cache.write_text("in the way")
    assert device_cache.writable("compiled") is None
    with load(bundle) as model:
        assert model.run({"image": GOOD})["logits"].shape == (1, 5)


@pytest.mark.parametrize(("objective", "threads"), [("latency", 4), ("throughput", 1), ("size", 4)])
def test_a_bundle_made_for_throughput_takes_one_thread(
    tmp_path: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch, objective: str, threads: int
) -> None:
    made = tiny_bundle.write(tmp_path / "made", objective=objective)
    told: list[int] = []

    def opening(*given: Any) -> Session:
        told.append(given[5])
        return FakeEngine()

    monkeypatch.setattr(backend_openvino, "open", opening)
    monkeypatch.setattr("deploy_runtime.model.physical_cores", lambda: 4)
    load(made).close()
    load(made, threads=3).close()
    assert told == [threads, 3]
