"""The picture of a dense map: drawn of the sample that is furthest off, in the bundle and in its report."""

import base64
import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy_compile.__main__ import main
from deploy_compile.package import package
from deploy_compile.report_maps import NAME, picture
from deploy_runtime import manifest as manifests
from deploy_runtime.spec import Classes
from tests.tiny_nets import tiny_pair

NETS = Path(__file__).parents[1] / "tiny_nets.py"
RNG = np.random.default_rng(0)
INPUTS = {name: RNG.random((3, 1, 32, 32), np.float32) for name in ("baseline", "followup")}
TRUTH = {"diff_map": RNG.random((3, 1, 32, 32), np.float32)}


def pixels(png: bytes | None) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert png is not None
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_the_sample_that_is_furthest_off_is_drawn() -> None:
    got = {"diff_map": TRUTH["diff_map"].copy()}
    got["diff_map"][1, 0, 4:8, 4:8] += 3.0
    worst = {
        name: array[1:2] for name, array in (INPUTS | {"truth": TRUTH["diff_map"], "got": got["diff_map"]}).items()
    }
    alone = picture(tiny_pair, worst, {"diff_map": worst["truth"]}, {"diff_map": worst["got"]})
    assert np.array_equal(pixels(picture(tiny_pair, INPUTS, TRUTH, got)), pixels(alone))
    equal = picture(tiny_pair, INPUTS, TRUTH, TRUTH)
    assert not np.array_equal(pixels(equal), pixels(alone))
    assert pixels(alone).shape[1] > 4 * pixels(alone).shape[0]  # five panels side by side


def test_the_same_arrays_give_the_same_bytes() -> None:
    assert picture(tiny_pair, INPUTS, TRUTH, TRUTH) == picture(tiny_pair, INPUTS, TRUTH, TRUTH)


def test_flat_images_and_maps_are_drawn_too() -> None:
    flat = {name: np.zeros_like(array) for name, array in INPUTS.items()}
    zero = {"diff_map": np.zeros_like(TRUTH["diff_map"])}
    assert pixels(picture(tiny_pair, flat, zero, zero)).size


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_drawn(value: float) -> None:
    assert picture(tiny_pair, INPUTS, TRUTH, {"diff_map": np.full_like(TRUTH["diff_map"], value)}) is None


def test_what_is_no_map_has_no_picture() -> None:
    assert picture(replace(tiny_pair, task=Classes(5)), INPUTS, TRUTH, TRUTH) is None


@pytest.mark.slow
def test_the_picture_is_in_the_bundle_the_report_and_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_CACHE", str(tmp_path / "cache"))
    words = ["deploy-compile", "recipe", f"{NETS}:tiny_pair", "--target", "cpu", "--out", str(tmp_path / "bundle")]
    monkeypatch.setattr(sys, "argv", words)
    main()
    found = manifests.read(tmp_path / "bundle")
    png = (tmp_path / "bundle" / NAME).read_bytes()
    assert NAME in {file.path for file in found.files}
    assert pixels(png).size
    text = (tmp_path / "bundle" / "report.html").read_text(encoding="utf-8")
    (shown,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(shown) == png
    assert "Of the" in text
    assert "synthetic, the one whose map of" in text
    made = package(tmp_path / "bundle", "cpu", tmp_path / "toy.tar.gz")
    assert made.archive.stat().st_size > len(png)
