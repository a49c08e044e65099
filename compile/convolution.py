"""A convolution as the passes that rewrite it see it: its attributes and constant weights, float or quantized.

`read` takes one from a graph, `dataclasses.replace` changes it, a `Writer` writes it down again under a name: the
weights as an initializer, or behind the DequantizeLinear with the scale of each output channel. What is not plain
(weights that are computed, automatic padding, scales along another axis) is not read, and so left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy_compile.onnx_graph import Links, array, attribute, drop_unread, taken, unique

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Convolution:
    """A Conv over `len(strides)` spatial axes. `scale` is None for float weights, else one a channel for int8 ones."""

    weight: Array  # [outputs, inputs / group, kernel...]
    scale: Array | None
    bias: Array | None
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]  # padding before the first place of each spatial axis
    ends: tuple[int, ...]  # and behind the last
    group: int

    @property
    def kernel(self) -> tuple[int, ...]:
        """The size of its window."""
        return tuple(self.weight.shape[2:])

    @property
    def outputs(self) -> int:
        """Its output channels."""
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        """Its input channels."""
        return int(self.weight.shape[1]) * self.group

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved with a window of its own."""
        return self.group > 1 and self.group == self.inputs == self.outputs

    @property
    def values(self) -> Array:
        """Its weights as float32."""
        if self.scale is None:
            return self.weight
        return (self.weight * self.scale.reshape(-1, *(1,) * (self.weight.ndim - 1))).astype(np.float32)


def read(node: onnx.NodeProto, known: Links) -> Convolution | None:
    """Return the convolution that a node is, or None where it is none or not a plain one."""
    if node.op_type != "Conv" or any(a.name == "auto_pad" and a.s not in (b"", b"NOTSET") for a in node.attribute):
        return None
    weight, scale = _weight(node.input[1], known)
    bias = node.input[2] if len(node.input) > 2 else ""
    if weight is None or (bias and bias not in known.constants):
        return None
    rank = weight.ndim - 2
    pads = _integers(node, "pads", [0] * 2 * rank)
    return Convolution(
        weight=weight,
        scale=scale,
        bias=array(known.constants[bias]) if bias else None,
        strides=_integers(node, "strides", [1] * rank),
        dilations=_integers(node, "dilations", [1] * rank),
        begins=pads[:rank],
        ends=pads[rank:],
        group=attribute(node, "group", 1),
    )


def _weight(name: str, known: Links) -> tuple[Array | None, Array | None]:
    """Return weights and, where they are quantized symmetrically, the scale of each output channel."""
    if name in known.constants:
        return array(known.constants[name]), None
    node = known.producers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or any(part not in known.constants for part in node.input):
        return None, None
    weight, scale, *zero = (array(known.constants[part]) for part in node.input)
    if weight.dtype != np.int8 or attribute(node, "axis", 1) != 0 or scale.ndim != 1 or any(map(np.any, zero)):
        return None, None
    return weight, scale


def _integers(node: onnx.NodeProto, name: str, default: Sequence[int]) -> tuple[int, ...]:
    return tuple(next((list(a.ints) for a in node.attribute if a.name == name), default))


class Writer:
    """Makes nodes, constants and names for a graph. `made` collects the nodes, which are not yet in the graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph, self.used, self.names = model.graph, taken(model), set[str]()
        self.made: list[onnx.NodeProto] = []

    def constant(self, name: str, values: Array) -> str:
        """Add an initializer; return its name, which starts with `name`."""
        name = unique(name, self.used)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, output: str = "", **attributes: Any) -> str:
        """Make a node, which may have the name of one that it replaces; return `output`, or a new tensor."""
        name = unique(name, self.names)
        output = output or unique(f"{name}_output", self.used)
        self.made.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        return output

    def convolution(self, conv: Convolution, source: str, name: str, output: str = "") -> str:
        """Make a Conv of `source` called `name`; return its output."""
        weight = self.constant(f"{name}/weight", conv.weight)
        if conv.scale is not None:
            zero = self.constant(f"{name}/zero_point", np.zeros(conv.scale.shape, np.int8))
            inputs = [weight, self.constant(f"{name}/scale", conv.scale), zero]
            weight = self.node("DequantizeLinear", inputs, f"{name}/weight/DequantizeLinear", axis=0)
        bias = [] if conv.bias is None else [self.constant(f"{name}/bias", conv.bias)]
        return self.node(
            "Conv",
            [source, weight, *bias],
            name,
            output,
            kernel_shape=conv.kernel,
            strides=conv.strides,
            dilations=conv.dilations,
            pads=(*conv.begins, *conv.ends),
            group=conv.group,
        )


def set_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Let a graph consist of `nodes`, less those that nobody reads, and drop the constants that nobody reads."""
    graph = model.graph
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(nodes):
        if not read.isdisjoint(node.output):
            read.update(node.input)
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    drop_unread(graph)
