"""A whole bundle of a tiny causal network: a GRU over frames, one graph with an open time axis and a state."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
from onnx import TensorProto, helper, numpy_helper

from deploy_runtime import manifest as manifests
from deploy_runtime.evidence import Candidate, Golden
from deploy_runtime.spec import Batch, Classes, Preprocess, State, Tensor
from tests.runtime import tiny_bundle

FRAMES, HIDDEN, CLASSES, MAPS = 6, 8, 4, 4
INPUTS = (
    Tensor("frames", ("batch", FRAMES, 3, 8, 8), layout="NTCHW"),
    Tensor("h", ("batch", 1, HIDDEN), layout="NLC"),
)
OUTPUTS = (
    Tensor("logits", ("batch", FRAMES, CLASSES), layout="NTC"),
    Tensor("h_next", ("batch", 1, HIDDEN), layout="NLC"),
)


def weights(rng: np.random.Generator, name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32), name)


def numbers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def encoder(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes and constants from frames [batch, time, 3, 8, 8] to features [batch, time, 4]."""
    nodes = [
        helper.make_node("Reshape", ["frames", "flat"], ["images"], "/images"),
        helper.make_node("Conv", ["images", "w"], ["maps"], "/conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"], "/relu"),
        helper.make_node("ReduceMean", ["active", "axes"], ["pooled"], "/mean", keepdims=0),
        helper.make_node("Shape", ["frames"], ["batch_time"], "/shape", start=0, end=2),
        helper.make_node("Concat", ["batch_time", "width"], ["sequence"], "/concat", axis=0),
        helper.make_node("Reshape", ["pooled", "sequence"], ["features"], "/features"),
    ]
    constants = [
        weights(rng, "w", MAPS, 3, 3, 3), numbers("flat", -1, 3, 8, 8), numbers("axes", 2, 3), numbers("width", MAPS),
    ]  # fmt: skip
    return nodes, constants


def save(
    path: Path,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
) -> Path:
    """Write a graph whose time axis is open."""

    def values(tensors: tuple[Tensor, ...]) -> list[onnx.ValueInfoProto]:
        open_time = {
            t.name: ["time" if letter == "T" else dim for dim, letter in zip(t.shape, t.layout, strict=True)]
            for t in tensors
        }
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in open_time.items()]

    body = helper.make_graph(nodes, "stream", values(inputs), values(outputs), constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def graph(path: Path) -> Path:
    """Write frames [batch, time, 3, 8, 8] and h [batch, 1, 8] -> logits [batch, time, 4] and h_next."""
    rng = np.random.default_rng(0)
    nodes, constants = encoder(rng)
    constants += [
        weights(rng, "gates", 1, 3 * HIDDEN, MAPS), weights(rng, "back", 1, 3 * HIDDEN, HIDDEN),
        weights(rng, "bias", 1, 6 * HIDDEN), weights(rng, "head", HIDDEN, CLASSES), numbers("one", 1),
    ]  # fmt: skip
    nodes += [
        helper.make_node("Transpose", ["features"], ["x"], "/x", perm=[1, 0, 2]),
        helper.make_node("Transpose", ["h"], ["h0"], "/h0", perm=[1, 0, 2]),
        helper.make_node(
            "GRU", ["x", "gates", "back", "bias", "", "h0"], ["y", "hn"], "/rnn/GRU", hidden_size=HIDDEN,
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", ["y", "one"], ["outputs"], "/squeeze"),
        helper.make_node("Transpose", ["outputs"], ["batched"], "/outputs", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["batched", "head"], ["logits"], "/head/MatMul"),
        helper.make_node("Transpose", ["hn"], ["h_next"], "/h_next", perm=[1, 0, 2]),
    ]  # fmt: skip
    return save(path, INPUTS, OUTPUTS, nodes, constants)


def clips(count: int, frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    """Return clips [count, frames, 3, 8, 8]."""
    return np.random.default_rng(seed).standard_normal((count, frames, 3, 8, 8)).astype(np.float32)


def reference(path: Path, frames: np.ndarray, h: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return what onnx's reference evaluator gives, from the initial state or from `h`."""
    before = np.zeros((len(frames), 1, HIDDEN), np.float32) if h is None else h
    found = onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, {"frames": frames, "h": before})
    assert isinstance(found, list)
    return dict(zip(("logits", "h_next"), map(np.asarray, found), strict=True))


def write(folder: Path, batch: Batch = Batch()) -> Path:  # noqa: B008 - frozen
    """Write a bundle that ships the graph for OpenVINO and ONNX Runtime."""
    for name in ("graphs", "golden"):
        (folder / name).mkdir(parents=True)
    path = graph(folder / "graphs" / "fp32.onnx")
    samples = clips(tiny_bundle.SAMPLES)
    answers = reference(path, samples)
    np.savez(folder / "golden" / "inputs.npz", frames=samples, h=np.zeros((len(samples), 1, HIDDEN), np.float32))
    np.savez(folder / "golden" / "outputs.npz", **answers)  # type: ignore[arg-type]
    row = Candidate("openvino", "fp32", "cpu", "passed", file="graphs/fp32.onnx")
    found = replace(
        tiny_bundle.manifest((row, replace(row, backend="onnxruntime"))),
        inputs=INPUTS,
        outputs=OUTPUTS,
        state=(State("h", "h_next"),),
        task=Classes(CLASSES, of=("logits",)),
        preprocess=Preprocess((8, 8), (0.5,) * 3, (0.25,) * 3, "TCHW", short_side=8, frames=FRAMES),
        labels=(),
        batch=batch,
        golden=Golden(len(samples), True, {"logits": 1e-7, "h_next": 1e-7}),
    )
    manifests.write(folder, found)
    return folder
