"""Preprocessing against what training used: torchvision on images, PyTorch's interpolate and pytorchvideo on clips."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate
from torchvision import transforms  # type: ignore[import-untyped]

from deploy_runtime.errors import DeployError
from deploy_runtime.preprocess import prepare, prepare_inputs, sample_uniformly, weights
from deploy_runtime.session import Array
from deploy_runtime.spec import Preprocess, Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTO = Preprocess((24, 20), MEAN, STD, "CHW", short_side=32)
CLIP = Preprocess((16, 16), (0.45, 0.45, 0.45), (0.225, 0.225, 0.225), "CTHW", short_side=18, frames=5, antialias=False)
LEVEL = 1.0 / 255.0
sizes = st.integers(33, 150)


def pixels(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def levels(one: Array, other: Array, how: Preprocess) -> float:
    """Return the largest difference in grey levels."""
    std = np.reshape(how.std, (-1, *[1] * (one.ndim - 1)))
    return float(np.max(np.abs(one - other) * std) * 255.0)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.integers(20, 60))
def test_an_image_is_resized_and_cropped_as_torchvision_does_it(height: int, width: int, short: int) -> None:
    how = replace(PHOTO, short_side=short, crop=(20, 19))
    image = pixels(height, width, 3, seed=height)
    steps = [transforms.Resize(short), transforms.CenterCrop(how.crop), transforms.ToTensor()]
    tensor: Any = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])(Image.fromarray(image))
    wanted: Array = tensor.numpy()
    got = prepare(image, how)
    assert (got.dtype, got.shape) == (np.float32, wanted.shape)
    assert levels(got, wanted, how) <= 1.001


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.integers(16, 60), st.integers(1, 12))
def test_a_clip_is_prepared_as_pytorchvideo_does_it(height: int, width: int, short: int, frames: int) -> None:
    how = replace(CLIP, short_side=short, frames=frames)
    clip = pixels(7, height, width, 3, seed=width)
    got = prepare(clip, how)
    x = torch.from_numpy(clip).permute(3, 0, 1, 2).float()
    x = x[:, torch.linspace(0, 6, frames).clamp(0, 6).long()] / 255.0
    x = (x - 0.45) / 0.225
    # short_side_scale of pytorchvideo.transforms.functional, whose import warns
    size = (int(height / width * short), short) if width < height else (short, int(width / height * short))
    x = interpolate(x, size=size, mode="bilinear", align_corners=False)
    top, left = round((x.shape[2] - 16) / 2.0), round((x.shape[3] - 16) / 2.0)
    wanted = x[:, :, top : top + 16, left : left + 16].numpy()
    assert got.shape == (3, frames, 16, 16)
    assert got.flags.c_contiguous
    assert levels(got, wanted, how) <= 0.01


def test_without_resizing_the_values_are_exact() -> None:
    how = replace(PHOTO, short_side=None, crop=(10, 11))
    image = pixels(21, 22, 3)
    wanted = (image[6:16, 6:17].astype(np.float32) / 255.0 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(prepare(image, how), wanted.transpose(2, 0, 1), atol=1e-6)


def test_enlarging_is_as_pillow_does_it() -> None:
    image = pixels(12, 9, 3)
    how = replace(PHOTO, short_side=40, crop=(40, 40))
    big = np.asarray(Image.fromarray(image).resize((40, int(40 * 12 / 9)), Image.Resampling.BILINEAR))
    wanted = (big[6:46].astype(np.float32) / 255.0 - np.array(MEAN)) / np.array(STD)
    assert levels(prepare(image, how), wanted.transpose(2, 0, 1), how) <= 1.001


def test_frames_are_sampled_as_torch_linspace_does_it() -> None:
    for total in range(1, 130):
        for wanted in (1, 2, 3, 4, 7, 8, 13, 16, 31, 32, 64):
            expected = torch.linspace(0, total - 1, wanted).clamp(0, total - 1).long().numpy()
            np.testing.assert_array_equal(sample_uniformly(total, wanted), expected, err_msg=f"{total} {wanted}")


@given(st.integers(1, 80), st.integers(1, 80), st.booleans())
def test_weights_are_shares(source: int, target: int, antialias: bool) -> None:
    matrix = weights(source, target, antialias)
    assert matrix.shape == (target, source)
    assert np.all(matrix >= 0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-5)


def test_layouts_hold_the_same_values() -> None:
    clip = pixels(9, 40, 30, 3)
    ctwh = prepare(clip, CLIP)
    np.testing.assert_array_equal(prepare(clip, replace(CLIP, layout="TCHW")), ctwh.transpose(1, 0, 2, 3))


def test_grey_is_seen_in_every_channel_or_in_the_only_one() -> None:
    grey = pixels(40, 50)
    three = prepare(grey, replace(PHOTO, mean=(0.5,) * 3, std=(0.25,) * 3))
    one = prepare(grey, replace(PHOTO, mean=(0.5,), std=(0.25,)))
    assert one.shape == (1, 24, 20)
    for channel in three:
        assert levels(channel[None], one, replace(PHOTO, std=(0.25,))) <= 1.001


def test_a_film_shorter_than_the_network_sees_repeats_its_frames() -> None:
    clip = pixels(2, 40, 30, 3)
    got = prepare(clip, CLIP)
    np.testing.assert_array_equal(got[:, 0], got[:, 3])
    assert np.any(got[:, 0] != got[:, 4])


@pytest.mark.parametrize(
    ("frames", "how", "said"),
    [
        (np.zeros((40, 40, 3), np.float32), PHOTO, "the frames are float32"),
        ([[1, 2]], PHOTO, "the frames are a list"),
        (pixels(4, 40, 40, 3), PHOTO, r"shape \[4, 40, 40, 3\]"),
        (pixels(40, 40, 3), CLIP, r"shape \[40, 40, 3\]"),
        (pixels(40, 40, 4), PHOTO, r"shape \[40, 40, 4\]"),
        (pixels(40, 40, 2), PHOTO, r"shape \[40, 40, 2\]"),
        (pixels(3, 40, 40), PHOTO, r"shape \[3, 40, 40\]"),
        (pixels(0, 40, 40, 3), CLIP, r"shape \[0, 40, 40, 3\]"),
        (pixels(40, 40, 3), replace(PHOTO, crop=(33, 20)), "only 32 high after resizing"),
        (pixels(8, 30, 3), replace(PHOTO, short_side=None), "only 8 high"),
    ],
)
def test_frames_of_another_kind_are_refused_with_what_is_wanted(frames: Any, how: Preprocess, said: str) -> None:
    with pytest.raises(DeployError, match=said):
        prepare(frames, how)


def test_bicubic_is_pillows() -> None:
    frame = pixels(50, 70, 3)
    how = replace(PHOTO, short_side=32, crop=(32, 40), interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3)
    wanted = Image.fromarray(frame).resize((44, 32), Image.Resampling.BICUBIC).crop((2, 0, 42, 32))
    found = prepare(frame, how).transpose(1, 2, 0) * 255
    assert np.abs(found - np.asarray(wanted, np.float32)).max() <= 1.01


def test_squeezed_frames_have_the_size_that_training_had() -> None:
    how = replace(CLIP, short_side=None, stretch=(20, 27), crop=(16, 16), frames=2)
    wide, square = (prepare(pixels(30, width, 3)[None], how) for width in (80, 30))
    assert wide.shape == square.shape == (3, 2, 16, 16)


def test_a_network_of_one_channel_sees_colour_as_its_luma() -> None:
    frame = pixels(24, 20, 3)
    how = replace(PHOTO, short_side=None, mean=(0.0,), std=(1.0,))
    grey = np.asarray(Image.fromarray(frame).convert("L"), np.float32)
    assert np.abs(prepare(frame, how)[0] * 255 - grey).max() <= 1.01
    assert np.array_equal(prepare(np.asarray(grey, np.uint8), how)[0], np.asarray(grey, np.uint8) / np.float32(255))


SLOWFAST = (Tensor("slow", ("batch", 3, 2, 16, 16)), Tensor("fast", ("batch", 3, 5, 16, 16)))
PAIR = (Tensor("baseline", ("batch", 3, 24, 20)), Tensor("followup", ("batch", 3, 24, 20)))


def test_pathways_take_frames_of_one_clip() -> None:
    how = replace(CLIP, pathways={"slow": 2, "fast": 5})
    made = prepare_inputs(np.stack([pixels(20, 24, 3, seed=seed) for seed in range(9)]), how, SLOWFAST)
    assert {name: array.shape for name, array in made.items()} == {"slow": (3, 2, 16, 16), "fast": (3, 5, 16, 16)}
    assert np.array_equal(made["slow"], made["fast"][:, [0, 4]])


def test_a_pair_goes_through_one_transform_and_one_image_is_refused() -> None:
    before, after = pixels(40, 44, 3), pixels(50, 60, 3)
    made = prepare_inputs({"baseline": before, "followup": after}, PHOTO, PAIR)
    assert np.array_equal(made["baseline"], prepare(before, PHOTO))
    assert np.array_equal(made["followup"], prepare(after, PHOTO))
    with pytest.raises(DeployError, match="one image is given and the network compares 2: baseline, followup"):
        prepare_inputs(before, PHOTO, PAIR)
    with pytest.raises(DeployError, match="the frames are baseline instead of baseline, followup"):
        prepare_inputs({"baseline": before}, PHOTO, PAIR)
