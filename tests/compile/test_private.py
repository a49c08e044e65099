"""Patients stay home: a bundle made from their files holds no name, no pixel and no path of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy_compile.__main__ import main
from deploy_runtime.preprocess import prepare
from tests.tiny_nets import tiny

NAMES = ("MUSTERMANN_ERIKA_19700101", "DOE_JANE_4711", "ROSSI_MARIO", "DUPONT_MARIE", "NOVAK_JAN", "SMITH_ADA")
ROW_BYTES = 64  # of an image row: sixteen float32 values or 64 grey levels in a row are no coincidence


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> tuple[Path, list[np.ndarray]]:
    """A bundle calibrated on random images in folders named like patients, and the images."""
    place = tmp_path_factory.mktemp("KLINIK_NORD")
    rng = np.random.default_rng(0)
    images = []
    for name in NAMES:
        (place / "samples" / name).mkdir(parents=True)
        for i in range(4):
            image = rng.integers(0, 256, (40, 40, 3), np.uint8)
            images.append(image)
            np.save(place / "samples" / name / f"{name}_{i}.npy", image)
    words = [f"{Path(__file__).parents[1] / 'tiny_nets.py'}:tiny", "--int8", "--target", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_CACHE", str(stages))
        folders = ["--calibration", str(place / "samples"), "--out", str(place / "bundle")]
        patch.setattr(sys, "argv", ["deploy-compile", "recipe", *words, *folders])
        main()
    return place / "bundle", images


@pytest.mark.slow
def test_no_name_is_in_any_file(made: tuple[Path, list[np.ndarray]]) -> None:
    bundle, _ = made
    for path in (p for p in bundle.rglob("*") if p.is_file()):
        content = path.read_bytes().upper()
        for name in (*NAMES, "MUSTERMANN", "ROSSI", "KLINIK_NORD"):
            assert name.encode() not in content, path
            assert name.encode("utf-16-le") not in content, path


def test_no_pixel_is_in_any_file(made: tuple[Path, list[np.ndarray]]) -> None:
    bundle, images = made
    assert tiny.preprocess is not None
    needles = []
    for image in images:
        ready = prepare(image, tiny.preprocess)
        needles += [image[20].tobytes()[:ROW_BYTES], ready[0, 16].tobytes()[:ROW_BYTES]]
    for path in (p for p in bundle.rglob("*") if p.is_file()):
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), path


def test_the_manifest_says_where_the_ranges_come_from(made: tuple[Path, list[np.ndarray]]) -> None:
    provenance = json.loads((made[0] / "manifest.json").read_text())["provenance"]
    assert provenance["calibration"]["synthetic"] is False
    assert provenance["calibration"]["sources"] == 4
    assert len(provenance["calibration"]["digest"]) == 64
    assert "2 sources" in provenance["held_out"]
