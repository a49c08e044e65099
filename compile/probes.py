"""A graph with probes: nodes that compare its tensors where they are, so that only a few numbers leave each run.

What would take gigabytes to hand over (every tensor in two forms) is reduced inside the graph, by ONNX Runtime, to
one number a question and added up over samples.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy_compile import onnx_graph, session

Array = np.ndarray


class Probes:
    """A copy of a graph that answers with its probes only."""

    def __init__(self, model: onnx.ModelProto, avoid: Iterable[str] = ()) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        del self.model.graph.output[:], self.model.graph.value_info[:]
        self.used = onnx_graph.taken(model) | set(avoid)

    def constant(self, values: Array) -> str:
        """Add a constant and return its name."""
        name = onnx_graph.unique(f"probe_{len(self.used)}", self.used)
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node of one output and return that."""
        output = onnx_graph.unique(f"probe_{len(self.used)}", self.used)
        name = onnx_graph.unique(f"{output}/{op}", self.used)
        self.model.graph.node.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        return output

    def copies(self, nodes: Sequence[onnx.NodeProto], reading: Mapping[str, str] | None = None) -> str:
        """Add copies of nodes, which read other tensors where `reading` says so; return the last one's output."""
        made, output = onnx_graph.copied(nodes, self.used)
        for node in made:
            node.input[:] = [(reading or {}).get(name, name) for name in node.input]
        self.model.graph.node.extend(made)
        return output

    def sum_of_squares(self, tensor: str) -> str:
        """Add a probe: the sum of a tensor's squares."""
        return self._answer(self.node("ReduceSumSquare", [tensor], keepdims=0))

    def channel_means(self, tensor: str, axis: int, rank: int) -> str:
        """Add a probe: the mean of each channel, over every other axis of a tensor of `rank` axes."""
        others = np.array([place for place in range(rank) if place != axis % rank], np.int64)
        made = self.node("ReduceMean", [tensor, self.constant(others)], keepdims=0)
        return self._answer(made, None)

    def channel_peaks(self, tensor: str, axis: int, rank: int) -> str:
        """Add a probe: the largest magnitude of each channel, over every other axis of a tensor of `rank` axes."""
        others = np.array([place for place in range(rank) if place != axis % rank], np.int64)
        return self._answer(
            self.node("ReduceMax", [self.node("Abs", [tensor]), self.constant(others)], keepdims=0), None
        )

    def share_beyond(self, tensor: str, threshold: float) -> str:
        """Add a probe: the share of a tensor's values whose magnitude is above `threshold`."""
        beyond = self.node("Greater", [self.node("Abs", [tensor]), self.constant(np.array(threshold, np.float32))])
        counted = self.node("Cast", [beyond], to=TensorProto.FLOAT)
        return self._answer(self.node("ReduceMean", [counted], keepdims=0))

    def _answer(self, tensor: str, shape: Sequence[int] | None = ()) -> str:
        self.model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape))
        return tensor

    def each(self, samples: Iterable[Mapping[str, Array]], threads: int) -> Iterator[dict[str, Array]]:
        """Yield every probe's answer to each sample."""
        names = [value.name for value in self.model.graph.output]
        with session.opened(self.model, threads) as opened:
            for sample in samples:
                yield dict(zip(names, opened.run(names, dict(sample)), strict=True))

    def run(self, samples: Iterable[Mapping[str, Array]], threads: int) -> dict[str, float]:
        """Return every probe's answer of one number, added up over the samples."""
        sums = dict.fromkeys((value.name for value in self.model.graph.output), 0.0)
        for answers in self.each(samples, threads):
            for name, answer in answers.items():
                sums[name] += float(answer)
        return sums
