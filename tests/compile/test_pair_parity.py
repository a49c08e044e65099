"""What has to hold of a pair of studies whatever is on it, and the engines for which it does not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploy_compile import onnx_graph
from deploy_compile.cache import Stages
from deploy_compile.options import Options, fitted
from deploy_compile.pair_parity import SLOW_PAIRS, forms, pair_parity, pair_reference, verdicts
from deploy_compile.pipeline import Verified, verify
from deploy_compile.reference import SLOW_S
from deploy_compile.results import Built, Paired
from deploy_compile.sample_files import paths
from deploy_recipes import Limit, Recipe
from deploy_runtime.drift import PairDrift
from deploy_runtime.spec import Batch
from tests.tiny_nets import tiny, tiny_pair

NETS = Path(__file__).parents[1] / "tiny_nets.py"
GATES = {"pair_same_db", "pair_exchanged_db", "pair_light_ratio"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> tuple[Verified, Recipe, Paired]:
    options = Options(f"{NETS}:tiny_pair", int8=True, targets=("cpu",))
    recipe, folder = fitted(options), tmp_path_factory.mktemp("pairs")
    found = verify(recipe, options, Stages(stages, lambda *_: None, lambda *_: None))
    (folder / "reference").mkdir()
    return found, recipe, pair_reference(folder / "reference", found.loaded, recipe, found.samples, 0.0, 1)


def engine(made: Verified, name: str) -> Built:
    return next(one.engine for one in made.tried if one.engine.name == name)


def test_the_forms_of_a_pair() -> None:
    pair = {"baseline": np.zeros((1, 1, 2, 2), np.float32), "followup": np.full((1, 1, 2, 2), 0.99, np.float32)}
    changed = {name: change(pair) for name, change in forms(tiny_pair).items()}
    assert [float(one["baseline"].max()) for one in changed.values()] == pytest.approx([0.0, 0.0, 0.99, 0.1])
    assert [float(one["followup"].max()) for one in changed.values()] == pytest.approx([0.99, 0.0, 0.0, 1.0])  # clipped
    with pytest.raises(ValueError, match="tiny compares no pair"):
        forms(tiny)


def test_every_candidate_is_asked(made: tuple[Verified, Recipe, Paired]) -> None:
    rows = {row.name: row for row in made[0].rows if row.status != "refused"}
    assert {"openvino fp32", "openvino int8", "onnxruntime fp32", "onnxruntime int8"} <= rows.keys()
    for row in rows.values():
        assert row.status == "passed", f"{row.name}: {row.reason}"
        assert {verdict.metric for verdict in row.verdicts} >= GATES
        (drift,) = row.pair
        assert (drift.output, drift.pairs) == ("diff_map", 4)
        assert drift.light_ratio == pytest.approx(1.0, abs=0.1)
        assert row.drift[0].map is not None
        assert row.drift[0].map.ssim > 0.9


def test_a_slow_network_is_asked_about_fewer(tmp_path: Path, made: tuple[Verified, Recipe, Paired]) -> None:
    found, recipe, _ = made
    slow = pair_reference(tmp_path, found.loaded, recipe, found.samples, SLOW_S + 1, 1)
    assert [len(paths(folder)) for folder in slow.folders] == [SLOW_PAIRS] * 4


def changed(path: Path, into: Path, rename: dict[str, str]) -> Path:
    """Write a graph whose nodes read other inputs."""
    model = onnx_graph.load(path)
    for node in model.graph.node:
        node.input[:] = [rename.get(name, name) for name in node.input]
    onnx.save(model, into)
    return into


@pytest.mark.parametrize(
    "rename",
    [{"baseline": "followup"}, {"baseline": "followup", "followup": "baseline"}],
    ids=["merged", "exchanged"],
)
def test_an_engine_that_mixes_the_studies_up_fails(
    made: tuple[Verified, Recipe, Paired], tmp_path: Path, rename: dict[str, str]
) -> None:
    found, recipe, paired = made
    good = engine(found, "openvino fp32")
    assert good.file is not None
    bad = replace(good, file=changed(good.file, tmp_path / "bad.onnx", rename))
    drifts = pair_parity(tmp_path, bad, recipe, paired, Batch(), 1).drift
    failed = {verdict.metric for verdict in verdicts(drifts, Limit(sqnr_db=18.0)) if not verdict.passed}
    assert "pair_exchanged_db" in failed
    assert "pair_same_db" not in failed  # which alone would have seen nothing


def test_a_stronger_reaction_to_light_fails() -> None:
    drift = PairDrift("diff_map", 4, 40.0, 40.0, 1.05)
    assert all(verdict.passed for verdict in verdicts((drift,), Limit(sqnr_db=18.0)))
    told = verdicts((replace(drift, light_ratio=1.3),), Limit(sqnr_db=18.0))
    assert [verdict.metric for verdict in told if not verdict.passed] == ["pair_light_ratio"]


def test_an_engine_that_cannot_be_opened_is_told(made: tuple[Verified, Recipe, Paired], tmp_path: Path) -> None:
    found, recipe, paired = made
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    broken = replace(engine(found, "openvino fp32"), file=tmp_path / "no.onnx")
    result = pair_parity(tmp_path, broken, recipe, paired, Batch(), 1)
    assert (result.status, result.drift) == ("crashed", ())
    assert "no.onnx" in result.reason
