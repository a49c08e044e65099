"""The heavy nodes of a graph: convolutions and matrix products, where almost all of the arithmetic is."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from deploy_compile import onnx_graph

FOLDED = ("Add", "Mul")  # with a constant: a compiler may fold them into the heavy node before them


def heavy_nodes(graph: Path) -> Mapping[str, str]:
    """Return the operator of every heavy node of an ONNX file by the node's name, in graph order.

    Raises ValueError where one has no name or shares it: an audit by name would then mean nothing.
    """
    return {node.name: node.op_type for node in _heavy(graph)}


def heavy_aliases(graph: Path) -> Mapping[str, str]:
    """Return the other names that a heavy node goes by where it was fused with its bias, each with the node's name.

    They are its output tensor, and name and output tensor of each Add and Mul of a constant that follow it in a row: a
    bias, a layer scale.
    """
    model = onnx.load(graph, load_external_data=False)
    links = onnx_graph.links(model)
    aliases: dict[str, str] = {}
    for node in onnx_graph.heavy_nodes(model):
        aliases[node.output[0]] = node.name
        readers = links.consumers.get(node.output[0], ())
        while len(readers) == 1 and _folds(readers[0], links):
            aliases |= {readers[0].name: node.name, readers[0].output[0]: node.name}
            readers = links.consumers.get(readers[0].output[0], ())
    return aliases


def _folds(node: onnx.NodeProto, links: onnx_graph.Links) -> bool:
    return node.op_type in FOLDED and any(name in links.constants for name in node.input)


def _heavy(graph: Path) -> list[onnx.NodeProto]:
    nodes = onnx_graph.heavy_nodes(onnx.load(graph, load_external_data=False))
    names = [node.name for node in nodes]
    for node in nodes:
        if not node.name or names.count(node.name) > 1:
            raise ValueError(f"{graph.name}: {node.op_type} node {node.name!r} has no name of its own")
    return nodes
