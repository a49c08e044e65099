"""The mechanics of casting a graph to fp16: which slots of an operator may be fp16, and the rewriting, node by node.

A tensor keeps its name in the type that its producer makes it in; where somebody reads it in the other type, one Cast
(or, of a constant, one copy) named after it serves all of them. Names that the outside knows stay fp32: inputs and
outputs of the graph, and what bodies of If, Loop and Scan mention.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy_compile import onnx_graph

LEAST = 2.0**-24  # fp16's smallest value above zero
NAMES: Mapping[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def _schema(node: onnx.NodeProto, model: onnx.ModelProto) -> onnx.defs.OpSchema | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = next((entry.version for entry in model.opset_import if entry.domain in (domain, node.domain)), 0)
    if not onnx.defs.has(node.op_type, version, domain):
        return None
    return onnx.defs.get_schema(node.op_type, version, domain)


def half_slots(node: onnx.NodeProto, model: onnx.ModelProto) -> tuple[list[bool], list[bool]]:
    """Return which inputs and which outputs of a node may be fp16 by the operator's definition."""
    schema = _schema(node, model)
    if schema is None or (node.op_type == "Constant" and node.attribute[0].name != "value"):
        return [False] * len(node.input), [False] * len(node.output)
    sides = []
    for names, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        slots = [formal[min(place, len(formal) - 1)] for place in range(len(names))]  # the last may repeat
        sides.append(["tensor(float16)" in slot.types for slot in slots])
    return sides[0], sides[1]


def half(values: np.ndarray) -> np.ndarray:
    """Round to fp16; a value that is not 0 stays at least LEAST in magnitude, Inf stays Inf."""
    tiny = (values != 0) & (np.abs(values) < LEAST)
    return np.where(tiny, np.copysign(LEAST, values), values).astype(np.float16)


class Retyping:
    """Rewrites a model node by node. A tensor exists in the type it is made in and, on demand, in the other one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.used = onnx_graph.taken(model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.floats = {name for name, (kind, _) in onnx_graph.inferred(model).items() if kind == TensorProto.FLOAT}
        # names that must stay fp32: they are read from outside the main graph's nodes
        self.pinned = {value.name for value in (*model.graph.input, *model.graph.output)} | set(_captured(model))
        self.types: dict[str, int] = {
            value.name: TensorProto.FLOAT for value in model.graph.input if value.name in self.floats
        }
        self.made: dict[tuple[str, int], str] = {(name, kind): name for name, kind in self.types.items()}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {
            name: tensor for name, tensor in self.constants.items() if name not in self.floats or name in self.pinned
        }

    def write(self, kept: Mapping[str, str]) -> None:
        """Rewrite the model in place; nodes named in `kept` stay fp32."""
        for node in self.model.graph.node:
            self._node(node, node.name in kept)
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.initializer[:]
        graph.initializer.extend(self.initializers.values())
        known = {name: kind for (_, kind), name in self.made.items()}
        shapes = [value for value in graph.value_info if value.name in known or value.name not in self.floats]
        for value in shapes:
            value.type.tensor_type.elem_type = known.get(value.name, value.type.tensor_type.elem_type)
        del graph.value_info[:]
        graph.value_info.extend(shapes)

    def _node(self, node: onnx.NodeProto, keep: bool) -> None:
        inputs, outputs = half_slots(node, self.model)
        for place, name in enumerate(node.input):
            if name in self.floats:
                wanted = TensorProto.FLOAT16 if inputs[place] and not keep else TensorProto.FLOAT
                node.input[place] = self._as(name, wanted)
        self.nodes.append(node)
        if not keep:
            _retype(node)
        for place, name in enumerate(node.output):
            if name in self.floats:
                kind = TensorProto.FLOAT16 if outputs[place] and not keep else TensorProto.FLOAT
                node.output[place] = self._made(name, kind)

    def _made(self, name: str, kind: int) -> str:
        """Register a node's output; a pinned name gets its fp32 form back at once."""
        self.types[name] = kind
        if kind == TensorProto.FLOAT or name not in self.pinned:
            self.made[name, kind] = name
            return name
        inside = self.made[name, kind] = onnx_graph.unique(f"{name}_{NAMES[kind]}", self.used)
        self.made[name, TensorProto.FLOAT] = name
        self._cast(inside, name, TensorProto.FLOAT)
        return inside

    def _as(self, name: str, kind: int) -> str:
        """Return the name under which a tensor can be read in a type, making it where it is not there yet."""
        if (name, kind) not in self.made:
            free = name in self.constants and not any((name, other) in self.made for other in NAMES)
            own = free and name not in self.pinned
            self.made[name, kind] = name if own else onnx_graph.unique(f"{name}_{NAMES[kind]}", self.used)
            if name in self.constants:
                self._constant(name, kind)
            else:
                self._cast(self.made[name, self.types[name]], self.made[name, kind], kind)
        return self.made[name, kind]

    def _constant(self, name: str, kind: int) -> None:
        values = onnx_graph.array(self.constants[name])
        stored = half(values) if kind == TensorProto.FLOAT16 else values
        made = self.made[name, kind]
        self.initializers[made] = numpy_helper.from_array(stored, made)

    def _cast(self, source: str, result: str, kind: int) -> None:
        # a producer's cast follows it: _node appends the node before its outputs are registered
        name = onnx_graph.unique(f"{source}/Cast_{NAMES[kind]}", self.used)
        self.nodes.append(helper.make_node("Cast", [source], [result], name, to=kind))


def _retype(node: onnx.NodeProto) -> None:
    """Make fp16 of what a node's attributes say is fp32: the type it casts to or fills with, and stored tensors."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(half(onnx_graph.array(attribute.t)), attribute.t.name))


def _captured(model: onnx.ModelProto) -> Iterable[str]:
    """Yield every tensor name that a body (of If, Loop, Scan) mentions."""
    bodies = [body for node in model.graph.node for body in _bodies(node)]
    while bodies:
        for node in bodies.pop().node:
            yield from node.input
            bodies += _bodies(node)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [body for attribute in node.attribute for body in (attribute.g, *attribute.graphs) if body.node]
