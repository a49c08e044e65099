"""Options: batch sizes, parameters, folder names, what the manifest is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_compile.options import LARGEST_BATCH, Options, parse_batch, parse_params
from deploy_runtime.errors import UsageError
from deploy_runtime.spec import Batch

SIZES = st.integers(1, LARGEST_BATCH)


@given(st.tuples(SIZES, SIZES, SIZES).map(sorted))
def test_three_sizes_in_order_are_a_batch(sizes: list[int]) -> None:
    assert parse_batch(":".join(map(str, sizes))) == Batch(*sizes)


@given(SIZES)
def test_one_size_is_a_fixed_batch(size: int) -> None:
    assert parse_batch(str(size)) == Batch(size, size, size)
    assert parse_batch(str(size)).fixed


@given(st.text(max_size=12))
def test_anything_else_is_refused_with_its_fix(text: str) -> None:
    try:
        batch = parse_batch(text)
    except UsageError:
        return
    assert 1 <= batch.least <= batch.best <= batch.most <= LARGEST_BATCH


@pytest.mark.parametrize("text", ["0", "-1", "4:2:1", "1:2", "one", "", "1:2:99999", "²"])
def test_batches_that_cannot_be_served(text: str) -> None:
    with pytest.raises(UsageError, match="--batch"):
        parse_batch(text)


def test_params_are_name_value_words() -> None:
    assert parse_params(("num_classes=2", "depth=a=b")) == {"num_classes": "2", "depth": "a=b"}
    with pytest.raises(UsageError, match="not name=value"):
        parse_params(("num_classes",))


def test_the_folder_name_says_what_was_asked() -> None:
    assert Options("x3d_s").folder_name == "x3d_s-fp32"
    assert Options("my_nets.py:my_net", fp16=True, int8=True).folder_name == "my_net-fp16-int8"


def test_the_manifest_is_never_told_a_path() -> None:
    said = Options(
        "x3d_s",
        weights=Path("/data/MUSTERMANN/best.pt"),
        calibration=Path("/data/MUSTERMANN"),
        keys=Path("MUSTERMANN.json"),
    ).said()
    assert "MUSTERMANN" not in str(said)
