"""DICOM: the files that pydicom ships and files made here, against windows computed by hand in numpy."""

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from deploy_compile import media
from deploy_runtime.errors import DeployError

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
NAME = "MUSTERMANN^ERIKA"


def shown(path: Path, frames: int | None = None, most: int = 1) -> np.ndarray:
    return next(iter(media.windows(path, frames, most)))


def grey(share: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(np.clip(share, 0, 1) * 255), np.uint8)[..., None]


def linear(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, with an output from 0 to 1."""
    share = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.where(
        values <= centre - 0.5 - (width - 1) / 2, 0, np.where(values > centre - 0.5 + (width - 1) / 2, 1, share)
    )


def write(path: Path, pixels: np.ndarray, bits: int | None = None, **tags: Any) -> Path:
    """Write pixels [H, W], [T, H, W] or [H, W, 3] as an uncompressed file with a patient's name in it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    if pixels.ndim == 3 and not colour:
        file.NumberOfFrames = len(pixels)
    file.PatientName = NAME
    file.Rows, file.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    file.SamplesPerPixel = 3 if colour else 1
    file.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        file.PlanarConfiguration = 0
    file.BitsAllocated = 8 * pixels.itemsize
    file.BitsStored = bits or file.BitsAllocated
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() + b"\0" * (pixels.nbytes % 2)
    file["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60


def test_an_mr_slice_through_its_window() -> None:
    stored = dcmread(SHIPPED / "MR_small.dcm").pixel_array
    assert np.array_equal(shown(SHIPPED / "MR_small.dcm"), grey(linear(stored, 600, 1600)))


@pytest.mark.parametrize("kind", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "padded"])
def test_the_same_slice_in_every_encoding(kind: str) -> None:
    assert np.array_equal(shown(SHIPPED / f"MR_small_{kind}.dcm"), shown(SHIPPED / "MR_small.dcm"))


def test_a_ct_without_a_window_over_its_full_range() -> None:
    stored = dcmread(SHIPPED / "CT_small.dcm").pixel_array.astype(float)
    assert np.array_equal(shown(SHIPPED / "CT_small.dcm"), grey((stored - stored.min()) / np.ptp(stored)))


def test_a_ct_through_a_soft_tissue_window(tmp_path: Path) -> None:
    file = dcmread(SHIPPED / "CT_small.dcm")
    file.WindowCenter, file.WindowWidth = ["40", "600"], ["400", "1500"]  # the first is the one
    file.save_as(tmp_path / "ct")
    assert np.array_equal(shown(tmp_path / "ct"), grey(linear(file.pixel_array.astype(float) - 1024, 40, 400)))


def test_colours(tmp_path: Path) -> None:
    rgb = dcmread(SHIPPED / "SC_rgb_small_odd.dcm").pixel_array
    assert np.array_equal(shown(SHIPPED / "SC_rgb_small_odd.dcm"), rgb)
    bars = shown(SHIPPED / "SC_rgb_rle.dcm")
    assert tuple(bars[5, 50]) == (255, 0, 0)
    for same in ("SC_rgb_rle_16bit", "SC_rgb_rle_32bit", "SC_ybr_full_422_uncompressed", "SC_rgb_jpeg_dcmtk"):
        assert np.abs(shown(SHIPPED / f"{same}.dcm").astype(int) - bars).mean() < 1.5, same
    palette = dcmread(SHIPPED / "examples_palette.dcm")
    red, _, blue = (
        np.frombuffer(palette[f"{name}PaletteColorLookupTableData"].value, "<u2") for name in ("Red", "Green", "Blue")
    )
    got = shown(SHIPPED / "examples_palette.dcm")
    assert np.array_equal(got[..., 0], np.rint(red[palette.pixel_array] / 257))
    assert np.array_equal(got[..., 2], np.rint(blue[palette.pixel_array] / 257))


def test_a_loop_is_a_clip() -> None:
    path = SHIPPED / "examples_ybr_color.dcm"  # 30 frames
    clips = list(media.windows(path, 4, 2))
    assert [clip.shape for clip in clips] == [(4, 240, 320, 3)] * 2
    stills = list(media.windows(path, None, 30))
    assert np.array_equal(clips[0][0], stills[0])
    assert np.array_equal(clips[1][-1], stills[29])
    dose = shown(SHIPPED / "rtdose.dcm", 15)
    assert (dose.min(), dose.max(), dose.shape) == (0, 255, (15, 10, 10, 1))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions(function: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAMP, 12, WindowCenter=1800, WindowWidth=900, VOILUTFunction=function)
    value = RAMP.astype(float)
    share = {
        "LINEAR": linear(value, 1800, 900),
        "LINEAR_EXACT": (value - 1800) / 900 + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * (value - 1800) / 900)),
    }[function]
    assert np.array_equal(shown(path), grey(share))


def lut(entries: np.ndarray, first: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, bits], entries.tolist()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    return Sequence([item])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_voi_lut_of_more_entries_than_its_depth_counts(bits: int, tmp_path: Path) -> None:
    entries = np.linspace(0, 2**bits - 1, 1000).astype(int)[::-1]
    path = write(tmp_path / "a.dcm", RAMP, 12, VOILUTSequence=lut(entries, 500, bits), WindowCenter=1, WindowWidth=2)
    assert np.array_equal(shown(path), grey(entries[np.clip(RAMP.astype(int) - 500, 0, 999)] / (2**bits - 1)))


def test_a_modality_lut(tmp_path: Path) -> None:
    entries = np.arange(4096) ** 2 // 256
    path = write(tmp_path / "a.dcm", RAMP, 12, ModalityLUTSequence=lut(entries, 0, 16), ModalityLUTType="US",
                 WindowCenter=20000, WindowWidth=30000)  # fmt: skip
    assert np.array_equal(shown(path), grey(linear(entries[RAMP].astype(float), 20000, 30000)))


def test_each_frame_of_an_enhanced_file_has_its_own_window(tmp_path: Path) -> None:
    def group(slope: int, centre: int) -> Dataset:
        window, rescale, frame = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 500
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, -100
        frame.FrameVOILUTSequence = Sequence([window])
        frame.PixelValueTransformationSequence = Sequence([rescale])
        return frame

    groups = Sequence([group(1, 300), group(2, 2000)])
    path = write(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), PerFrameFunctionalGroupsSequence=groups)
    first, second = media.windows(path, None, 2)
    assert np.array_equal(first, grey(linear(RAMP - 100.0, 300, 500)))
    assert np.array_equal(second, grey(linear(2.0 * RAMP - 100, 2000, 500)))


def test_padding_is_left_out_of_the_full_range(tmp_path: Path) -> None:
    pixels = np.where(RAMP == 0, -2000, RAMP.astype(int) + 100).astype(np.int16)
    got = shown(write(tmp_path / "a.dcm", pixels, PixelPaddingValue=-2000))
    assert np.array_equal(got, grey((pixels - 160.0) / (RAMP.max() - 60)))


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    signed, bits = draw(st.booleans()), draw(st.integers(2, 16))
    low = -(2 ** (bits - 1)) if signed else 0
    values = draw(st.lists(st.integers(low, low + 2**bits - 1), min_size=6, max_size=6))
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    tags: dict[str, Any] = {"PhotometricInterpretation": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))}
    if draw(st.booleans()):
        tags |= {
            "RescaleSlope": draw(st.sampled_from(["0.5", "1", "-2"])),
            "RescaleIntercept": draw(st.sampled_from(["0", "-1024", "3.25"])),
        }
    if draw(st.booleans()):
        tags |= {"WindowCenter": draw(st.integers(-2000, 4000)), "WindowWidth": draw(st.integers(2, 5000))}
    return {"pixels": np.array(values, kind).reshape(2, 3), "bits": bits, **tags}


@settings(deadline=None)
@given(files())
def test_any_grey_file_is_shown_as_computed_by_hand(file: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        got = shown(write(Path(folder) / "a.dcm", **file))
    values = file["pixels"].astype(float)
    slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    values = values * slope + intercept
    if "WindowCenter" in file:
        share = linear(values, file["WindowCenter"], file["WindowWidth"])
    else:
        low, high = values.min(), values.max()
        if file["bits"] <= 8:
            least = -(2 ** (file["bits"] - 1)) if file["pixels"].dtype.kind == "i" else 0
            ends = [slope * end + intercept for end in (least, least + 2 ** file["bits"] - 1)]
            low, high = min(ends), max(ends)
        share = (values - low) / max(high - low, 1e-9)
    if file["PhotometricInterpretation"] == "MONOCHROME1":
        share = 1 - np.clip(share, 0, 1)
    assert np.abs(got.astype(int) - grey(share)).max() <= (0 if "WindowCenter" not in file else 1)  # .5 rounds two ways


def test_a_disc_is_read_without_its_index(tmp_path: Path) -> None:
    disc = tmp_path / "disc"
    shutil.copytree(SHIPPED / "dicomdirtests" / "98892003", disc / "98892003")
    shutil.copy(SHIPPED / "dicomdirtests" / "DICOMDIR", disc)
    shutil.copy(SHIPPED / "MR_small.dcm", disc / "1.2.840.113619")
    (disc / "notes.txt").write_text("no image")
    found = media.sources(disc)
    assert [len(source.files) for source in found] == [1, 17]


def cut(path: Path) -> None:
    whole = (SHIPPED / "MR_small.dcm").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


BAD = {
    "cut": (cut, "pixel data is missing, truncated or damaged"),
    "text": (lambda path: path.write_text("no image"), "no DICOM file"),
    "empty": (lambda path: path.write_bytes(b""), "no DICOM file"),
    "report": (lambda path: shutil.copy(SHIPPED / "test-SR.dcm", path), "no image"),
    "header": (lambda path: shutil.copy(SHIPPED / "badVR.dcm", path), "header is damaged"),
    "window": (lambda path: write(path, RAMP, WindowCenter=5, WindowWidth=0), "window, LUT or palette"),
    "function": (lambda path: write(path, RAMP, WindowCenter=5, WindowWidth=9, VOILUTFunction="CUBE"), "window, LUT"),
    "slope": (lambda p: write(p, RAMP, WindowCenter=5, WindowWidth=9, RescaleSlope=0, RescaleIntercept=0), "window"),
    "high bit": (lambda path: write(path, RAMP, 12, HighBit=15), "laid out as no picture"),
    "colours": (lambda path: write(path, RAMP, PhotometricInterpretation="HSV"), "colour model"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_path_and_nothing_else(name: str, tmp_path: Path) -> None:
    make, says = BAD[name]
    make(tmp_path / "scan.dcm")
    with pytest.raises(DeployError, match=says) as caught:
        shown(tmp_path / "scan.dcm")
    assert "scan.dcm" in caught.value.message
    assert "MUSTERMANN" not in str(caught.value)


@settings(deadline=None)
@given(st.integers(0, 900), st.binary(min_size=1, max_size=12))
def test_a_damaged_file_never_says_whose_it_is(place: int, damage: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.dcm", RAMP, StudyDescription=NAME, WindowCenter=5, WindowWidth=9)
        whole = path.read_bytes()
        path.write_bytes(whole[:place] + damage + whole[place + len(damage) :])
        said = ""
        try:
            shown(path)
        except DeployError as error:
            said = str(error)
    assert "MUSTER" not in said


def test_one_image_is_no_clip() -> None:
    with pytest.raises(DeployError, match="is one image, and the network takes clips of 4"):
        shown(SHIPPED / "MR_small.dcm", 4)


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeployError, match="is compressed as JPEG-LS Lossless Image Compression") as caught:
        shown(SHIPPED / "MR_small_jpeg_ls_lossless.dcm")
    assert "pip install 'pylibjpeg" in caught.value.fix
    with pytest.raises(DeployError, match="is compressed as JPEG Extended"):  # 12 bits: Pillow is here and cannot
        shown(SHIPPED / "JPGExtended.dcm")


def test_without_the_extra_one_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy_compile.dicom.find_spec", lambda name: None if name == "pydicom" else find_spec(name))
    with pytest.raises(DeployError, match="pydicom is not installed") as caught:
        shown(SHIPPED / "MR_small.dcm")
    assert caught.value.fix == "pip install 'deploy-compile[dicom]'"
