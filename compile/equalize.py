"""Equalize: channels that a depthwise convolution reads come to like sizes, and not one bit of an answer changes.

A tensor has one INT8 scale, so that a channel with large values leaves those with small ones few levels. The node that
makes it multiplies each small channel up, and the depthwise weights, which have a scale for each channel and lose
nothing by it, divide by the same: cross-layer equalization (Nagel et al., Data-Free Quantization through Weight
Equalization and Bias Correction, ICCV 2019).

Factors are powers of two between 1 and MOST, and the largest channel keeps its size: every product and sum comes out
the same bit for bit, and on the samples looked at no tensor reaches further.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from deploy_compile import onnx_graph, sample_files
from deploy_compile.probes import Probes
from deploy_compile.quantize import depthwise
from deploy_compile.results import Graph

SAMPLES = 4  # of the calibration set, evenly spread
MOST = 64.0  # the largest factor: further apart, the weights of a large channel would be lost in fp16
CHANNELS = 1  # the axis of a convolution's input and output

# What a factor above zero passes through: f(a x) = a f(x).
HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "Identity"})
MAKERS = frozenset({"Conv", "BatchNormalization"})  # weight or scale, and bias, each by output channel on axis 0


@dataclass(frozen=True)
class Pair:
    """A node that makes the channels of a tensor, and the depthwise convolutions that alone read them."""

    tensor: str
    maker: onnx.NodeProto
    readers: Sequence[onnx.NodeProto]


def equalize(out: Path, graph: Graph, calibration: Path, threads: int) -> Graph:
    """Return the fp32 graph with even channels before its depthwise convolutions; itself where there are none to even.

    `calibration` is a folder of one-sample `.npz` files.
    """
    model = onnx_graph.load(graph.path)
    values = {name: onnx_graph.array(tensor) for name, tensor in onnx_graph.links(model).constants.items()}
    pairs = _pairs(model, values)
    if not pairs:
        return graph
    files = sample_files.paths(calibration)
    peaks = _peaks(model, pairs, files[:: max(1, len(files) // SAMPLES)][:SAMPLES], threads)
    used = onnx_graph.taken(model)
    for pair in pairs:
        factors = _factors(peaks[pair.tensor])
        for place in range(1, min(3, len(pair.maker.input))):
            _scale(model, pair.maker, place, factors, values, used)
        for reader in pair.readers:
            _scale(model, reader, 1, 1.0 / factors, values, used)
    onnx_graph.drop_unread(model.graph)
    return replace(graph, path=onnx_graph.save(model, out / "fp32.onnx"))


def _pairs(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> list[Pair]:
    links, outputs = onnx_graph.links(model), {value.name for value in model.graph.output}
    found = []
    for tensor, readers in onnx_graph.quantizable(model).items():
        if len(links.consumers[tensor]) > len(readers) or not all(_depthwise(node, values) for node in readers):
            continue
        maker = _maker(tensor, links, outputs)
        if maker is not None and all(name in values for name in maker.input[1:3] if name):
            found.append(Pair(tensor, maker, readers))
    return found


def _depthwise(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> bool:
    """Whether a node is a depthwise convolution with an output channel for each of its input's."""
    weight = values.get(node.input[1])
    return weight is not None and depthwise(node, weight) and len(weight) == onnx_graph.attribute(node, "group", 1)


def _maker(tensor: str, links: onnx_graph.Links, outputs: set[str]) -> onnx.NodeProto | None:
    """Return the node from which a tensor comes through nothing but homogeneous nodes that nobody else reads."""
    while tensor not in outputs and (node := links.producers.get(tensor)) is not None:
        if node.op_type in MAKERS:
            return node
        tensor = node.input[0]
        if node.op_type not in HOMOGENEOUS or len(links.consumers[tensor]) > 1:
            return None
    return None


def _peaks(model: onnx.ModelProto, pairs: Sequence[Pair], files: Sequence[Path], threads: int) -> dict[str, np.ndarray]:
    """Return the largest magnitude of every channel of the tensors, over samples."""
    kinds, probes = onnx_graph.inferred(model, batch=1), Probes(model)
    asked = {pair.tensor: probes.channel_peaks(pair.tensor, CHANNELS, len(kinds[pair.tensor][1])) for pair in pairs}
    each = list(probes.each(map(sample_files.load, files), threads))
    return {tensor: np.max([one[probe] for one in each], axis=0) for tensor, probe in asked.items()}


def _factors(peaks: np.ndarray) -> np.ndarray:
    """Return by what each channel is multiplied: powers of two, 1 for the largest and for those that are zero."""
    factors, alive = np.ones_like(peaks), peaks > 0
    if np.isfinite(peaks).all():
        factors[alive] = np.exp2(np.floor(np.log2(peaks.max() / peaks[alive])))
    return np.asarray(np.minimum(factors, MOST), np.float32)


def _scale(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    place: int,
    factors: np.ndarray,
    values: dict[str, np.ndarray],
    used: set[str],
) -> None:
    """Give a node a constant of its own in this place, scaled along axis 0."""
    old = node.input[place]
    if not old:
        return
    name = onnx_graph.unique(f"{old}/even", used)
    values[name] = (values[old] * factors.reshape(-1, *[1] * (values[old].ndim - 1))).astype(values[old].dtype)
    model.graph.initializer.append(numpy_helper.from_array(values[name], name))
    node.input[place] = name
