"""An engine as a stream: what is measured over a film, and what it takes to pass."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy_compile import trend
from deploy_compile.cache import Stages
from deploy_compile.options import Options, fitted
from deploy_compile.pipeline import Verified, verify
from deploy_compile.stream_parity import CHUNK, FAITHFUL_DB, sqnr, verdicts, walked
from deploy_recipes.recipe import Limit
from deploy_runtime.drift import StreamDrift
from deploy_runtime.spec import State, Tensor
from tests.tiny_nets import tiny_stream

NETS = Path(__file__).parents[1] / "tiny_nets.py"
X = Tensor("x", ("batch", 4, 2), layout="NTC")
STATE = (State("a", "a_next", 1.0), State("b", "b_next"))
INPUTS = (X, Tensor("a", ("batch", 2), layout="NC"), Tensor("b", ("batch", 2), layout="NC"))
OUTPUTS = (
    Tensor("y", ("batch", 4, 2), layout="NTC"),
    Tensor("last", ("batch", 2), layout="NC"),
    Tensor("a_next", ("batch", 2), layout="NC"),
    Tensor("b_next", ("batch", 2), layout="NC"),
)
GOOD = StreamDrift("y", 64, 40.0, 42.0, 39.0, 50.0, 41.0, 42.0)


def step(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Halve a and add x to it, frame by frame; b counts frames."""
    a, b, said = given["a"], given["b"], []
    for place in range(given["x"].shape[1]):
        a = a / 2 + given["x"][:, place]
        b = b + 1
        said.append(a + b)
    return {"y": np.stack(said, 1), "last": said[-1], "a_next": a, "b_next": b}


def test_a_walk_carries_the_state_and_begins_with_the_initial_one() -> None:
    film = {"x": np.random.default_rng(0).standard_normal((1, 12, 2)).astype(np.float32)}
    made = {size: walked(step, film, INPUTS, OUTPUTS, STATE, size) for size in (1, 3, 12)}
    walks = {size: answers for size, (answers, _) in made.items()}
    whole = step({**film, "a": np.ones((1, 2), np.float32), "b": np.zeros((1, 2), np.float32)})
    for _, after in made.values():
        assert after.keys() == {"a", "b"}
        np.testing.assert_allclose(after["a"], whole["a_next"], rtol=1e-6)
        np.testing.assert_array_equal(after["b"], whole["b_next"])
    for size, found in walks.items():
        assert found.keys() == {"y", "last"}
        np.testing.assert_allclose(found["y"], whole["y"], rtol=1e-6)
        np.testing.assert_allclose(found["last"], whole["y"][:, size - 1 :: size], rtol=1e-6)


def test_a_rest_shorter_than_a_chunk_is_left_out() -> None:
    film = {"x": np.zeros((1, 12, 2), np.float32)}
    assert walked(step, film, INPUTS, OUTPUTS, STATE, CHUNK)[0]["y"].shape == (1, CHUNK, 2)


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"sqnr_db": 17.0}, "stream_sqnr_db"),
        ({"first_db": 46.0}, "stream_end_db"),  # its end is more than twice as far off
        ({"begins_db": 42.0, "ends_db": 35.0}, "stream_trend_db"),
        ({"chunks_db": 10.0}, "stream_chunks_db"),
        ({"resumed_db": 3.0}, "stream_resumed_db"),
        ({"resumed_db": 9.0, "begun_db": 16.0}, "stream_resumed_db"),  # the clip alone is hard, but not that hard
        ({"resumed_db": -float("inf")}, "stream_resumed_db"),
    ],
)
def test_each_way_to_fail_has_its_verdict(changed: dict[str, float], metric: str) -> None:
    limit = Limit(sqnr_db=18.0)
    assert all(verdict.passed for verdict in verdicts((GOOD,), limit))
    assert [v.metric for v in verdicts((replace(GOOD, **changed),), limit) if not v.passed] == [metric]  # type: ignore[arg-type]


def test_a_clip_that_is_hard_from_the_initial_state_may_be_as_hard_from_another() -> None:
    hard = replace(GOOD, resumed_db=16.7, begun_db=17.5)
    assert all(verdict.passed for verdict in verdicts((hard,), Limit(sqnr_db=18.0)))


def test_an_end_that_is_hard_afresh_may_be_as_hard_for_an_old_stream() -> None:
    hard = replace(GOOD, first_db=66.0, last_db=41.0, begins_db=66.0, ends_db=41.0, afresh_db=42.0)
    assert all(verdict.passed for verdict in verdicts((hard,), Limit(sqnr_db=18.0)))
    aged = verdicts((replace(hard, afresh_db=50.0),), Limit(sqnr_db=18.0))
    assert [v.metric for v in aged if not v.passed] == ["stream_end_db", "stream_trend_db"]


def test_without_a_limit_in_decibels_a_thousandth_is_asked_for_and_more_is_not_judged() -> None:
    fp32 = StreamDrift("y", 64, 110.0, 125.0, 104.0, 120.0, 115.0, 118.0)  # its end is far more than twice as far off
    assert all(verdict.passed for verdict in verdicts((fp32,), Limit(max_relative=1e-4)))
    assert {v.limit for v in verdicts((fp32,), Limit(max_relative=1e-4))} == {FAITHFUL_DB}


def test_ratios() -> None:
    ones = np.ones(4, np.float32)
    assert sqnr(ones, ones) == float("inf")
    assert sqnr(ones, ones * 1.1) == pytest.approx(20.0, abs=1e-4)
    assert sqnr(ones, ones * np.nan) == -float("inf")


@pytest.fixture(scope="module")
def made(stages: Path) -> Verified:
    options = Options(f"{NETS}:tiny_stream", int8=True, targets=("cpu",))
    return verify(fitted(options), options, Stages(stages, lambda *_: None, lambda *_: None))


def test_every_candidate_is_stepped_through_the_film(made: Verified) -> None:
    rows = {row.name: row for row in made.rows if row.status != "refused"}
    assert {"openvino fp32", "openvino int8", "onnxruntime fp32", "onnxruntime int8"} <= rows.keys()
    for row in rows.values():
        assert row.status == "passed", f"{row.name}: {row.reason}"
        (drift,) = row.stream
        assert (drift.output, drift.frames) == ("logits", 48)
        assert drift.phases is not None
        assert abs(drift.begun_db - drift.resumed_db) < 20.0
        assert abs(drift.afresh_db - drift.last_db) < 20.0
        assert drift.phases.frames == 48
        judged = {verdict.metric for verdict in row.verdicts}
        assert len(drift.course_db) == trend.PARTS
        assert {"stream_sqnr_db", "stream_end_db", "stream_trend_db", "stream_chunks_db", "stream_resumed_db"} <= judged
    assert rows["openvino fp32"].stream[0].sqnr_db > FAITHFUL_DB
    assert rows["openvino fp32"].stream[0].chunks_db > FAITHFUL_DB
    assert 18.0 < rows["openvino int8"].stream[0].sqnr_db < FAITHFUL_DB


def test_a_network_of_clips_has_no_stream_to_judge() -> None:
    assert tiny_stream.streams
    assert not replace(tiny_stream, state=()).streams
