"""What the pipeline decides: which candidate falls to the gate on accuracy, when more layers leave INT8."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import deploy_recipes
from deploy_compile.attempt import Seen, Tried
from deploy_compile.choose import choose
from deploy_compile.int8 import Rankings, fails, quantized
from deploy_compile.options import Options
from deploy_compile.pipeline import Verified, evaluated
from deploy_compile.results import Built, Evaluated, Graph, Predicted, Samples
from deploy_compile.results_int8 import Corrected, Ranges, Ranked, Reached, Repaired
from deploy_compile.targets import get
from deploy_runtime.drift import Drift
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import (
    Accuracy,
    Calibration,
    Candidate,
    Difference,
    Evaluation,
    Interval,
    Precision,
    Repair,
    Speed,
)
from deploy_runtime.spec import Limit

ONE = Interval(1.0, 1.0, 1.0)
PERFECT = Accuracy(ONE, (), None, None)


def candidate(precision: Precision, ratio: float) -> Candidate:
    speed = Speed(ratio, ratio, ratio, 1.0, 1.0, ratio, 10, 1, lag=1.0, lag_low=1.1)
    return Candidate("openvino", precision, "cpu", "passed", speed=speed)


class Stages:
    """Answers for the stages: how far accuracy falls, in percentage points, by precision."""

    def __init__(self, **drops: float) -> None:
        self.drops, self.ran = drops, list[str]()

    def __call__(self, stage: Any, *args: Any) -> Any:
        self.ran.append(stage.__name__)
        if stage.__name__ != "evaluate":
            return Predicted(Path("scores.npz"), "")
        _, _, name, _, most = args
        change = -self.drops[name.split()[1]] / 100
        found = Evaluation(
            name, 200, 200, "", PERFECT, PERFECT, Difference(Interval(change, change, change), 0, 0, 1.0), most
        )
        return Evaluated(found, most is None or -100 * change <= most)


def judged(run: Stages, max_drop: float | None) -> tuple[str, list[Candidate], Evaluation]:
    rows = [candidate("fp32", 2.0), candidate("bf16", 3.0), candidate("int8", 4.0)]
    tried = tuple(
        Tried(Built(row.backend, row.precision, row.target, "passed", "", Path("x"), (), 0.0), row) for row in rows
    )
    made: Any = Verified(None, None, None, (), None, tried, {})  # type: ignore[arg-type]
    options = Options("x3d_s", int8=True, max_drop=max_drop)
    choice = choose(rows, None, options.asked)
    recipe = deploy_recipes.get("x3d_s")
    choice, found = evaluated(run, made, recipe, options, (Path("a"), Path("b.csv")), rows, choice)  # type: ignore[arg-type]
    return rows[choice.chosen].precision, rows, found


def test_without_a_gate_the_choice_stands() -> None:
    chosen, rows, found = judged(Stages(int8=40.0), None)
    assert (chosen, found.candidate) == ("int8", "openvino int8")
    assert all(row.status == "passed" for row in rows)


def test_the_next_best_is_chosen_and_pytorch_runs_once() -> None:
    run = Stages(int8=3.0, bf16=0.5, fp32=0.0)
    chosen, rows, found = judged(run, 0.5)
    assert (chosen, found.candidate) == ("bf16", "openvino bf16")
    assert rows[2].status == "failed"
    assert rows[2].reason == "accuracy on 200 labelled samples falls by 3.00 percentage points, limit 0.5"
    assert run.ran.count("predict_torch") == 1
    assert run.ran.count("predict_engine") == 2


def test_where_none_is_left_the_gate_fails_with_every_reason() -> None:
    with pytest.raises(GateError, match=r"openvino fp32 failed: accuracy on 200 labelled samples falls by 1\.00"):
        judged(Stages(int8=3.0, bf16=2.0, fp32=1.0), 0.5)


FAR = Drift("logits", 16, 1.0, 0.1, 4.0, 0.25, 0.025, 0.97, 0.96, 12.45)
NEAR = replace(FAR, cosine=0.998, sqnr_db=25.0)


@pytest.mark.parametrize(
    ("precision", "bf16", "helps"),
    [
        ("int8", FAR, True),
        ("int8_bf16", FAR, False),  # bf16 alone is further than INT8 may be
        ("int8_bf16", NEAR, True),  # it misses its own limit, not that of INT8
        ("int8_bf16", None, True),  # bf16 was refused: nothing is known
    ],
)
def test_layers_go_back_to_float_only_where_that_can_help(
    precision: Precision, bf16: Drift | None, helps: bool
) -> None:
    recipe = deploy_recipes.get("videomae_base").with_limits(int8_bf16=Limit(cosine=0.99, sqnr_db=18.0))
    float_row = Candidate(
        "openvino", "bf16", "cpu", "refused" if bf16 is None else "failed", drift=(bf16,) if bf16 else ()
    )
    row = Candidate("openvino", precision, "cpu", "failed", drift=(FAR,))
    assert fails(row, [float_row], recipe) is helps
    assert not fails(replace(row, backend="onnxruntime"), [], recipe)  # rounds more often than the graph says
    assert not fails(replace(row, status="passed"), [], recipe)


@pytest.mark.parametrize(("kept", "times"), [(({}, {}), 1), (({}, {"/head": "its scale is beyond fp16"}), 2)])
def test_layers_are_ranked_once_for_all_forms_that_quantize_the_same(
    kept: tuple[dict[str, str], dict[str, str]], times: int
) -> None:
    graphs = [Graph(Path("int8.onnx"), "int8", 9, 3, 3, reasons) for reasons in kept]
    made: dict[str, list[Any]] = {
        "quantize": list(graphs),
        "correct": [Corrected(graph) for graph in graphs],
        "reach": [Reached(4.0, None, 3, Path("floats"), Path("whole"))] * 2,
        "rank": [Ranked({"/a": 0.1}, {})] * 2,
        "repair": [Repaired(None, Repair(("/a",), 1, 4.0, 99.0, 1.0, 0))] * 2,
    }
    ran: list[str] = []

    def run(stage: Any, *_: Any) -> Any:
        ran.append(stage.__name__)
        return made[stage.__name__].pop(0)

    here, said = Path(), Calibration(True, 0, 0, "auto", "", ())
    options, samples = Options("resnet18", int8=True), Samples(here, here, here, said, "", True)
    seen: Any = Seen(deploy_recipes.get("resnet18"), options, samples, None, graphs[0], Ranges({}, 1), None, None)  # type: ignore[arg-type]
    rankings = Rankings()
    for target, backend in (("cpu", "openvino"), ("rtx", "tensorrt_rtx")):
        asked: Any = [(get(target), backend, "int8")]
        assert not quantized(run, seen, asked, [], rankings).graphs  # type: ignore[arg-type]
    assert ran.count("rank") == len(rankings) == times
    assert ran.count("repair") == 2
