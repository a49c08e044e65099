"""The heavy nodes of a graph: convolutions and matrix products, where almost all of the arithmetic is."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from deploy_compile import onnx_graph


def heavy_nodes(graph: Path) -> Mapping[str, str]:
    """Return the operator of every heavy node of an ONNX file by the node's name, in graph order.

    Raises ValueError where one has no name or shares it: an audit by name would then mean nothing.
    """
    return {node.name: node.op_type for node in _heavy(graph)}


def heavy_outputs(graph: Path) -> Mapping[str, str]:
    """Return the name of every heavy node by its output tensor."""
    return {node.output[0]: node.name for node in _heavy(graph)}


def _heavy(graph: Path) -> list[onnx.NodeProto]:
    nodes = onnx_graph.heavy_nodes(onnx.load(graph, load_external_data=False))
    names = [node.name for node in nodes]
    for node in nodes:
        if not node.name or names.count(node.name) > 1:
            raise ValueError(f"{graph.name}: {node.op_type} node {node.name!r} has no name of its own")
    return nodes
