"""Which optimization profile runs a batch, with a stand-in for TensorRT: no GPU runs in these tests."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_runtime import DeployError, tensorrt_build
from deploy_runtime.spec import Batch, Tensor
from deploy_runtime.tensorrt_contexts import Contexts
from tests.runtime.fake_tensorrt import Fake

CLIP = Tensor("frames", ("batch", 16, 3, 8, 8), layout="NTCHW")
STATE = Tensor("h", ("batch", 1, 4))
STREAM = 7


def contexts(batch: Batch, frames_open: bool = True) -> tuple[Contexts, Fake]:
    opened = [(CLIP.of_frames(1) if frames_open else CLIP, CLIP), (STATE, STATE)]
    names = [(tensor.name, tensor.at(1)) for tensor in (CLIP, STATE)]
    fake = Fake("tensorrt-10.3.0", inputs=names, profiles=tensorrt_build.profiles(opened, batch))
    engine: Any = fake.module().Runtime(None).deserialize_cuda_engine(b"")
    return Contexts(engine, engine.create_execution_context, [CLIP.name, STATE.name]), fake


def shapes(batch: int, frames: int) -> dict[str, tuple[int, ...]]:
    return {"frames": (batch, frames, 3, 8, 8), "h": (batch, 1, 4)}


def selected(fake: Fake) -> list[str]:
    return [call for call in fake.calls if "set_optimization_profile_async" in call]


def test_a_step_and_a_clip_have_profiles_of_their_own() -> None:
    found, fake = contexts(Batch())
    step, clip = found.of(shapes(1, 1), STREAM), found.of(shapes(1, 16), STREAM)
    assert step is not clip
    assert selected(fake) == ["IExecutionContext.set_optimization_profile_async(1, 7)"]
    assert found.of(shapes(1, 7), STREAM) is clip
    assert found.of(shapes(1, 1), STREAM) is step
    assert fake.calls.count("IExecutionContext") == 2, "a context is made once"


def test_an_engine_of_one_shape_has_one_profile() -> None:
    found, fake = contexts(Batch(), frames_open=False)
    found.of(shapes(1, 16), STREAM)
    assert not selected(fake)
    assert fake.calls.count("IExecutionContext") == 1


@given(st.integers(1, 16), st.integers(1, 16))
def test_every_shape_that_a_bundle_serves_has_a_context(batch: int, frames: int) -> None:
    found, _ = contexts(Batch(1, 4, 16))
    assert found.of(shapes(batch, frames), STREAM)


@pytest.mark.parametrize(("batch", "frames"), [(17, 16), (1, 17), (0, 1)])
def test_a_shape_that_no_profile_serves_is_refused(batch: int, frames: int) -> None:
    found, _ = contexts(Batch(1, 4, 16))
    with pytest.raises(DeployError, match=rf"the engine serves no frames \[{batch}, {frames}, 3, 8, 8\]"):
        found.of(shapes(batch, frames), STREAM)


def test_a_gpu_without_memory_for_a_context_is_told() -> None:
    found, fake = contexts(Batch())
    fake.room = False
    with pytest.raises(DeployError, match="the GPU has no memory left"):
        found.of(shapes(1, 1), STREAM)
