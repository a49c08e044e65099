"""The INT8 graph in a form that OpenVINO computes right: the same numbers, on another zero point where tensors join.

OpenVINO (2026.4) computes a Concat that joins quantized tensors wrongly where their zero point is S8's 0: about 7 dB
in two dimensions and three, without a word. In U8 with zero point 128 the same integers, moved by 128, are computed
right (138 dB against the graph as written), and faster. Only quantizations that reach a Concat are moved: moving all
would be as exact, but slower where none is near.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from deploy_compile.onnx_graph import VIEWS, array, behind, links, load, save, taken, unique

MIDDLE = 128  # the zero point of U8 that stands for S8's 0
PASSES = VIEWS | {"Relu", "MaxPool", "Slice", "Identity"}


def rewrite(source: Path, destination: Path) -> Path:
    """Write `source` with every quantization behind or before a Concat moved to U8; `source` itself where none is."""
    model = load(source)
    known = links(model)
    used = taken(model)
    moved: dict[str, str] = {}  # zero point -> its U8 form
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in known.constants:
            continue
        zero = node.input[2]
        if not _joins(node, known.producers, known.consumers) or array(known.constants[zero]).dtype != np.int8:
            continue
        if zero not in moved:
            moved[zero] = unique(f"{zero}_u8", used)
            shifted = array(known.constants[zero]).astype(np.int16) + MIDDLE
            model.graph.initializer.append(numpy_helper.from_array(shifted.astype(np.uint8), moved[zero]))
        node.input[2] = moved[zero]
        for reader in known.consumers[node.output[0]]:
            reader.input[2] = moved[zero]
    if not moved:
        return source
    del model.graph.value_info[:]  # they tell the types of tensors that are signed no more
    path = save(model, destination)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def _joins(
    quantizer: onnx.NodeProto,
    producers: Mapping[str, onnx.NodeProto],
    consumers: Mapping[str, Sequence[onnx.NodeProto]],
) -> bool:
    """Whether a Concat stands behind or before a Q/DQ pair, with nothing between but what hands values on."""
    node = producers.get(behind(quantizer.input[0], producers, PASSES))
    if node is not None and node.op_type == "Concat":
        return True
    waiting = [reader.output[0] for reader in consumers.get(quantizer.output[0], ())]
    while waiting:
        for reader in consumers.get(waiting.pop(), ()):
            if reader.op_type == "Concat":
                return True
            if reader.op_type in PASSES:
                waiting.append(reader.output[0])
    return False
