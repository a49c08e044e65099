"""TensorRT-RTX's layer table, read from the log of a build: into which layer, and which type, each ONNX node went.

The engine inspector needs a GPU; the builder's verbose log, at detailed profiling verbosity, does not. It holds one
message that starts with `Layers:` and has one line a layer. That text is nowhere documented, so the library's version
is pinned (TABLE_VERSIONS) and whatever does not read as expected raises: a table half understood would be worse than
none. The traps: a convolution's ONNX node is also named by the small `kgen` kernels that quantize around it, which
say nothing about the convolution itself; a tiny matrix product may have no other layer than such a kernel; and a
recurrent cell over more than a few steps becomes a loop, with jumps among the layers.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deploy_runtime.tensorrt_build import TABLE

TABLE_VERSIONS = ("1.7.1",)  # tensorrt_rtx releases whose table this module was written for and is tested on
POINTWISE = "kgen"  # the layer type of generated pointwise and reduction kernels
PRECISION_OF = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8"}
WIDEST = ("Float", "BFloat16", "Half", "Int8")  # the widest first

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*)\], "
    r"Outputs: \[(?P<outputs>.*)\], TacticName: .*?, StreamId: \d+(?:, EventId: \d+)?"
    r"(?:, JumpTarget\w*: [^,]*)*, Metadata: ?(?P<metadata>.*)"
)
# A number that the host computes from an open time axis and hands to the GPU: no node's arithmetic.
_SHAPE = re.compile(
    r"Name: \[ShapeHostToDeviceCopy \d+\](?: \[profile \d+\])?, LayerType: ShapeHostToDevice, .*, Metadata: ?"
)
_TENSOR = re.compile(r"Dimensions: \[([\d,-]*)\],.*?Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Row:
    """One compiled layer: its type, the data types of its inputs and constants, the ONNX nodes it came from.

    `matrix` is the type of its largest constant with more than one axis: its weights. Empty where it has none.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    nodes: tuple[str, ...]
    matrix: str = ""


def rows(messages: Iterable[str]) -> tuple[Row, ...]:
    """Read the table out of a build's log. Raises ValueError where there is none or a line is not as expected."""
    tables = [message for message in messages if TABLE in message]
    if not tables:
        raise ValueError("the build log holds no layer table: was it built at detailed profiling verbosity?")
    text = tables[-1]
    body = text[text.index(TABLE) + len("Layers:\n") :].split("\n\n", 1)[0]
    return tuple(_row(line) for line in body.split("\n") if not _SHAPE.fullmatch(line))


def _row(line: str) -> Row:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"a line of the layer table is not as expected: {line[:200]}")
    tensors = {part: _TENSOR.findall(match[part]) for part in ("inputs", "constants")}
    for part, found in tensors.items():
        if len(found) != match[part].count("Datatype: "):
            raise ValueError(f"the {part} of {match['name']} in the layer table are not as expected")
    inputs, constants = (tuple(kind for _, kind in found) for found in tensors.values())
    sizes = [([int(size) for size in dims.split(",") if size], kind) for dims, kind in tensors["constants"]]
    matrices = [(math.prod(dims), kind) for dims, kind in sizes if sum(size > 1 for size in dims) > 1]
    matrix = max(matrices, default=(0, ""))[1]
    return Row(match["name"], match["kind"], inputs, constants, tuple(_NODE.findall(match["metadata"])), matrix)


def precisions(table: Sequence[Row], nodes: Iterable[str]) -> Mapping[str, str]:
    """Return the precision that each of the ONNX `nodes` got; a node that no layer names is left out.

    It is that of the activation a layer reads: `int8` only where its weights, too, are 8 bits wide. A node whose only
    layers are pointwise kernels gets the type of the weights that the first of them with two operands reads (a kernel
    that normalises, casts and multiplies reads fp32 and multiplies in fp16), or the widest type where there are none,
    or where only the weights are 8 bits wide.
    """
    wanted = set(nodes)
    owners: dict[str, list[Row]] = {}
    for row in table:
        for node in wanted.intersection(row.nodes):
            owners.setdefault(node, []).append(row)
    return {node: _precision(own) for node, own in owners.items()}


def _precision(own: Sequence[Row]) -> str:
    heavy = [row for row in own if row.kind != POINTWISE]
    if heavy:
        types = [_read_type(row) for row in heavy]
    else:
        product = next((row for row in own if len(row.inputs) + len(row.constants) > 1), own[0])
        types = [*product.inputs, *product.constants]
        if product.matrix and (product.matrix != "Int8" or "Int8" in product.inputs):
            types = [product.matrix]
    unknown = sorted(set(types) - set(PRECISION_OF))
    if unknown:
        raise ValueError(f"the layer table names a data type that is not known here: {', '.join(unknown)}")
    return PRECISION_OF[min(types, key=WIDEST.index)]


def _read_type(row: Row) -> str:
    """Return the type of a heavy layer's arithmetic: its first input's, widened where no weights are 8 bits wide."""
    if not row.inputs:
        raise ValueError(f"the heavy layer {row.name} in the layer table has no input")
    first = row.inputs[0]
    if first == "Int8" and "Int8" not in (*row.constants, *row.inputs[1:]):
        return min((*row.constants, *row.inputs), key=WIDEST.index)
    return first
