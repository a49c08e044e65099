import pytest

from deploy_compile import targets
from deploy_runtime import cuda
from deploy_runtime.errors import DeployError, UsageError


def test_fp32_and_bf16_are_always_candidates() -> None:
    found = targets.candidates(("cpu",), fp16=False, int8=False)
    assert [(backend, precision) for _, backend, precision in found] == [
        ("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fp16", "int8", "wanted"),
    [
        (False, False, {"fp32"}),
        (True, False, {"fp32", "fp16"}),
        (False, True, {"fp32", "int8", "int8_fp16"}),
        (True, True, {"fp32", "fp16", "int8", "int8_fp16"}),
    ],
)
def test_each_option_adds_its_precisions(fp16: bool, int8: bool, wanted: set[str]) -> None:
    assert {precision for _, _, precision in targets.candidates(("rtx",), fp16, int8)} == wanted


def test_int8_adds_the_mixed_kind_of_each_backend() -> None:
    found = {(backend, precision) for _, backend, precision in targets.candidates(("cpu", "rtx"), False, True)}
    assert ("openvino", "int8_bf16") in found
    assert ("tensorrt_rtx", "int8_fp16") in found
    assert ("onnxruntime", "int8_bf16") not in found


def test_a_target_named_twice_counts_once() -> None:
    assert targets.candidates(("cpu", "cpu"), False, False) == targets.candidates(("cpu",), False, False)


def test_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean rtx"):
        targets.get("RTXX")


def test_cuda_is_refused_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "driver", lambda: "no NVIDIA driver found")
    with pytest.raises(DeployError, match="NVIDIA GPU: no NVIDIA driver found"):
        targets.candidates(("cuda",), True, False)
    monkeypatch.setattr(cuda, "driver", lambda: None)
    assert [precision for _, _, precision in targets.candidates(("cuda",), True, False)] == ["fp32", "fp16"]


def test_an_engine_that_is_not_run_where_it_is_built_says_so() -> None:
    assert all(target.note for target in targets.TARGETS if not target.executed)
