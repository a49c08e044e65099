"""Estimate the memory that an engine takes, from its file and its graph alone. A lower bound, and said to be one."""

import math
from pathlib import Path

import numpy as np

from deploy_runtime.device_build import DISK_TIMES, MEMORY_TIMES, SPARE
from deploy_runtime.evidence import Manifest

RULE = (
    "memory is an estimate: the file's bytes, inputs and outputs of the largest batch, and the most that one layer "
    "reads and writes; what the library keeps for itself comes on top. Disk: the bundle, and its largest file again "
    "for what the device compiles into its cache. What a build needs is the rule of thumb that it refuses to begin by"
)


def estimate(bundle: Path, found: Manifest, precision: str, file: str) -> int:
    """Return the bytes that the engine of a precision takes, by RULE; `file` is what its backend opens."""
    batch = found.batch.most
    tensors = (*found.inputs, *found.outputs)
    exchanged = sum(math.prod(tensor.at(batch)) * np.dtype(tensor.dtype).itemsize for tensor in tensors)
    typed = f"graphs/{precision}.onnx"  # what an engine was built from ships beside it
    graph = file if file.endswith(".onnx") else typed
    listed = any(one.path == graph for one in found.files)
    return stored(found, file) + exchanged + (working_bytes(bundle / graph, batch) if listed else 0)


def stored(found: Manifest, file: str) -> int:
    """Return the bytes of a file of a bundle, with the weights that lie beside it."""
    return sum(one.bytes for one in found.files if one.path in (file, f"{file}.data"))


def building(largest: int) -> dict[str, int]:
    """Return what a device needs free to build from a graph of `largest` bytes, by the rule that `build` applies."""
    return {"disk_bytes": DISK_TIMES * largest + SPARE, "memory_bytes": MEMORY_TIMES * largest + SPARE}


def working_bytes(graph: Path, batch: int) -> int:
    """Return the most that one node of a graph reads and writes, weights left out; open shapes count as nothing."""
    import onnx

    from deploy_compile import onnx_graph

    model = onnx.load(graph, load_external_data=False)
    constants = onnx_graph.links(model).constants
    sizes: dict[str, int] = {}
    for name, (kind, shape) in onnx_graph.inferred(model, batch).items():
        dims = [dim for dim in shape if dim is not None]
        if name not in constants and len(dims) == len(shape):
            sizes[name] = math.prod(dims) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    nodes = ({*node.input, *node.output} for node in model.graph.node)
    return max((sum(sizes.get(name, 0) for name in names) for names in nodes), default=0)
