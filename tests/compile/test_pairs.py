"""Pairs of studies stay pairs, and a patient's stay on one side."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy_compile import media, samples
from deploy_compile.sample_files import read
from deploy_recipes import DenseMap, Preprocess, Recipe, Tensor
from deploy_runtime.errors import DeployError
from tests.tiny_media import image

NAMES = ("baseline", "followup")
RECIPE = Recipe(
    name="toy",
    family="toy",
    network=lambda: None,  # type: ignore[arg-type,return-value]
    inputs=tuple(Tensor(name, ("batch", 1, 32, 32), layout="NCHW") for name in NAMES),
    outputs=(Tensor("diff_map", ("batch", 1, 32, 32), layout="NCHW"),),
    task=DenseMap(),
    parameters=1,
    source="test",
    preprocess=Preprocess(crop=(32, 32), mean=(0.5,), std=(0.5,), layout="CHW", short_side=36),
)


def found(folder: Path) -> list[list[str]]:
    """Return the pairs of each source, as relative paths."""
    return [
        [" ".join(str(path.relative_to(folder)) for path in pair.files.values()) for pair in source.files]  # type: ignore[union-attr]
        for source in media.sources(folder, NAMES)
    ]


def test_a_folder_a_pair_and_a_source_a_patient(tmp_path: Path) -> None:
    for place in ("p1", "p2/2020", "p2/2021"):
        for name in NAMES:
            image(tmp_path / place / f"{name}.png")
    image(tmp_path / "p1" / "lateral.png")  # of no input: left out
    assert found(tmp_path) == [
        ["p1/baseline.png p1/followup.png"],
        ["p2/2020/baseline.png p2/2020/followup.png", "p2/2021/baseline.png p2/2021/followup.png"],
    ]


def test_a_table_names_pairs_and_patients(tmp_path: Path) -> None:
    for number in range(6):
        image(tmp_path / f"{number}.png")
    lines = ["baseline,followup,patient", "0.png,1.png,a", "2.png,3.png,b", "1.png,4.png,a", "5.png,5.png,"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    assert found(tmp_path) == [["0.png 1.png", "1.png 4.png"], ["2.png 3.png"], ["5.png 5.png"]]


def test_lines_that_share_a_study_are_one_source(tmp_path: Path) -> None:
    for number in range(5):
        image(tmp_path / f"{number}.png")
    (tmp_path / "pairs.csv").write_text("baseline,followup\n0.png,1.png\n3.png,4.png\n1.png,2.png\n")
    assert found(tmp_path) == [["0.png 1.png", "1.png 2.png"], ["3.png 4.png"]]


def test_each_image_goes_to_its_input_and_patients_are_parted(tmp_path: Path) -> None:
    for number in range(3):
        image(tmp_path / "in" / f"p{number}" / "baseline.png", level=10 + 10 * number)
        image(tmp_path / "in" / f"p{number}" / "followup.png", level=200 + 10 * number)
    (tmp_path / "out").mkdir()
    got = samples.collect(tmp_path / "out", RECIPE, tmp_path / "in", "minmax")
    for folder in (got.calibration, got.held_out):
        for sample in read(folder):
            levels = {name: round(float(array.mean() * 127.5 + 127.5)) for name, array in sample.items()}
            assert abs(levels["followup"] - levels["baseline"] - 190) <= 1  # of one patient
    assert got.provenance.sources == 2
    assert "p0" not in got.held_out_note + "".join(got.provenance.warnings)


def test_pairs_may_be_arrays_of_eight_bits(tmp_path: Path) -> None:
    for number in range(2):
        for name in NAMES:
            place = tmp_path / f"p{number}"
            place.mkdir(exist_ok=True)
            np.save(place / f"{name}.npy", np.arange(40 * 50, dtype=np.uint8).reshape(40, 50) % (number + 7))
    (sample,) = samples.of_file(media.sources(tmp_path, NAMES)[0].files[0], RECIPE, 1)
    assert {name: array.shape for name, array in sample.items()} == dict.fromkeys(NAMES, (1, 1, 32, 32))


@pytest.mark.parametrize(
    ("files", "table", "says"),
    [
        (["p1/baseline.png", "p1/followup.png", "p2/baseline.png"], "", "p2 holds baseline and no followup"),
        (["p1/baseline.png", "p1/baseline.jpg", "p1/followup.png"], "", "are both called baseline"),
        (["0.png"], "baseline,followup\n0.png,\n", "line 2 of pairs.csv names nothing for followup"),
        (["0.png"], "baseline,followup\n0.png,../0.png\n", "names ../0.png for followup, which is not in"),
        (["0.png"], "before,after\n0.png,0.png\n", "has the columns after, before"),
        (["0.png"], "baseline,followup\n", "has no line below its header"),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path: Path, files: list[str], table: str, says: str) -> None:
    for name in files:
        image(tmp_path / "in" / name)
    if table:
        (tmp_path / "in" / "pairs.csv").write_text(table)
    with pytest.raises(DeployError, match=says):
        media.sources(tmp_path / "in", NAMES)


def test_one_study_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    image(tmp_path / "p1" / "baseline.png")
    (tmp_path / "p1" / "followup.png").write_bytes(b"no picture")
    with pytest.raises(DeployError, match=r"p1/followup\.png cannot be decoded as an image"):
        list(samples.of_file(media.sources(tmp_path, NAMES)[0].files[0], RECIPE, 1))


def test_a_network_of_pathways_looks_at_one_clip() -> None:
    how = RECIPE.preprocess
    assert how is not None
    assert samples.images(RECIPE) == NAMES
    assert samples.images(replace(RECIPE, preprocess=replace(how, pathways={"baseline": 1, "followup": 2}))) == ()
