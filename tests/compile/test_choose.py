"""The choice: fastest that passes, simpler within noise, a fallback of another backend, honest words."""

import pytest

from deploy_compile.choose import choose
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import Backend, Candidate, Precision, Speed, Status


def row(
    backend: Backend,
    precision: Precision,
    ratio: float,
    *,
    lag: float = 1.02,
    lag_low: float = 1.1,
    status: Status = "passed",
    reason: str = "",
) -> Candidate:
    speed = Speed(ratio, ratio * 0.98, ratio * 1.02, 10.0, 11.0, 10.0 * ratio, 30, 1, lag=lag, lag_low=lag_low)
    return Candidate(backend, precision, "cpu", status, reason, speed=speed if status == "passed" else None)


def test_the_fastest_that_passes_ships_with_a_fallback_of_another_backend() -> None:
    rows = [
        row("openvino", "fp32", 3.0),
        row("openvino", "int8", 6.0),
        row("onnxruntime", "fp32", 1.2),
        row("onnxruntime", "int8", 2.0),
    ]
    choice = choose(rows, None, ("int8",))
    assert (choice.chosen, choice.fallback) == (1, 3)
    assert choice.sentence.startswith("openvino int8: 6.0x PyTorch here, and it passes; 2.00x of openvino fp32")


def test_the_next_best_may_be_another_engine_of_the_same_precision() -> None:
    rows = [row("openvino", "fp32", 3.0), row("openvino", "int8", 5.0), row("onnxruntime", "int8", 6.0)]
    assert choose(rows, None, ("int8",)).sentence == (
        "onnxruntime int8: 6.0x PyTorch here, and it passes; 1.20x of openvino int8, the next best, "
        "and 2.00x of openvino fp32, the best in another precision"
    )


def test_within_noise_the_simpler_one_ships_and_says_so() -> None:
    rows = [row("openvino", "bf16", 6.0, lag_low=0.99), row("openvino", "int8", 6.1)]
    choice = choose(rows, None, ("int8",))
    assert choice.chosen == 0
    assert "openvino int8 is 1.02x of it, within noise" in choice.sentence


def test_what_a_busy_machine_cannot_tell_is_said() -> None:
    choice = choose([row("openvino", "fp32", 2.0, lag=1.7, lag_low=0.9), row("openvino", "int8", 3.4)], None, ("int8",))
    assert choice.chosen == 0
    assert "openvino int8 is 1.70x of it, as far as this busy machine can tell: perhaps noise" in choice.sentence


def test_an_int8_that_is_slower_is_told() -> None:
    choice = choose([row("openvino", "bf16", 6.0), row("openvino", "int8", 5.0)], None, ("int8",))
    assert choice.sentence.endswith("int8 was asked for, passes, and is no faster here")


def test_a_faster_one_that_fails_is_told_and_not_shipped() -> None:
    rows = [
        row("openvino", "bf16", 6.0),
        row("openvino", "int8", 9.0, status="failed", reason="cosine 0.9, limit 0.99"),
    ]
    choice = choose(rows, None, ("int8",))
    assert choice.chosen == 0
    assert choice.fallback is None
    assert "openvino int8 failed: cosine 0.9, limit 0.99" in choice.sentence


def test_for_size_the_smallest_that_is_no_slower_than_pytorch_ships() -> None:
    rows = [row("openvino", "fp32", 3.0), row("openvino", "int8", 2.0), row("onnxruntime", "int8", 0.8)]
    sizes = {"openvino fp32": 16_000_000, "openvino int8": 4_100_000, "onnxruntime int8": 4_000_000}
    choice = choose(rows, None, ("int8",), sizes=sizes)
    assert (choice.chosen, choice.fallback) == (1, 2)
    assert choice.sentence == (
        "openvino int8: 4.1 MB, the smallest that passes, and 2.0x PyTorch here; "
        "openvino fp32 is 1.50x of it with 16.0 MB"
    )
    assert choose(rows[2:], None, (), sizes=sizes).chosen == 0  # nothing else is left


def test_a_required_precision_is_chosen_though_slower() -> None:
    rows = [row("openvino", "bf16", 6.0), row("openvino", "int8", 4.0)]
    assert choose(rows, "int8", ("int8",)).chosen == 1


def test_nothing_passed_is_a_failed_gate_with_every_reason() -> None:
    rows = [row("openvino", "fp32", 1.0, status="rejected", reason="not in fp32: /stem/Conv")]
    with pytest.raises(GateError, match="openvino fp32 rejected: not in fp32: /stem/Conv"):
        choose(rows, None, ())


def test_an_engine_that_was_not_run_never_leads() -> None:
    rows = [row("tensorrt_rtx", "int8_fp16", 1.0, status="built_not_run"), row("openvino", "fp32", 3.0)]
    assert choose(rows, None, ("int8",)).chosen == 1
