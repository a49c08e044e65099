"""What ONNX Runtime's kernels for x86 processors want of a float graph: pictures, and whole vectors of channels.

Three exact passes, in this order: channels around depthwise convolutions are filled up (`pad_channels`), clips become
frames (`lower_3d`), and the first convolution of an INT8 graph reads blocks (`fold_strides`). When, follows from the
graph and from what docs/passes.md measures. INT8 always gains by frames; floats gain much where depthwise convolutions
over clips are among them and little or less than nothing elsewhere (0.94 to 1.11), so that there they stay clips.
Floats on clips gain nothing by whole vectors. Elsewhere than on x86 nothing is done, nor is a clip made frames for a
range of batch sizes.

Promise: what changed was run beside what was given, on noise, and the largest difference over the largest answer is
stated in the graph's metadata. Two traps, for which a graph is left alone: a body (of If, Loop, Scan) reads tensors
that no list of inputs tells of; and clips of any length have no fixed number of frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from deploy_compile import session
from deploy_compile.fold_strides import STRIDE, fold_strides
from deploy_compile.frames import CLIP
from deploy_compile.lower_3d import lower
from deploy_compile.onnx_graph import attribute, save
from deploy_compile.pad_channels import pad_channels
from deploy_runtime.spec import Batch

MOST_RELATIVE = 1e-3  # max |difference| / max |answer|: rounding in other orders, as in `simplify`
LAST_BITS = 2.0**-22  # of an input: what the answers may move by where they move more than that for these
CHECK_SEED = 2003
STATED = "max |difference| / max |answer| of the graph before it was lowered for ONNX Runtime"
GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


@dataclass(frozen=True)
class Lowered:
    """What was done: `difference` is None where that is nothing; `origin` is that of `lower` and `fold_strides`."""

    difference: float | None = None
    origin: Mapping[str, str] = field(default_factory=dict)


def lower_for_cpu(model: onnx.ModelProto, batch: Batch, *, quantized: bool) -> Lowered:
    """Rewrite a graph without activations' Q/DQ pairs in place; `quantized`: they will come back.

    Raises ValueError where the answers change by more than rounding: a pass broke its promise.
    """
    nodes = model.graph.node
    bodies = any(item.type in GRAPHS for node in nodes for item in node.attribute)
    behind_batch = [dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim[1:]]
    concerned = any(map(_concerned, nodes)) and all(dim.HasField("dim_value") for dim in behind_batch)
    if bodies or not (concerned or (quantized and any(map(_strided, nodes)))):
        return Lowered()
    before = onnx.ModelProto()
    before.CopyFrom(model)
    filled, origin = 0, dict[str, str]()
    if concerned:
        pays = quantized or any(map(_depthwise_over_clips, nodes))
        filled = pad_channels(model, ranks=(4, 5) if quantized or batch.fixed else (4,))
        origin |= lower(model, batch.best) if batch.fixed and pays else {}
    origin |= fold_strides(model) if quantized else {}
    if not filled and not origin:
        return Lowered()
    found, restless = _difference(before, model, batch.best)
    if not found <= max(MOST_RELATIVE, restless):
        raise ValueError(f"lowering for ONNX Runtime moved the answers by {found:.2g} of their scale")
    model.metadata_props.add(key=STATED, value=f"{found:.1e}")
    return Lowered(found, origin)


def _concerned(node: onnx.NodeProto) -> bool:
    """Whether the first two may have something to do with a node: it is a convolution over clips or in groups."""
    return node.op_type == "Conv" and (len(_window(node)) == CLIP - 2 or attribute(node, "group", 1) > 1)


def _strided(node: onnx.NodeProto) -> bool:
    """Whether the last may: it is a convolution over pictures that goes on by its stride."""
    return node.op_type == "Conv" and any(a.name == "strides" and list(a.ints) == [STRIDE] * 2 for a in node.attribute)


def _depthwise_over_clips(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" and len(_window(node)) == CLIP - 2 and attribute(node, "group", 1) > 1


def _window(node: onnx.NodeProto) -> Sequence[int]:
    return next((item.ints for item in node.attribute if item.name == "kernel_shape"), ())


def lower_float(source: Path, destination: Path, batch: Batch) -> Path:
    """Write a float graph's form that ONNX Runtime runs fast to `destination`; return `source` where it is that."""
    model = onnx.load(source)
    if lower_for_cpu(model, batch, quantized=False).difference is None:
        return source
    path = save(model, destination)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def _difference(before: onnx.ModelProto, after: onnx.ModelProto, batch: int) -> tuple[float, float]:
    """Return the largest difference of their answers to noise, over the largest answer of the same output.

    And that of the first one's answers to the same noise with other last bits: some networks make much of them.
    """
    feed = {}
    random_values = np.random.default_rng(CHECK_SEED)
    for value in before.graph.input:
        shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feed[value.name] = random_values.standard_normal(shape).astype(dtype)
    close = {name: np.asarray(values * (1 + LAST_BITS), values.dtype) for name, values in feed.items()}
    wanted, moved = _answers(before, feed, close)
    return _apart(wanted, *_answers(after, feed)), _apart(wanted, moved)


def _apart(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    tiny = float(np.finfo(np.float32).tiny)
    return max(
        float(np.abs(got - answer).max()) / max(float(np.abs(answer).max()), tiny)
        for got, answer in zip(found, wanted, strict=True)
    )


def _answers(model: onnx.ModelProto, *feeds: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
    """Run a graph as it is written: the optimiser rounds in an order of its own, and to INT8 where weights are INT8."""
    with session.opened(model, 1, optimised=False) as opened:
        return [[np.asarray(answer) for answer in opened.run(None, dict(feed))] for feed in feeds]
