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
from deploy_compile.results import Audited, Built, Evaluated, Graph, Parity, Predicted, Reference, Samples
from deploy_compile.results_int8 import Corrected, Joined, Ranges, Ranked, Reached, Repaired
from deploy_compile.targets import get
from deploy_runtime.drift import Drift
from deploy_runtime.errors import GateError
from deploy_runtime.evidence import (
    Accuracy,
    Calibration,
    Candidate,
    Coverage,
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


class Flipping:
    """Answers for the stages of a target whose INT8 graph is far within the limits, and decides otherwise of one
    sample of 16 until layers are back in float for `margin_db`; `excused` candidates decide as PyTorch does."""

    def __init__(self, margin_db: float, *excused: Precision) -> None:
        self.margin_db, self.excused, self.repaired = margin_db, excused, list[float]()
        self.plain = Graph(Path(__file__), "int8", 9, 3, 3, {})

    def __call__(self, stage: Any, *args: Any) -> Any:
        return getattr(self, stage.__name__)(*args)

    def each(self, _: int, __: Any, asked: Any) -> list[Built]:
        return [
            Built(backend, precision, target.name, "passed", "", graph.path, (), 0.0)
            for graph, _, backend, precision, target, *_ in asked
        ]

    def quantize(self, *_: Any) -> Graph:
        return self.plain

    def correct(self, *_: Any) -> Corrected:
        return Corrected(self.plain)

    def reach(self, *args: Any) -> Reached:
        return Reached(28.2, max(margin for margin in args[4] if margin <= 10.2), 3, Path("floats"), Path("whole"))

    def rank(self, *_: Any) -> Ranked:
        return Ranked({"/a": 0.1}, {})

    def repair(self, *args: Any) -> Repaired:
        self.repaired.append(args[7])
        graph = replace(self.plain, kept_float={"/a": "taken back"})
        return Repaired(graph, Repair(("/a",), 3, 28.2, 18.0 + args[7], 1.1, 0))

    def join(self, _: Graph, int8: Graph, *__: Any) -> Joined:
        return Joined(int8)

    def audit(self, *_: Any) -> Audited:
        return Audited(Coverage({"int8": 3}, {"int8": 1.0}))

    def parity(self, engine: Built, graph: Graph, *_: Any) -> Parity:
        same = engine.precision in self.excused or (bool(graph.kept_float) and self.repaired[-1] >= self.margin_db)
        agreement = 1.0 if same else 15 / 16
        return Parity((replace(NEAR, cosine=0.9995, sqnr_db=28.2, agreement=agreement, decisions=16),), "passed", "")


@pytest.mark.parametrize(
    ("run", "margins", "shipped"),
    [
        (Flipping(20.0), [15.0, 20.0], ["int8", "int8_bf16"]),
        (Flipping(20.0, "int8_bf16"), [], ["int8_bf16"]),  # a layer in float would slow the one that passes
        (Flipping(99.0), [15.0, 20.0, 25.0], []),
    ],
)
def test_layers_go_back_where_every_candidate_decides_otherwise_of_a_sample(
    run: Flipping, margins: list[float], shipped: list[Precision]
) -> None:
    here, torch = Path(), Reference(Path(), Path(), Path(), 0, {}, 1.0)
    samples = Samples(here, here, here, Calibration(True, 0, 0, "auto", "", ()), "", True)
    options, recipe = Options("resnet18", int8=True), deploy_recipes.get("resnet18")
    seen = Seen(recipe, options, samples, torch, run.plain, Ranges({}, 1), None, None)
    wanted: Any = [(get("cpu"), "openvino", precision) for precision in ("int8", "int8_bf16")]
    found = quantized(run, seen, wanted, [], Rankings())  # type: ignore[arg-type]
    assert run.repaired == margins
    assert [one.row.precision for one in found.tried if one.row.status == "passed"] == shipped
    assert found.repair is not None
    assert bool(found.repair.taken) is bool(margins)
