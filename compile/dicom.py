"""DICOM files as the 8-bit frames that a radiologist sees on a monitor.

The order is the standard's (PS3.3 C.11, PS3.4 N.2): stored values, modality LUT or rescale, VOI LUT or window (the
first where there are several), MONOCHROME1 inverted. A file without a window is shown over its full range: 8 bits or
fewer are grey levels already; of more, the least value in the file becomes black and the largest white, padding left
out. Frames are decoded one at a time. Overlays are not drawn.

The trap: the header names the patient. Only the tags of the image are read, none is kept, and no message quotes the
header, nor pydicom, whose messages do.
"""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deploy_runtime.errors import DeployError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

SUFFIXES = frozenset({".dcm", ".dicom"})
DIRECTORY = "DICOMDIR"  # the index of a disc, itself a DICOM file without an image (PS3.10, 8.6)
MARK_AT, MARK = 128, b"DICM"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom's decoders give RGB of each
LEVELS = 8  # bits that are grey levels already
WHITE = 255
MOST_BITS = 32
LUT_BITS = 16  # of an entry, as pydicom looks it up; a narrower entry is a smaller number, not another one
# What says how a frame is shown, in the header or in the functional groups of an enhanced file (PS3.3 C.7.6.16.2).
DISPLAY = ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept",
           "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction")  # fmt: skip
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
GROUP_ITEMS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
PIXELS = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
          "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
          "PixelPaddingRangeLimit")  # fmt: skip
PALETTE = tuple(f"{kind}{colour}PaletteColorLookupTable{part}" for kind in ("", "Segmented")
                for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
                if (kind, part) != ("Segmented", "Descriptor"))  # fmt: skip
TAGS = [*PIXELS, *DISPLAY, *GROUPS, *PALETTE]

Values = NDArray[Any]
Frames = NDArray[np.uint8]


def marked(path: Path) -> bool:
    """Whether a file carries the mark of DICOM and is not the index of a disc. Raises OSError."""
    if path.name.upper() == DIRECTORY or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(MARK_AT)
        return file.read(len(MARK)) == MARK


def read(path: Path, choose: Callable[[int], Iterable[list[int]]]) -> Iterator[Frames]:
    """Yield `[frames, H, W, 1]` (grey) or `[frames, H, W, 3]` (RGB) for each list of frame numbers that `choose` makes
    of the number of frames.

    Raises DeployError where pydicom is missing, where the file is none or damaged or holds no image, and where its
    compression needs a package that is not installed; PermissionError as `open` does.
    """
    if find_spec("pydicom") is None:
        raise DeployError(
            f"{path} is a DICOM file, and pydicom is not installed", "pip install 'deploy-compile[dicom]'"
        )
    with path.open("rb") as file:
        scan = _Scan(path, file)
        for wanted in choose(scan.frames):
            yield np.stack([scan.shown(index) for index in wanted])


class _Scan:
    """An open file: its image tags, and its frames one by one."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        from pydicom import dcmread

        self.path, self.file = path, file
        with _told(path, "it is no DICOM file, or its header is damaged"):
            self.header: FileDataset = dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
        with _told(path, "its header is damaged"):
            if not all(self.header.get(name) for name in ("Rows", "Columns", "PhotometricInterpretation")):
                raise _refused(path, "it holds no image")
            self.kind = str(self.header.PhotometricInterpretation)
            self.frames = int(self.header.get("NumberOfFrames") or 1)
            self.syntax = self.header.file_meta.TransferSyntaxUID
            self.signed, self.bits = bool(self.header.PixelRepresentation), int(self.header.BitsStored)
            aligned = self.syntax.is_encapsulated or int(self.header.get("HighBit", self.bits - 1)) == self.bits - 1
        if not aligned or not 1 <= self.bits <= MOST_BITS or self.frames < 1:
            raise _refused(path, f"its {self.bits} bits a pixel are laid out as no picture's are")

    def shown(self, index: int) -> Frames:
        """Return one frame, `[H, W, 1]` or `[H, W, 3]`."""
        from pydicom.pixels.processing import apply_color_lut

        stored = self._stored(index)
        with _told(self.path, "its window, LUT or palette cannot be applied"):
            if self.kind in GREY and stored.ndim == 2:
                grey = self._grey(stored, index)
                return _levels(1 - grey if self.kind == GREY[0] else grey)[..., None]
            if self.kind == "PALETTE COLOR" and stored.ndim == 2:
                colours = apply_color_lut(stored, self.header)
                return _levels(colours / np.iinfo(colours.dtype).max)
        if self.kind in COLOUR and stored.shape[2:] == (3,):
            return _levels(stored / (2**self.bits - 1))
        raise _refused(self.path, "its colour model is none that can be shown")

    def _stored(self, index: int) -> Values:
        """Decode one frame: `[H, W]` or, in RGB, `[H, W, 3]`."""
        from pydicom import dcmread
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.pixels.utils import pixel_array
        from pydicom.uid import DeflatedExplicitVRLittleEndian

        with _told(self.path, "pydicom does not know its transfer syntax"):
            decoder = get_decoder(self.syntax)
        if not decoder.is_available:
            raise _undecodable(self.path, self.syntax.name, decoder.missing_dependencies)
        try:
            with _told(self.path, "its pixel data is missing, truncated or damaged"):
                if self.syntax == DeflatedExplicitVRLittleEndian:  # all of it is one stream: no frame by itself
                    self.file.seek(0)
                    return pixel_array(dcmread(self.file, specific_tags=[*TAGS, "PixelData"]), index=index)
                return pixel_array(self.file, index=index)
        except DeployError as error:
            if decoder.missing_dependencies and isinstance(error.__cause__, RuntimeError):  # those here could not
                raise _undecodable(self.path, self.syntax.name, decoder.missing_dependencies) from error
            raise

    def _grey(self, stored: Values, index: int) -> Values:
        """Return how bright each pixel is, from 0 to 1 inside the window and beyond outside it."""
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

        how = _display(self.header, index)
        values = apply_modality_lut(stored.astype(np.int64), how)
        if how.get("VOILUTSequence"):
            item = how.VOILUTSequence[0]
            entries, first, bits = (int(number) for number in item.LUTDescriptor)
            _widen(item)
            places = np.clip(np.rint(values).astype(np.int64), first, first + (entries or 2**16) - 1)
            return np.asarray(apply_voi_lut(places, how) / (2**bits - 1))
        if "WindowCenter" in how and "WindowWidth" in how:
            how.PhotometricInterpretation = GREY[1]
            how.PixelRepresentation, how.BitsStored = int(self.signed), self.bits
            low, high = _window_range(how, self.signed, self.bits)
            return (apply_voi_lut(values, how) - low) / (high - low)
        low, high = self._full_range
        return (values - low) / (high - low or 1)

    @cached_property
    def _full_range(self) -> tuple[float, float]:
        """The least and the largest value after the modality LUT, where no window says what to show."""
        from pydicom.pixels.processing import apply_modality_lut

        if self.bits <= LEVELS:
            least = -(2 ** (self.bits - 1)) if self.signed else 0
            values = apply_modality_lut(np.arange(least, least + 2**self.bits), _display(self.header, 0))
            return float(values.min()), float(values.max())
        low, high = np.inf, -np.inf
        for index in range(self.frames):
            stored = self._stored(index).astype(np.int64)
            inside = stored[~self._padding(stored)]
            values = apply_modality_lut(inside if inside.size else stored.ravel(), _display(self.header, index))
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        return low, high

    def _padding(self, stored: Values) -> NDArray[np.bool_]:
        """Return where pixels were only filled in, as around the circle of a CT (PS3.3 C.7.5.1.1.2)."""
        value = self.header.get("PixelPaddingValue")
        if not isinstance(value, int):
            return np.zeros(stored.shape, bool)
        limit = self.header.get("PixelPaddingRangeLimit")
        ends = sorted((value, limit if isinstance(limit, int) else value))
        return (stored >= ends[0]) & (stored <= ends[1])


def _display(header: "Dataset", index: int) -> "Dataset":
    """Return how one frame is shown: the header's values, over them the shared ones, over them the frame's own."""
    from pydicom.dataset import Dataset

    shared, own = (header.get(name) for name in GROUPS)
    groups = [*(shared or [])[:1], *(own or [])[index : index + 1]]
    items = [group[name][0] for group in groups for name in GROUP_ITEMS if group.get(name)]
    how = Dataset()
    how.file_meta = header.file_meta  # the byte order of a LUT's words
    for place in (header, *items):
        for name in DISPLAY:
            if place.get(name) not in (None, "", []):  # an empty value says nothing
                how.add(deepcopy(place[name]))
    for item in (how.get("ModalityLUTSequence") or [])[:1]:
        _widen(item)
    return how


def _widen(lut: "Dataset") -> None:
    """Have pydicom look up entries as 16-bit numbers: it stores places in the LUT in the type of its entries, so that
    one of 8 bits and more than 256 entries would give others than those asked for."""
    entries, first, _ = lut.LUTDescriptor
    lut.LUTDescriptor = [entries, first, LUT_BITS]


def _window_range(how: "Dataset", signed: bool, bits: int) -> tuple[float, float]:
    """Return what pydicom's window makes of black and of white: the ends of the values that can be stored, rescaled."""
    slope, intercept = float(how.get("RescaleSlope", 1)), float(how.get("RescaleIntercept", 0))
    if "RescaleSlope" not in how or "RescaleIntercept" not in how:
        slope, intercept = 1.0, 0.0
    least = -(2 ** (bits - 1)) if signed else 0
    ends = (0, 2**LUT_BITS - 1) if how.get("ModalityLUTSequence") else (least, least + 2**bits - 1)
    low, high = (end * slope + intercept for end in ends)
    if low == high:
        raise ValueError("a slope of 0")
    return low, high


def _levels(bright: Values) -> Frames:
    """Return grey levels of brightnesses from 0 to 1; what lies beyond is black or white."""
    if not np.isfinite(bright).all():
        raise ValueError("a brightness that is no number")
    return np.asarray(np.rint(np.clip(bright, 0, 1) * WHITE), np.uint8)


@contextmanager
def _told(path: Path, why: str) -> Iterator[None]:
    """Turn what pydicom raises for a bad file into one message. Its own text may quote the header."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they quote the header too
            yield
    except PermissionError:
        raise
    except (
        InvalidDicomError, BytesLengthException, AttributeError, KeyError, IndexError, ValueError, TypeError,
        OverflowError, RuntimeError, EOFError, OSError, struct.error, zlib.error,
    ) as error:  # fmt: skip
        raise _refused(path, why) from error


def _refused(path: Path, why: str) -> DeployError:
    return DeployError(f"{path} cannot be shown as a DICOM image: {why}", "Remove the file, or export it again.")


def _undecodable(path: Path, syntax: str, missing: list[str]) -> DeployError:
    """`missing` is pydicom's list, such as `pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1`."""
    needs = next((line.partition(" requires ")[2] for line in missing if line.startswith("pylibjpeg ")), "")
    packages = " ".join(f"'{name}'" for name in needs.replace(" and ", ", ").split(", ") if name)
    return DeployError(
        f"{path} is compressed as {syntax}, which no decoder here can read",
        f"pip install {packages}, or export it uncompressed." if packages else "Export it uncompressed.",
    )
