"""The command that a report gives makes the same options again."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import deploy_recipes
from deploy_compile import uncertainty
from deploy_compile.cli_recipe import read_options, recipe
from deploy_compile.options import Options
from deploy_compile.reproduce import command
from deploy_compile.uncertainty import Uncertainty
from deploy_runtime.evidence import Manifest
from deploy_runtime.spec import Batch
from tests.runtime import tiny_bundle

FILES = ("WEIGHTS.pt", "MEMBER_1.pt", "MEMBER_2.pt", "DIR", "LABELLED", "TRUTH.csv", "NAMES.txt")


def manifest(options: Options) -> Manifest:
    plain = tiny_bundle.manifest(())
    return replace(
        plain,
        recipe=options.ref,
        params=options.params,
        labels=deploy_recipes.get(options.ref).labels if options.labels is None else ("a", "b"),
        batch=options.batch,
        objective=options.objective,
        golden=replace(plain.golden, synthetic=not options.ship_samples),
        provenance=replace(plain.provenance, options=options.said()),
    )


@pytest.mark.parametrize(
    "options",
    [
        Options("x3d_s", threads=3),
        Options("x3d_s", int8=True, fp16=True, require="int8", threads=1, batch=Batch(1, 4, 16), targets=("cpu",)),
        Options(
            "resnet18", {"num_classes": "2"}, weights=Path("WEIGHTS.pt"), int8=True, calibration=Path("DIR"),
            algorithm="entropy", ship_samples=True, labels=Path("NAMES.txt"), evaluate=Path("LABELLED"),
            truth=Path("TRUTH.csv"), max_drop=0.5, targets=("rtx",), compute_capabilities=("sm86", "sm120"), threads=2,
            objective="size", exporter="dynamo", batch=Batch(8, 8, 8),
        ),
        Options("resnet18", weights="pretrained", threads=1, uncertainty=Uncertainty(1.7, masks=16, rate=0.3)),
        Options(
            "resnet18", weights=(Path("MEMBER_1.pt"), Path("MEMBER_2.pt")), threads=1,
            uncertainty=Uncertainty(members=2),
        ),
    ],
    ids=["plain", "precisions", "everything", "masks", "ensemble"],
)  # fmt: skip
def test_the_command_gives_the_same_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options) -> None:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).touch()
    program, word, *given = shlex.split(" ".join(command(manifest(options))))
    assert (program, word) == ("deploy-compile", "recipe")
    params = recipe.make_context("recipe", given).params
    for name in ("out", "force", "as_json"):
        params.pop(name)
    assert read_options(**params) == options


def test_a_recipe_of_ones_own_is_in_a_file_and_words_are_quoted() -> None:
    made = replace(tiny_bundle.manifest(()), recipe="my net", params={"size": "2; rm -rf /"})
    words = command(made)
    assert words[2:5] == ["'FILE.py:my net'", "--param", "'size=2; rm -rf /'"]
    assert words[-2:] == ["--labels", "NAMES.txt"]


@pytest.mark.parametrize(
    "how",
    [
        Uncertainty(),
        Uncertainty(temperature=0.5),
        Uncertainty(masks=4),
        Uncertainty(1.25, 1, 8, 0.1),
        Uncertainty(2.0, 3),
    ],
)
def test_uncertainty_is_told_and_understood(how: Uncertainty) -> None:
    words = uncertainty.options(how.said())
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given.get("--temperature", "1") == f"{how.temperature:g}"
    assert given.get("--mc-dropout", "0").partition(":")[0] == str(how.masks)
    assert len(given.get("--ensemble", "one").split(",")) == how.members
