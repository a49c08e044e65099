"""Temperature, ensembles and head dropout as options: what they make of a recipe, and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import nn

import deploy_recipes
from deploy_compile import export, load, uncertainty
from deploy_compile.__main__ import main
from deploy_compile.uncertainty import Uncertainty, parse
from deploy_recipes.recipe import Classes, DenseMap, Keep
from deploy_runtime import load as runtime_load
from deploy_runtime.errors import DeployError, UsageError
from tests.compile.test_heads import by_hand, small
from tests.tiny_nets import tiny

NETS = Path(__file__).parents[1] / "tiny_nets.py"
REF = f"{NETS}:tiny"
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_recipe_is_fitted() -> None:
    keeps = (Keep("/head/*", "small"), Keep("Gemm*", "small"))
    recipe = replace(tiny, keep_float=keeps, keep_fp32=keeps[:1])
    fitted = uncertainty.fitted(recipe, Uncertainty(members=2))
    assert [tensor.name for tensor in fitted.outputs] == ["probabilities", "entropy", "variance"]
    assert fitted.task == Classes(5, of=("probabilities",))
    assert [keep.nodes for keep in fitted.keep_float] == ["/members.*/head/*", "Gemm*"]
    assert [keep.nodes for keep in fitted.keep_fp32] == ["/members.*/head/*"]
    for precision, limit in fitted.limits.items():
        assert all(limit.of(name).reason for name in limit.outputs), precision
    assert uncertainty.fitted(recipe, Uncertainty(masks=2)).keep_float == recipe.keep_float
    assert uncertainty.fitted(recipe, Uncertainty()) == recipe


def test_recipes_that_have_no_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="gives no scores"):
        uncertainty.fitted(replace(tiny, task=DenseMap()), Uncertainty(1.7))
    recipe = deploy_recipes.get("x3d_s")
    recipe = recipe.fitted(recipe.values({"features": "true"}))
    with pytest.raises(UsageError, match="gives features beside its logits"):
        uncertainty.fitted(recipe, Uncertainty(members=2))


BAD = {
    "0 degrees": ((0.0, None, None), "--temperature 0 is not above 0"),
    "below 0": ((-1.5, None, None), "--temperature -1.5 is not above 0"),
    "no number": ((float("nan"), None, None), "--temperature nan"),
    "one checkpoint": ((None, "a.pt", None), "names one checkpoint only"),
    "none": ((None, ",", None), "names one checkpoint only"),
    "twice the same": ((None, "a.pt,a.pt", None), "names a checkpoint twice"),
    "both": ((None, "a.pt,b.pt", "8"), "both say who the members are"),
    "one mask": ((None, None, "1"), "no number of masks"),
    "rate": ((None, None, "8:1.0"), "no number of masks"),
    "word": ((None, None, "many"), "no number of masks"),
}


@pytest.mark.parametrize("case", BAD)
def test_options_that_make_no_sense(case: str) -> None:
    given, says = BAD[case]
    with pytest.raises(UsageError, match=says) as caught:
        parse(*given)
    assert caught.value.fix


def test_options_that_do(tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()
    (tmp_path / "b.pt").touch()
    how, paths = parse(1.7, f"{tmp_path}/a.pt,{tmp_path}/b.pt", None)
    assert (how.said(), len(paths)) == ("temperature 1.7, ensemble of 2", 2)
    assert parse(None, None, "16:0.3")[0] == Uncertainty(masks=16, rate=0.3)
    assert parse(None, None, None) == (Uncertainty(), ())
    with pytest.raises(DeployError, match=r"there is no checkpoint at .*c\.pt"):
        parse(None, f"{tmp_path}/a.pt,{tmp_path}/c.pt", None)


def checkpoints(place: Path, count: int = 2) -> list[Path]:
    """Write members that differ as trained ones do: the seeded net, its weights moved a little."""
    loaded = load.load(place, tiny, REF, {}, "seeded", None)
    files = []
    for number in range(count):
        net = load.module(loaded)
        generator = torch.Generator().manual_seed(number)
        state = {
            name: value + 0.1 * value.std() * torch.randn(value.shape, generator=generator)
            for name, value in net.state_dict().items()
            if value.ndim and not name.endswith("running_var")
        }
        torch.save({"state_dict": {**net.state_dict(), **state}}, place / f"member{number}.pt")
        files.append(place / f"member{number}.pt")
    return files


def test_a_member_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_other_recipe", lambda *_: "")  # tries every recipe there is
    files = checkpoints(tmp_path)
    torch.save(nn.Linear(3, 4).state_dict(), files[1])
    how = Uncertainty(members=2)
    with pytest.raises(DeployError, match=r"member1\.pt does not fit"):
        load.load(tmp_path, uncertainty.fitted(tiny, how), REF, {}, tuple(files), None, how)


@pytest.mark.parametrize("how", [Uncertainty(1.7, members=2), Uncertainty(masks=4, rate=0.3), Uncertainty(3.0)])
def test_the_same_module_comes_back_and_its_graph_takes_any_batch(how: Uncertainty, tmp_path: Path) -> None:
    recipe = uncertainty.fitted(tiny, how)
    weights = tuple(checkpoints(tmp_path)) if how.members > 1 else "seeded"
    loaded = load.load(tmp_path, recipe, REF, {}, weights, None, how)
    assert loaded.origin == ("file" if how.members > 1 else "seeded")
    net = load.module(loaded)
    wanted = net(IMAGES) if how.spreads else (net(IMAGES),)
    again = load.module(loaded)(IMAGES)
    assert all(torch.equal(one, other) for one, other in zip(wanted, again if how.spreads else (again,), strict=True))
    graph = export.export(tmp_path, loaded, recipe)
    got = onnxruntime.InferenceSession(graph.path).run(None, {"image": IMAGES.numpy()})
    for one, other in zip(got, wanted, strict=True):
        assert np.allclose(np.asarray(one), other.numpy(), atol=1e-5)


@pytest.mark.slow
def test_from_two_checkpoints_to_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = checkpoints(tmp_path)
    monkeypatch.setenv("DEPLOY_CACHE", str(tmp_path / "cache"))
    words = ["recipe", REF, "--int8", "--target", "cpu", "--temperature", "1.5", "--ensemble", f"{first},{second}"]
    monkeypatch.setattr(sys, "argv", ["deploy-compile", *words, "--out", str(tmp_path / "bundle")])
    main()
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    rows = {(row["backend"], row["precision"]): row for row in manifest["candidates"]}
    for backend in ("openvino", "onnxruntime"):
        for precision in ("fp32", "int8"):
            row = rows[backend, precision]
            assert row["status"] == "passed", row["reason"]
            assert {verdict["output"] for verdict in row["verdicts"]} == {"probabilities", "entropy", "variance"}
    assert manifest["provenance"]["options"]["uncertainty"] == "temperature 1.5, ensemble of 2"
    assert manifest["provenance"]["weights"] == "file"
    assert str(tmp_path) not in (tmp_path / "bundle" / "manifest.json").read_text()
    image = np.load(tmp_path / "bundle" / "golden" / "inputs.npz")["image"][:1]
    logits = []
    for path in (first, second):
        net = small()
        net.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        logits.append(net(torch.from_numpy(image)).detach().numpy())
    with runtime_load(tmp_path / "bundle") as model:
        got = model.run({"image": image})
    mean, entropy, variance = by_hand(np.stack(logits), 1.5, False)
    assert np.abs(got["probabilities"] - mean).max() < 0.05  # of int8, where that is the fastest
    assert np.abs(got["entropy"] - entropy).max() < 0.1
    assert got["variance"].shape == variance.shape
