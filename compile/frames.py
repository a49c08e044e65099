"""Clips as the frames that they consist of, in a graph that is being rewritten: from one to the other, and in time.

A clip is a tensor [batch, channels, time, height, width] of known sizes. Its frames are [time · batch, channels,
height, width], those of one moment side by side, so that neighbours in time lie in one block. Every change is written
once and then shared. The trap: the batch is part of the sizes, and so is fixed.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx

from deploy_compile.convolution import Writer
from deploy_compile.onnx_graph import inferred, links

CLIP = 5  # axes
CHANNELS, TIME = 1, 2  # among them


class Frames:
    """Writes nodes that make frames of clips and clips of frames.

    `origin` names, for each new tensor that holds nothing but values of another one and zeros, that other one.
    """

    def __init__(self, model: onnx.ModelProto, batch: int) -> None:
        self.known, self.writer = links(model), Writer(model)
        self.shapes = {name: shape for name, (_, shape) in inferred(model, batch).items()}
        self.origin: dict[str, str] = {}
        self._frames: dict[str, str] = {}  # clip -> its frames
        self._there: set[str] = set()  # clips that have frames, and still exist or exist again
        self._among_zeros: dict[tuple[str, int, int], str] = {}  # (clip, before, behind) -> its frames among others

    def __contains__(self, clip: str) -> bool:
        """Whether a clip has frames already."""
        return clip in self._frames

    def __bool__(self) -> bool:
        """Whether any clip has."""
        return bool(self._frames)

    def is_clip(self, name: str) -> bool:
        """Whether a tensor is a clip that is computed."""
        shape = self.shapes.get(name, ())
        return len(shape) == CLIP and None not in shape and name not in self.known.constants

    def shape(self, clip: str) -> tuple[int, ...]:
        """Return batch, channels, time, height and width of a clip."""
        return tuple(size or 0 for size in self.shapes[clip])

    def put(self, clip: str, frames: str) -> None:
        """Note which tensor holds the frames of a clip that itself is not there any more."""
        self._frames[clip] = self.same(clip, frames)

    def of(self, clip: str) -> str:
        """Return the frames of a clip."""
        if clip not in self._frames:
            batch, channels, time, *size = self.shape(clip)
            turned = clip
            if time > 1:
                turned = self.same(clip, self.writer.node("Transpose", [clip], f"{clip}/turned", perm=[2, 0, 1, 3, 4]))
            self.put(clip, self.reshaped(turned, (time * batch, channels, *size), f"{clip}/frames"))
            self._there.add(clip)
        return self._frames[clip]

    def restore(self, names: Iterable[str]) -> None:
        """Make clips again of which there are only frames."""
        for name in names:
            if name not in self._frames or name in self._there:
                continue
            batch, channels, time, *size = self.shape(name)
            if time == 1:
                self.reshaped(self._frames[name], self.shape(name), f"{name}/clip", name)
            else:
                apart = self.reshaped(self._frames[name], (time, batch, channels, *size), f"{name}/apart")
                self.writer.node("Transpose", [self.same(name, apart)], f"{name}/clip", name, perm=[1, 2, 0, 3, 4])
            self._there.add(name)

    def at(self, clip: str, times: range, before: int, behind: int, quantized: bool) -> str:
        """Return the frames of some moments of a clip, which has `before` and `behind` moments of zeros around it."""
        if times == range(self.shape(clip)[TIME]):
            return self.of(clip)
        frames, batch = self._extended(clip, before, behind), self.shape(clip)[0]
        # ONNX Runtime moves a Slice, but no Gather, into the layout of integer convolutions; on floats, whose layout
        # takes neither, its Gather copies whole frames at once and its Slice rows.
        if quantized and (times.step == 1 or batch == 1):
            bounds = ((times[0] + before) * batch, (times[-1] + before + 1) * batch, 0, times.step)
            limits = [self.integers(f"{clip}/bound", [value]) for value in bounds]
            return self.same(clip, self.writer.node("Slice", [frames, *limits], f"{clip}/moved"))
        places = [(moment + before) * batch + sample for moment in times for sample in range(batch)]
        chosen = self.integers(f"{clip}/moments", places)
        return self.same(clip, self.writer.node("Gather", [frames, chosen], f"{clip}/moved", axis=0))

    def _extended(self, clip: str, before: int, behind: int) -> str:
        if not (before or behind):
            return self.of(clip)
        if (clip, before, behind) not in self._among_zeros:
            parts = [*self._zeros(clip, before), self.of(clip), *self._zeros(clip, behind)]
            made = self.writer.node("Concat", parts, f"{clip}/among_zeros", axis=0)
            self._among_zeros[clip, before, behind] = self.same(clip, made)
        return self._among_zeros[clip, before, behind]

    def _zeros(self, clip: str, moments: int) -> list[str]:
        """Return frames of zeros, which no file holds: ONNX Runtime makes them when it loads the graph."""
        batch, channels, _, *size = self.shape(clip)
        shape = self.integers(f"{clip}/zeros/shape", (moments * batch, channels, *size))
        return [self.same(clip, self.writer.node("ConstantOfShape", [shape], f"{clip}/zeros"))] if moments else []

    def reshaped(self, tensor: str, shape: Sequence[int], name: str, output: str = "") -> str:
        """Return a tensor in another shape."""
        return self.writer.node("Reshape", [tensor, self.integers(f"{name}/shape", shape)], name, output)

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Return a constant."""
        return self.writer.constant(name, np.array(values, np.int64))

    def same(self, origin: str, made: str) -> str:
        """Note that `made` holds values of `origin`, and return it."""
        self.origin[made] = origin
        return made
