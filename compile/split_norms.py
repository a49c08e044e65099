"""Group and instance normalisation from means in two steps: the same numbers, as near to fp64 as PyTorch's.

torch exports both as InstanceNormalization, over which ONNX Runtime and OpenVINO keep one running sum a group. Of
8 x 512 x 512 values with mean 5 and spread 3 that sum is so long that the answer is 2.8e-4 away from fp64, where
PyTorch is 8e-7; here each row is averaged first, then the rows, and the squares of what differs from that mean in the
same way: 1.4e-6. The price is 1.4 times the normalisation's own time, on either backend.

fp16 cannot hold squares: they overflow from 256 on and vanish below 2e-4. So the nodes that make mean and variance say
in their doc string that they stay fp32, and `cast` obeys: 66 dB, where all in fp16 gives 50 for a mean of 50 and a
spread of 1. The traps: OpenVINO merges two ReduceMean in a row where both keep or both drop their axes, so here only
the second keeps them; and a group that the exporter has flattened must be cut into rows again.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy_compile import onnx_graph

LEAST_VALUES = 16384  # normalised together; over fewer the plain operator is within 2.5 times of PyTorch, and faster
SPATIAL = 2  # the axis from which on values are normalised together; batch and channel stand before it
EPSILON = 1e-5  # ONNX's default
FLAT_RANK = 3  # batch, group, values: what torch makes of a group normalisation
STAYS_FP32 = "stays fp32: "  # how a node's doc string says so; the reason follows
REASON = "mean and variance of a normalisation, whose squares fp16 cannot hold"


def split_norms(model: onnx.ModelProto) -> int:
    """Rewrite, in place, every InstanceNormalization over many values; return how many there were.

    A node is left alone where its sizes are not known, or its scale and bias are no constants.
    """
    shapes = {name: shape for name, (_, shape) in onnx_graph.inferred(model).items()}
    writer = _Writer(model)
    kept: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        rows = _rows(shapes.get(node.input[0], ())) if node.op_type == "InstanceNormalization" else ()
        if rows and all(name in writer.constants for name in node.input[1:]):
            kept += writer.normalised(node, len(shapes[node.input[0]]), rows)
            count += 1
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx_graph.drop_unread(model.graph)
    return count


def _rows(shape: Sequence[int | None]) -> tuple[int, ...]:
    """Return how the values normalised together fall into rows, the last size being a row's; nothing for few values."""
    sizes = tuple(size for size in shape[SPATIAL:] if size is not None)
    if len(sizes) != len(shape) - SPATIAL or math.prod(sizes) < LEAST_VALUES:
        return ()
    if len(shape) > FLAT_RANK:
        return sizes
    count = next(count for count in range(math.isqrt(sizes[0]), 0, -1) if sizes[0] % count == 0)
    return (count, sizes[0] // count)


class _Writer:
    """Makes the nodes that stand for one InstanceNormalization, and their constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.used = onnx_graph.taken(model)
        self.constants = onnx_graph.links(model).constants
        self.shared: dict[str, str] = {}  # constants that many normalisations read, by what they hold
        self.made: list[onnx.NodeProto] = []
        self.owner = ""

    def normalised(self, node: onnx.NodeProto, rank: int, rows: Sequence[int]) -> list[onnx.NodeProto]:
        """Return the nodes that give what `node` gives: (x - mean) · scale / sqrt(variance + epsilon) + bias."""
        self.made, self.owner = [], node.name
        source, scale, bias = node.input
        epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), EPSILON)
        mean = self._mean(source, "mean", rank, rows)
        centred = self._node("Sub", [source, mean], "centred")
        variance = self._mean(self._node("Mul", [centred, centred], "squares"), "variance", rank, rows)
        deviation = self._node("Sqrt", [self._node("Add", [variance, self._float(epsilon)], "above_zero")], "deviation")
        factor = self._node("Div", [self._per_channel(scale, rank), deviation], "factor")
        normalised = self._node("Mul", [centred, factor], "normalised", stays_fp32=False)
        if onnx_graph.array(self.constants[bias]).any():
            self._node("Add", [normalised, self._per_channel(bias, rank)], "shifted", stays_fp32=False)
        self.made[-1].name, self.made[-1].output[0] = node.name, node.output[0]
        return self.made

    def _mean(self, values: str, name: str, rank: int, rows: Sequence[int]) -> str:
        """Average `values`, rows first; the result has every axis of theirs, those averaged being 1 long."""
        if rank == FLAT_RANK:
            values = self._node("Reshape", [values, self._integers(0, 0, *rows)], f"{name}_in_rows")
        row_axis = SPATIAL + len(rows) - 1
        of_rows = self._node("ReduceMean", [values, self._integers(row_axis)], f"{name}_of_rows", keepdims=0)
        whole = self._node("ReduceMean", [of_rows, self._integers(*range(SPATIAL, row_axis))], name, keepdims=1)
        return whole if rank == FLAT_RANK else self._node("Unsqueeze", [whole, self._integers(-1)], f"{name}_whole")

    def _per_channel(self, name: str, rank: int) -> str:
        values = onnx_graph.array(self.constants[name])
        return self._constant(f"{self.owner}/{name}", values.reshape(-1, *(1,) * (rank - SPATIAL)))

    def _integers(self, *values: int) -> str:
        key = f"split_norms/{','.join(map(str, values))}"
        return self.shared.get(key) or self.shared.setdefault(key, self._constant(key, np.array(values, np.int64)))

    def _float(self, value: float) -> str:
        key = f"split_norms/{value:g}"
        return self.shared.get(key) or self.shared.setdefault(key, self._constant(key, np.array(value, np.float32)))

    def _constant(self, name: str, values: np.ndarray) -> str:
        name = onnx_graph.unique(name, self.used)
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _node(
        self, op: str, inputs: Sequence[str], result: str, *, stays_fp32: bool = True, keepdims: int | None = None
    ) -> str:
        output = onnx_graph.unique(f"{self.owner}/{result}_output", self.used)
        name = onnx_graph.unique(f"{self.owner}/{result}", self.used)
        note = STAYS_FP32 + REASON if stays_fp32 else None
        self.made.append(helper.make_node(op, list(inputs), [output], name, doc_string=note))
        if keepdims is not None:
            self.made[-1].attribute.append(helper.make_attribute("keepdims", keepdims))
        return output
