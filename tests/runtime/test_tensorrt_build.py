from pathlib import Path

import pytest

from deploy_runtime import DeployError, tensorrt_build
from deploy_runtime.spec import Batch, Tensor
from deploy_runtime.tensorrt_build import RefusedError, Settings
from tests.runtime.fake_tensorrt import Fake
from tests.runtime.trt_names import DUMPS

RELEASES = sorted(path.stem for path in DUMPS.glob("*.json"))
FULL = [release for release in RELEASES if not release.startswith("tensorrt_rtx")]
IMAGE = Tensor("image", ("batch", 3, 8, 8))
GRAPH = Path("graphs/int8.onnx")


def built(fake: Fake, settings: Settings = Settings()) -> tensorrt_build.Plan:  # noqa: B008 - frozen
    return tensorrt_build.build(fake.module(), GRAPH, (IMAGE,), Batch(1, 2, 4), settings)


@pytest.mark.parametrize("release", RELEASES)
def test_the_order_of_calls(release: str) -> None:
    fake = Fake(release)
    plan = built(fake, Settings(("sm86",) if release not in FULL else ()))
    calls = fake.calls
    order = [
        "Builder.create_network(", "OnnxParser.parse_from_file(int8.onnx)", "IBuilderConfig.profiling_verbosity",
        "IOptimizationProfile.set_shape('image', (1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))",
        "IBuilderConfig.add_optimization_profile", "Builder.error_recorder", "Builder.build_serialized_network(",
    ]  # fmt: skip
    places = [next(place for place, call in enumerate(calls) if call.startswith(word)) for word in order]
    assert places == sorted(places)
    assert plan.content == b"engine of " + release.encode()
    assert not any("set_flag" in call for call in calls), "precision lives in the graph"


@pytest.mark.parametrize("release", RELEASES)
def test_timings_are_kept_where_the_release_has_any(release: str) -> None:
    fake = Fake(release)
    capabilities = () if release in FULL else ("sm86", "sm89")
    plan = built(fake, Settings(capabilities, timing_cache=b"earlier"))
    given = [call for call in fake.calls if "create_timing_cache" in call]
    assert given == (["IBuilderConfig.create_timing_cache(b'earlier')"] if release in FULL else [])
    assert plan.timing_cache == (b"timings" if release in FULL else b"")
    capable = [call for call in fake.calls if "set_compute_capability" in call]
    assert len(capable) == len(capabilities)


@pytest.mark.parametrize("release", FULL)
def test_every_setting_reaches_the_library(release: str) -> None:
    fake = Fake(release)
    built(fake, Settings(workspace_mib=2, level=4, hardware_compatible=True, version_compatible=True))
    said = set(fake.calls)
    assert "IBuilderConfig.set_memory_pool_limit(MemoryPoolType.WORKSPACE, 2097152)" in said
    assert "IBuilderConfig.builder_optimization_level = 4" in said
    assert "IBuilderConfig.hardware_compatibility_level = HardwareCompatibilityLevel.AMPERE_PLUS" in said
    assert "IBuilderConfig.set_flag(BuilderFlag.VERSION_COMPATIBLE)" in said


@pytest.mark.parametrize("release", RELEASES)
def test_an_open_time_axis_serves_single_frames_up_to_the_clip(release: str) -> None:
    fake = Fake(release, inputs=(("frames", (-1, -1, 3, 8, 8)), ("h", (-1, 2, 4))))
    frames, state = Tensor("frames", ("batch", 16, 3, 8, 8), layout="NTCHW"), Tensor("h", ("batch", 2, 4), layout="N??")
    tensorrt_build.build(fake.module(), GRAPH, (frames, state), Batch(), Settings())
    shapes = [call for call in fake.calls if "set_shape" in call]
    assert "(1, 1, 3, 8, 8), (1, 16, 3, 8, 8), (1, 16, 3, 8, 8)" in shapes[0]
    assert "(1, 2, 4), (1, 2, 4), (1, 2, 4)" in shapes[1]
    assert "(1, 1, 3, 8, 8), (1, 1, 3, 8, 8), (1, 1, 3, 8, 8)" in shapes[2], "a live stream's step has its own profile"
    assert sum("add_optimization_profile" in call for call in fake.calls) == 2


@pytest.mark.parametrize(("batch", "profiles"), [(Batch(), 1), (Batch(1, 1, 8), 1), (Batch(2, 4, 4), 2)])
def test_the_least_batch_has_its_own_profile_where_it_is_not_the_best(batch: Batch, profiles: int) -> None:
    fake = Fake(FULL[0])
    tensorrt_build.build(fake.module(), GRAPH, (IMAGE,), batch, Settings())
    assert sum("add_optimization_profile" in call for call in fake.calls) == profiles


@pytest.mark.parametrize("release", RELEASES)
def test_a_refusal_of_the_parser_names_its_nodes(release: str) -> None:
    errors = [("Unique", "/pool/Unique", "false"), ("Det", "", "no plugin"), ("Det", "b", "x"), ("Det", "c", "y")]
    with pytest.raises(RefusedError) as told:
        built(Fake(release, refuses=errors))
    assert "Unique /pool/Unique: it is not supported; Det (no name): no plugin" in told.value.message
    assert told.value.message.endswith("; and 1 more")


@pytest.mark.parametrize("release", RELEASES)
def test_a_failed_build_says_the_recorders_words_and_their_nodes(release: str) -> None:
    words = "Could not find any implementation for node '/head/Gemm'."
    with pytest.raises(RefusedError) as told:
        built(Fake(release, fails=[words, words]))
    assert "could not compile the graph (at /head/Gemm)" in told.value.message
    assert told.value.message.count(words) == 1


def test_a_compute_capability_that_the_compiler_lacks_is_told() -> None:
    with pytest.raises(DeployError, match="no compute capability 'sm87'"):
        built(Fake("tensorrt_rtx-1.7.1"), Settings(("sm87",)))


def test_the_fake_knows_no_more_than_its_release() -> None:
    assert Fake(FULL[0]).module().BuilderFlag.FP16 is not None
    with pytest.raises(AttributeError):
        _ = Fake("tensorrt-11.4.0.106").module().BuilderFlag.FP16
    with pytest.raises(AttributeError):
        _ = Fake("tensorrt-11.4.0.106").module().IInt8Calibrator
    with pytest.raises(AttributeError):
        Fake("tensorrt-11.4.0.106").module().Builder(None).platform_has_fast_fp16()
