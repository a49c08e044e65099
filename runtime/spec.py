"""The values that recipes state and the runtime obeys. Frozen, plain, JSON-able; what was measured is in `evidence`.

Nothing here measures; `data.encode` and `data.decode` turn each value into JSON and back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Tensor:
    """One input or output of a graph: its name, shape and dtype.

    `shape` holds numbers and, for symbolic axes, their names; the first axis is `"batch"`.
    `layout` names the axes, one letter each, e.g. `NCTHW`; T are the frames given, F those of a sliding window.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    layout: str = ""

    def at(self, batch: int) -> tuple[int, ...]:
        """Return the shape with every symbolic axis set to `batch`."""
        return tuple(batch if isinstance(dim, str) else dim for dim in self.shape)

    def of_frames(self, frames: int) -> "Tensor":
        """Return the tensor with its time axis, where it has one, that many frames long."""
        if "T" not in self.layout:
            return self
        axis = self.layout.index("T")
        return replace(self, shape=(*self.shape[:axis], frames, *self.shape[axis + 1 :]))


@dataclass(frozen=True)
class State:
    """What a causal network carries from one chunk of frames to the next: it reads `input` and writes `output`.

    Both are batch-first tensors of one shape, among the network's inputs and outputs. Before the first frame every
    value is `initial`. With a `window` the network is none: it reads later frames too, answers for the last `window`
    frames at once, and what it carries are the features of all but one of them.
    """

    input: str
    output: str
    initial: float = 0.0
    window: int = 0


def window(state: Sequence[State]) -> int:
    """Return how many frames a sliding window has; 0 where none is needed."""
    return max((one.window for one in state), default=0)


def data_inputs(inputs: Sequence[Tensor], state: Sequence[State]) -> tuple[Tensor, ...]:
    """Return the inputs that whoever runs a network gives: all but the state."""
    carried = {one.input for one in state}
    return tuple(tensor for tensor in inputs if tensor.name not in carried)


def data_outputs(outputs: Sequence[Tensor], state: Sequence[State]) -> tuple[Tensor, ...]:
    """Return the outputs that whoever runs a network is told: all but the state."""
    carried = {one.output for one in state}
    return tuple(tensor for tensor in outputs if tensor.name not in carried)


@dataclass(frozen=True)
class Classes:
    """Scores of `count` exclusive classes over the last axis; the decision is the largest.

    `of` names the outputs that hold them; empty: all whose last axis is `count` long.
    """

    kind: ClassVar[str] = "classes"
    count: int
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class MultiLabel:
    """Scores of `count` labels over the last axis, each decided by itself: present from `threshold` on.

    The threshold is in the output's own units: 0.5 of a probability, 0 of a logit. `of` as for Classes.
    """

    kind: ClassVar[str] = "multi_label"
    count: int
    threshold: float = 0.5
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class DenseMap:
    """The outputs are maps, a value a pixel or patch; there is no decision, distances judge."""

    kind: ClassVar[str] = "dense_map"


@dataclass(frozen=True)
class Features:
    """The outputs are feature vectors over the last axis; there is no decision, the cosine judges."""

    kind: ClassVar[str] = "features"


Task = Classes | MultiLabel | DenseMap | Features


@dataclass(frozen=True)
class Limit:
    """The most drift allowed at one precision; None: not judged. A loosened limit says why in `reason`.

    `cosine` and `sqnr_db` are the least allowed over all held-out samples together; `max_relative` is the most allowed
    max |error| / max |reference|; `fp64_ratio` is the most allowed distance from an fp64 run in multiples of PyTorch
    fp32's own distance from it; `agreement` is the least share of equal decisions. `outputs` holds the limits of those
    outputs, by name, that these do not fit: an attention map, a variance.
    """

    cosine: float | None = None
    sqnr_db: float | None = None
    max_relative: float | None = None
    fp64_ratio: float | None = None
    agreement: float | None = None
    reason: str = ""
    outputs: Mapping[str, "Limit"] = field(default_factory=dict)

    def of(self, output: str) -> "Limit":
        """Return the limit of one output."""
        return self.outputs.get(output, self)


@dataclass(frozen=True)
class Preprocess:
    """How 8-bit frames become the arrays that the network was trained on.

    Frames are sampled uniformly in time to `frames` (None: one image), the short side is resized to `short_side`
    pixels (None: left), the centre `crop` (height, width) is cut, values are divided by 255, then
    `(value - mean) / std` per channel. `antialias` filters when shrinking, as Pillow does; PyTorch's
    `interpolate`, which pytorchvideo uses, does not. `layout` is that of one sample, without its batch axis.

    `stretch` (height, width) stands instead of `short_side` where training squeezed every frame to one size.
    A network of several images (a pair of studies) has each go through the same. `pathways` is for a network that
    looks at one clip several times: by input, how many of the clip's frames it takes, evenly spread.
    """

    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["CHW", "CTHW", "TCHW"]
    short_side: int | None = None
    frames: int | None = None
    antialias: bool = True
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    pathways: Mapping[str, int] = field(default_factory=dict)
    stretch: tuple[int, int] | None = None


@dataclass(frozen=True)
class Batch:
    """The batch sizes an engine serves: least, best, most. All equal means a fixed batch."""

    least: int = 1
    best: int = 1
    most: int = 1

    @property
    def fixed(self) -> bool:
        """Whether only one batch size is served."""
        return self.least == self.most
