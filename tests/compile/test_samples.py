"""What is collected, from whom, and what is remembered of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_compile import media, samples, synthetic
from deploy_compile.options import MOST_CALIBRATION
from deploy_compile.results import Samples
from deploy_compile.sample_files import read
from deploy_recipes import Classes, Preprocess, Recipe, Tensor
from deploy_runtime.errors import DeployError
from tests.tiny_media import clip, image

IMAGES = Recipe(
    name="toy",
    family="toy",
    network=lambda: None,  # type: ignore[arg-type,return-value]
    inputs=(Tensor("image", ("batch", 3, 32, 32), layout="NCHW"),),
    outputs=(Tensor("logits", ("batch", 5), layout="NC"),),
    task=Classes(5),
    parameters=1,
    source="test",
    preprocess=Preprocess(crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, layout="CHW", short_side=36),
)
CLIPS = replace(
    IMAGES,
    inputs=(Tensor("video", ("batch", 3, 4, 32, 32), layout="NCTHW"),),
    preprocess=Preprocess(crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, layout="CTHW", short_side=36, frames=4),
)


def test_synthetic_sets_differ_are_finite_and_like_preprocessed_frames(tmp_path: Path) -> None:
    got = samples.collect(tmp_path, CLIPS, None, "entropy")
    sets = [list(read(folder)) for folder in (got.calibration, got.held_out, got.golden)]
    assert [len(one) for one in sets] == [samples.CALIBRATION, samples.HELD_OUT, samples.GOLDEN]
    seen = {array["video"].tobytes() for one in sets for array in one}
    assert len(seen) == sum(map(len, sets))
    values = np.concatenate([array["video"] for array in sets[0]])
    assert values.shape == (samples.CALIBRATION, 3, 4, 32, 32)
    assert values.dtype == np.float32
    assert -2 <= values.min() < values.max() <= 2  # what (0..1 - 0.5) / 0.25 can give
    assert 0.5 < values.std() < 1.5
    assert abs(np.diff(values, axis=2)).mean() > 0.01  # it moves
    assert (got.provenance.synthetic, got.provenance.sources, got.golden_synthetic) == (True, 0, True)


def test_the_same_again_gives_the_same_digest_and_other_preprocessing_another(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    first = samples.collect(tmp_path / "a", IMAGES, None, "minmax").provenance.digest
    assert samples.collect(tmp_path / "b", IMAGES, None, "minmax").provenance.digest == first
    other = replace(IMAGES, preprocess=replace(IMAGES.preprocess, short_side=40))  # type: ignore[type-var]
    assert samples.collect(tmp_path / "c", other, None, "minmax").provenance.digest != first


def collected(tmp_path: Path, recipe: Recipe, *, ship: bool = False) -> Samples:
    out = tmp_path / "out"
    out.mkdir()
    return samples.collect(out, recipe, tmp_path / "in", "minmax", ship)


def test_no_patient_is_in_both_sets(tmp_path: Path) -> None:
    for patient in range(5):
        for number in range(3):
            image(tmp_path / "in" / f"patient{patient}" / f"{number}.png", level=50 * patient + number)
    got = collected(tmp_path, IMAGES)

    def patients(folder: Path) -> set[int]:
        levels = [float(array["image"].mean()) * 63.75 + 127.5 for array in read(folder)]
        return {round(level) // 50 for level in levels}

    assert patients(got.calibration) | patients(got.held_out) == set(range(5))
    assert not patients(got.calibration) & patients(got.held_out)
    assert got.provenance.sources == len(patients(got.calibration))
    assert "fewer than 16" in got.held_out_note


def test_several_windows_of_several_videos(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        clip(tmp_path / "in" / f"{name}.mp4", frames=40)
    got = collected(tmp_path, CLIPS)
    assert len(list(read(got.calibration))) == 2 * samples.MOST_WINDOWS
    assert len(list(read(got.held_out))) == samples.MOST_WINDOWS
    assert next(read(got.held_out))["video"].shape == (1, 3, 4, 32, 32)


def test_many_sources_are_all_heard_within_the_limit(tmp_path: Path) -> None:
    for number in range(60):
        image(tmp_path / "in" / f"{number:02d}.png", level=4 * number)
    got = collected(tmp_path, IMAGES)
    assert len(list(read(got.calibration))) == MOST_CALIBRATION
    assert len(list(read(got.held_out))) == 20
    for most in (5, 39, 100):
        (tmp_path / f"{most}").mkdir()
        asked = samples.collect(tmp_path / f"{most}", IMAGES, tmp_path / "in", "minmax", False, most)
        assert len(list(read(asked.calibration))) == asked.provenance.samples == min(most, 40)


def test_real_samples_ship_only_when_asked(tmp_path: Path) -> None:
    for number in range(6):
        image(tmp_path / "in" / f"{number}.png", level=40 * number)
    got = collected(tmp_path, IMAGES, ship=True)
    assert got.golden_synthetic is False
    real = {array["image"].tobytes() for array in read(got.held_out)}
    assert {array["image"].tobytes() for array in read(got.golden)} <= real
    (tmp_path / "again").mkdir()
    plain = samples.collect(tmp_path / "again", IMAGES, tmp_path / "in", "minmax")
    assert plain.golden_synthetic is True
    assert not real & {array["image"].tobytes() for array in read(plain.golden)}


def test_nothing_that_is_kept_names_a_file(tmp_path: Path) -> None:
    for number in range(4):
        image(tmp_path / "in" / f"DOE_JANE_{number}" / "scan.png", level=number)
    got = collected(tmp_path, IMAGES)
    kept = repr(got).replace(str(tmp_path), "") + "".join(path.name for path in tmp_path.joinpath("out").rglob("*"))
    assert "DOE" not in kept
    assert "scan" not in kept


def test_arrays_are_raw_frames_or_ready_inputs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    np.save(tmp_path / "in" / "a.npy", rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    ready = rng.standard_normal((2, 3, 32, 32), dtype=np.float32)
    np.savez(tmp_path / "in" / "b.npz", image=ready)
    np.save(tmp_path / "in" / "c.npy", ready[0])
    got = collected(tmp_path, IMAGES)
    calibration = [array["image"] for array in read(got.calibration)]
    assert len(calibration) == 3
    assert np.array_equal(np.concatenate(calibration[1:]), ready)
    assert np.array_equal(next(read(got.held_out))["image"], ready[:1])


BAD_ARRAYS: dict[str, tuple[media.Array, str]] = {
    "shape": (np.zeros((3, 30, 32), np.float32), "takes float32"),
    "dtype": (np.zeros((3, 32, 32), np.float64), "takes float32"),
    "nan": (np.full((3, 32, 32), np.nan, np.float32), "NaN or Inf"),
    "small": (np.zeros((0, 40, 3), np.uint8), "a0"),
    "rank": (np.zeros((40,), np.uint8), "a0"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_bad_arrays_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    value, says = BAD_ARRAYS[kind]
    for number in range(2):
        np.save(tmp_path / "in" / f"a{number}.npy", value)
    with pytest.raises(DeployError, match=says) as caught:
        collected(tmp_path, IMAGES)
    assert "a0.npy" in caught.value.message


def test_arrays_of_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        np.savez(tmp_path / "in" / f"{number}.npz", left=np.zeros(1), right=np.zeros(1))
    with pytest.raises(DeployError, match="holds the arrays left, right, and toy takes image"):
        collected(tmp_path, IMAGES)


@pytest.mark.parametrize("subfolder", ["", "only_patient"])
def test_one_source_cannot_be_split(subfolder: str, tmp_path: Path) -> None:
    for number in range(3 if subfolder else 1):
        image(tmp_path / "in" / subfolder / f"{number}.png")
    with pytest.raises(DeployError, match="one source only"):
        collected(tmp_path, IMAGES)


@given(st.integers(2, 200))
def test_both_sides_of_a_split_have_sources_and_share_none(count: int) -> None:
    sources = [media.Source((Path(str(number)),)) for number in range(count)]
    calibrating, held_out = samples.split(sources)
    assert calibrating
    assert held_out
    assert sorted(map(repr, calibrating + held_out)) == sorted(map(repr, sources))


def test_golden_inputs_stay_below_their_limit() -> None:
    large = replace(IMAGES, inputs=(Tensor("volume", ("batch", 1, 160, 160, 160), layout="NCTHW"),))
    assert samples._golden_count(large) == 2
    assert samples._golden_count(IMAGES) == samples.GOLDEN


def test_pathways_of_a_synthetic_clip_show_the_same_clip() -> None:
    slowfast = replace(
        CLIPS,
        inputs=(
            Tensor("slow", ("batch", 3, 2, 32, 32), layout="NCTHW"),
            Tensor("fast", ("batch", 3, 4, 32, 32), layout="NCTHW"),
        ),
        preprocess=replace(CLIPS.preprocess, pathways={"slow": 2, "fast": 4}),  # type: ignore[type-var]
    )
    made = synthetic.sample(slowfast, 1, 0)
    assert np.array_equal(made["slow"], made["fast"][:, :, [0, 3]])
    assert not np.array_equal(made["fast"], synthetic.sample(slowfast, 1, 4)["fast"])  # the same scene, another sample
