"""Reading and writing ONNX graphs, and the words that the graph stages share: heavy nodes, links, names.

A heavy node is one that carries the multiply-adds: Conv, ConvTranspose, MatMul, Gemm. Only the main graph is looked at;
bodies of If, Loop and Scan are left alone by every stage. `save` is atomic, and moves weights beside the graph where
protobuf could not hold it (2 GiB).
"""

import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
VIEWS = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"})  # the same values, by other axes
DATA_INPUTS = 2  # of a heavy node: what it multiplies; the third is the bias and stays float
MOST_BYTES = 2**31 - 2**24  # of one protobuf file; the margin is for what checker and shape inference add
CLIP_FRAMES = "clip_frames"  # the key of that metadata entry
SMALLEST_EXTERNAL = 1024  # bytes; smaller tensors stay in the graph file, where shape inference sees them


@dataclass(frozen=True)
class Links:
    """Who makes and who reads each tensor of a graph. `constants` holds initializers and outputs of Constant nodes."""

    constants: Mapping[str, TensorProto]
    producers: Mapping[str, onnx.NodeProto]
    consumers: Mapping[str, Sequence[onnx.NodeProto]]


def load(path: Path) -> onnx.ModelProto:
    """Read a graph with its external weights."""
    return onnx.load(path)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a graph under a temporary name, sync it and rename it; weights go to `NAME.data` above 2 GiB."""
    folder = path.parent / f".{path.name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        outside = _size(model.graph) > MOST_BYTES
        onnx.save_model(
            model,
            folder / path.name,
            save_as_external_data=outside,
            location=f"{path.name}.data",
            size_threshold=SMALLEST_EXTERNAL,
        )
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):  # the graph last
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            file.replace(path.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def stored(path: Path) -> int:
    """Return the bytes that a saved graph takes on disk, its weights beside it among them."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def _size(graph: onnx.GraphProto) -> int:
    """Return about how many bytes a graph takes in a file. Not `ByteSize`: above 2 GiB protobuf 7 raises there."""
    here = [tensor for tensor in graph.initializer if tensor.data_location != TensorProto.EXTERNAL]
    weights = sum(math.prod(tensor.dims) * tensor_dtype_to_np_dtype(tensor.data_type).itemsize for tensor in here)
    return int(weights + sum(node.ByteSize() for node in graph.node))


def links(model: onnx.ModelProto) -> Links:
    """Index a graph's constants, and the producer and consumers of every tensor, in graph order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers: dict[str, onnx.NodeProto] = {}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
        producers.update(dict.fromkeys(filter(None, node.output), node))
        for name in dict.fromkeys(filter(None, node.input)):
            consumers.setdefault(name, []).append(node)
    return Links(constants, producers, consumers)


def behind(name: str, producers: Mapping[str, onnx.NodeProto], kinds: Collection[str]) -> str:
    """Return the tensor that `name` is made of by nothing but first inputs of such kinds of nodes; it may be itself."""
    while (node := producers.get(name)) is not None and node.op_type in kinds:
        name = node.input[0]
    return name


def heavy_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that carry the multiply-adds, in graph order."""
    return [node for node in model.graph.node if node.op_type in HEAVY and node.domain in ("", "ai.onnx")]


def quantizable(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return every activation that a heavy node multiplies with a constant, with those nodes: what INT8 quantizes."""
    constants = links(model).constants
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in heavy_nodes(model):
        data = node.input[:DATA_INPUTS]
        if sum(name in constants for name in data) == 1:
            found.setdefault(next(name for name in data if name not in constants), []).append(node)
    return found


def residual_sums(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return every Add of two activations, one of them a convolution's result that nothing else reads, in order."""
    known = links(model)

    def own(name: str) -> bool:
        producer = known.producers.get(name)
        return producer is not None and producer.op_type == "Conv" and len(known.consumers[name]) == 1

    return [
        node
        for node in model.graph.node
        if node.op_type == "Add"
        and any(map(own, node.input))
        and all(name in known.producers and name not in known.constants for name in node.input)
    ]


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of a node."""
    return next((int(found.i) for found in node.attribute if found.name == name), default)


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the default operator set."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def array(tensor: TensorProto) -> np.ndarray:
    """Return a constant's values. Raises ValueError where they lie in an external file that was not read."""
    return numpy_helper.to_array(tensor)


def clip_frames(model: onnx.ModelProto) -> int:
    """Return how many frames a clip of the network has where the graph's time axis is open; 1 where it is not."""
    return next((int(entry.value) for entry in model.metadata_props if entry.key == CLIP_FRAMES), 1)


def set_clip_frames(model: onnx.ModelProto, frames: int) -> None:
    """Note in the graph how many frames a clip has."""
    onnx.helper.set_model_props(model, {CLIP_FRAMES: str(frames)})


def inferred(model: onnx.ModelProto, batch: int | None = None) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    """Return element type and shape of every tensor, with the inputs' batch axes at `batch` and an open time axis at a
    clip's length where `batch` is given.

    An axis that inference leaves open is None. Weights may be absent (`load_external_data=False`).
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    if batch is not None:
        for value in bare.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_param"):
                    dim.dim_value = batch if dim.dim_param == "batch" else clip_frames(model)
        for value in bare.graph.output:
            value.type.tensor_type.ClearField("shape")
    for tensor in bare.graph.initializer:
        _drop_data(tensor)
    graph = onnx.shape_inference.infer_shapes(bare, strict_mode=False, data_prop=True).graph
    found: dict[str, tuple[int, tuple[int | None, ...]]] = {
        tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
        found[value.name] = (kind.elem_type, dims)
    return found


def _drop_data(tensor: TensorProto) -> None:
    """Empty a float weight that shape inference cannot need, so that no copy of it is made again and again."""
    if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) * 4 > SMALLEST_EXTERNAL:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")


def drop_unread(graph: onnx.GraphProto) -> None:
    """Take out the initializers that no node reads and no output is."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def add_constants(graph: onnx.GraphProto, source: onnx.ModelProto, nodes: Iterable[Sequence[onnx.NodeProto]]) -> None:
    """Give a graph the constants of `source` that some nodes read and that it does not hold yet."""
    constants, held = links(source).constants, {tensor.name for tensor in graph.initializer}
    for name in (name for group in nodes for node in group for name in node.input):
        if name in constants and name not in held:
            held.add(name)
            tensor = graph.initializer.add()
            tensor.CopyFrom(constants[name])
            tensor.name = name


def copied(nodes: Sequence[onnx.NodeProto], used: set[str]) -> tuple[list[onnx.NodeProto], str]:
    """Copy nodes under new names, of themselves and of what they make; also return the last one's output."""
    names: dict[str, str] = {}
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = unique(node.name, used)
        copy.input[:] = [names.get(name, name) for name in node.input]
        for place, name in enumerate(node.output):
            copy.output[place] = names[name] = unique(name, used)
        copies.append(copy)
    return copies, copies[-1].output[0]


def taken(model: onnx.ModelProto) -> set[str]:
    """Return every name in use: of tensors and of nodes."""
    graph = model.graph
    names = {value.name for value in (*graph.input, *graph.output, *graph.value_info)}
    names |= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        names |= {node.name, *node.input, *node.output}
    return names


def unique(name: str, used: set[str]) -> str:
    """Return `name`, numbered where it is in use already, and mark it as used."""
    found = next(candidate for candidate in _numbered(name) if candidate not in used)
    used.add(found)
    return found


def _numbered(name: str) -> Iterator[str]:
    yield name
    count = 1
    while True:
        yield f"{name}_{count}"
        count += 1
