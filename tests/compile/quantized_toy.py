"""A toy graph, calibrated and quantized, that the tests of building and auditing share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy_compile.onnx_graph import heavy_nodes, load
from deploy_compile.quantize import quantize
from deploy_compile.ranges import calibrate
from deploy_compile.results import Graph
from deploy_compile.results_int8 import Ranges
from deploy_runtime.spec import Tensor
from tests import toys

INPUTS = (Tensor("image", ("batch", 3, 16, 16)),)
OUTPUTS = (Tensor("logits", ("batch", 5)),)


@dataclass(frozen=True)
class Toy:
    fp32: Graph
    int8: Graph
    int8_cpu: Graph
    ranges: Ranges
    samples: Path


def toy(folder: Path) -> Toy:
    path = toys.conv_graph(folder / "fp32.onnx")
    samples = folder / "samples"
    samples.mkdir()
    for index, image in enumerate(toys.images(8)):
        np.savez(samples / f"{index:03}.npz", image=image)
    model = load(path)
    fp32 = Graph(path, "fp32", len(model.graph.node), len(heavy_nodes(model)), 0, {})
    ranges = calibrate(folder, fp32, samples, "minmax", 1)
    (folder / "cpu").mkdir()
    on_cpu = quantize(folder / "cpu", fp32, ranges, (), "cpu")
    return Toy(fp32, quantize(folder, fp32, ranges, ()), on_cpu, ranges, samples)
