"""Where the bias of a heavy node is: its own third input, or the constant of the Add that alone reads its product."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from deploy_compile import onnx_graph

OWN = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1}  # those with a bias of their own, and their output's channel axis


@dataclass(frozen=True)
class Place:
    """Which input of which node is added to every value of a channel. `axis`: the heavy node's output's channels.

    `values` [channels], None where a convolution has no bias yet.
    """

    node: onnx.NodeProto
    position: int
    axis: int
    values: np.ndarray | None


def place(node: onnx.NodeProto, links: onnx_graph.Links) -> Place | None:
    """Return where a heavy node's bias is or can be; None where nothing adds a constant to each of its channels."""
    if node.op_type in OWN:
        position = onnx_graph.DATA_INPUTS
        if len(node.input) <= position or not node.input[position]:
            return None if node.op_type == "Gemm" else Place(node, position, OWN[node.op_type], None)
        return _constant(node, position, OWN[node.op_type], links)
    readers = links.consumers.get(node.output[0], [])
    if node.op_type != "MatMul" or [reader.op_type for reader in readers] != ["Add"]:
        return None
    other = [position for position, name in enumerate(readers[0].input) if name != node.output[0]]
    return _constant(readers[0], other[0], -1, links) if len(other) == 1 else None


def parted(node: onnx.NodeProto, before: onnx.NodeProto | None, links: onnx_graph.Links) -> onnx.NodeProto | None:
    """Return the Add of a constant that alone reads a convolution, where the node `before` it had a bias of its own."""
    readers = links.consumers.get(node.output[0], [])
    if node.op_type != "Conv" or before is None or len(before.input) <= len(node.input) or len(readers) != 1:
        return None
    adds = readers[0].op_type == "Add" and any(name in links.constants for name in readers[0].input)
    return readers[0] if adds else None


def write(path: Path, means: Mapping[str, np.ndarray]) -> Path:
    """Write arrays by node name, whatever characters that has."""
    np.savez(path, *means.values(), nodes=np.array(list(means)))
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    """Return what `write` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return {str(node): arrays[f"arr_{place}"] for place, node in enumerate(arrays["nodes"])}


def _constant(node: onnx.NodeProto, position: int, axis: int, links: onnx_graph.Links) -> Place | None:
    tensor = links.constants.get(node.input[position])
    if tensor is None or len(tensor.dims) != 1 or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    return Place(node, position, axis, onnx_graph.array(tensor))
