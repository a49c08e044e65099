"""Emulate: run an fp16 graph as half precision would compute it, on a CPU that would compute it in something wider.

CPU libraries run fp16 graphs in fp32, so that an overflow stays finite: a graph with an intermediate of 144,000 answers
a number where a GPU answers Inf. Here the typed graph becomes an fp32 graph whose every fp16 tensor is rounded to IEEE
half (Inf included) by a pair of casts behind the node that makes it. Inside a node sums stay fp32, as tensor cores
keep them. ONNX Runtime runs it as written: its optimiser is off, so that no pair of casts is removed and no Q/DQ pair
becomes an integer kernel. A graph with neither fp16 tensors nor Q/DQ pairs is optimised and runs as on any CPU.
"""

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy_compile import onnx_graph, session
from deploy_compile.sample_files import read

ROUNDS = ("Cast", "QuantizeLinear")  # nodes whose rounding an optimiser could take away


def emulate(graph: Path, samples: Path, limit: int | None, threads: int) -> dict[str, np.ndarray]:
    """Return the outputs of a typed graph, computed in true half precision, stacked over samples on axis 0.

    `samples` is a folder of one-sample `.npz` files, of which the first `limit` are run (None: all).
    """
    return through(emulated(onnx_graph.load(graph)), samples, limit, threads)


def through(model: onnx.ModelProto, samples: Path, limit: int | None, threads: int) -> dict[str, np.ndarray]:
    """Return the outputs of a graph, stacked over samples on axis 0; one that rounds is run as it is written."""
    rounds = any(node.op_type in ROUNDS for node in model.graph.node)
    return session.answers(model, islice(read(samples), limit), threads, optimised=not rounds)


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an fp32 graph that rounds to half wherever `model` has an fp16 tensor; inputs and outputs are fp32."""
    halves = {name for name, (kind, _) in onnx_graph.inferred(model).items() if kind == TensorProto.FLOAT16}
    if halves & {value.name for value in (*model.graph.input, *model.graph.output)}:
        raise ValueError("emulation takes graphs with fp32 inputs and outputs")
    used = onnx_graph.taken(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:], graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    for node in model.graph.node:
        wide = graph.node.add()
        wide.CopyFrom(node)
        _widen_attributes(wide)
        for place, name in enumerate(node.output):
            if name in halves:
                wide.output[place] = onnx_graph.unique(f"{name}_unrounded", used)
                graph.node.extend(rounding(wide.output[place], name, used))
    return result


def rounding(source: str, result: str, used: set[str], kind: int = TensorProto.FLOAT16) -> list[onnx.NodeProto]:
    """Return the casts that make `result` of an fp32 tensor, rounded to the element type `kind`."""
    inside = onnx_graph.unique(f"{result}_rounded", used)
    return [
        helper.make_node("Cast", [source], [inside], onnx_graph.unique(f"{inside}/Cast", used), to=kind),
        helper.make_node("Cast", [inside], [result], onnx_graph.unique(f"{result}/Cast", used), to=TensorProto.FLOAT),
    ]


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(onnx_graph.array(tensor).astype(np.float32), tensor.name))


def _widen_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
