"""The moving digits of examples/: drawn the same each time, disjoint, and with their class in time alone."""

from pathlib import Path

import numpy as np

from examples import digits


def test_a_clip_is_drawn_the_same_each_time_also_from_a_file(tmp_path: Path) -> None:
    split = digits.split("validation")
    split.save(tmp_path / "split.npz")
    drawn, again = split.clip(3), digits.read(tmp_path / "split.npz").clip(3)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (13, 200, 182, 3)
    assert np.array_equal(drawn, again)


def test_no_digit_serves_in_two_splits_and_classes_are_balanced() -> None:
    splits = [digits.split(name) for name in digits.SPLITS]
    seeds = np.concatenate([split.seeds for split in splits])  # the place of each image in scikit-learn's set
    assert len(set(seeds.tolist())) == len(seeds) == sum(digits.SPLITS.values())
    assert all(abs(np.mean(split.labels) - 0.5) < 0.01 for split in splits)


def test_the_digit_moves_to_where_its_label_says() -> None:
    split = digits.split("validation")
    assert [_shift(split.clip(place)) > 0 for place in range(12)] == (split.labels[:12] == 1).tolist()


def test_the_classes_differ_in_direction_alone() -> None:
    image = digits.split("validation").images[0]
    left, right = (digits.clip(image, label, seed=5, height=64, width=64).astype(float) for label in (0, 1))
    assert left.shape == (13, 64, 64, 3)
    assert not np.array_equal(left, right)
    assert np.abs(left[6] - right[6]).max() <= 1.0  # half way through both are in the same place


def _shift(clip: np.ndarray) -> float:
    """Return the mean shift to the right between frames, in pixels, by phase correlation of their columns."""
    grey = clip.mean(axis=3)
    sharp = grey - grey.mean(axis=0)  # what stands still is gone
    columns = np.fft.rfft(sharp.reshape(len(sharp), -1, sharp.shape[2]), axis=2)
    cross = np.fft.irfft((columns[1:] * columns[:-1].conj()).sum(axis=(0, 1)), sharp.shape[2])
    best = int(np.argmax(cross[np.r_[-12:0, 1:13]]))
    return float(np.r_[-12:0, 1:13][best])
