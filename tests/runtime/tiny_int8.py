"""A whole bundle of a tiny INT8 network for ONNX Runtime, that a test can make worse on purpose.

Weights and activations lie on symmetric S8 grids, one scale a tensor, in Q/DQ nodes around every convolution and
product. What the manifest records was measured by ONNX Runtime on samples that are not the golden ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime  # type: ignore[import-untyped]
from onnx import helper, numpy_helper

from deploy_runtime import manifest as manifests
from deploy_runtime.evidence import Candidate, Coverage
from deploy_runtime.judge import judge
from deploy_runtime.measure import measure
from deploy_runtime.spec import Classes
from tests import toys
from tests.runtime.tiny_bundle import LIMITS, SAMPLES, manifest

HEAVY = ("/stem/Conv", "/block/depthwise/Conv", "/block/pointwise/Conv", "/head/Gemm")
HELD_OUT = 16


def write(
    folder: Path, *, kept: Sequence[str] = (), scaled: Mapping[str, float] | None = None, seed: int = 0, **changes: Any
) -> Path:
    """Write a bundle that ships fp32 and INT8 for ONNX Runtime, the latter chosen.

    `kept` names heavy nodes left in float; `scaled` multiplies the weight scale of a node; `seed` is that of the golden
    samples; `changes` replaces fields of the manifest.
    """
    (folder / "graphs").mkdir(parents=True)
    (folder / "golden").mkdir()
    fp32 = toys.conv_graph(folder / "graphs" / "fp32.onnx", channels=16)
    int8 = quantize(fp32, folder / "graphs" / "int8.onnx", kept, scaled or {})
    golden, held_out = images(SAMPLES, seed), images(HELD_OUT, 99)
    (wanted,) = onnx.reference.ReferenceEvaluator(onnx.load(fp32)).run(None, {"image": golden})
    np.savez(folder / "golden" / "inputs.npz", image=golden)
    np.savez(folder / "golden" / "outputs.npz", logits=np.asarray(wanted))
    tables = {node: "fp32" if node in kept else "int8" for node in HEAVY}
    rows = (
        candidate(int8, "int8", held_out, golden, tables),
        candidate(fp32, "fp32", held_out, golden, dict.fromkeys(HEAVY, "fp32")),
    )
    layers = {
        row.name: [{"node": n, "op": n.split("/")[-1], "precision": p} for n, p in tables.items()] for row in rows[:1]
    }
    (folder / "layers.json").write_text(json.dumps(layers))
    manifests.write(folder, replace(manifest(rows), **changes))
    return folder


def images(count: int, seed: int) -> np.ndarray:
    return np.concatenate(toys.images(count, seed=seed))


def candidate(
    graph: Path, precision: Any, held_out: np.ndarray, golden: np.ndarray, layers: Mapping[str, str]
) -> Candidate:
    """Return a candidate of ONNX Runtime with what it drifts from the fp32 graph."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    exact = onnx.reference.ReferenceEvaluator(onnx.load(graph.with_name("fp32.onnx")))
    drifts = []
    for samples in (held_out, golden):
        (wanted,) = exact.run(None, {"image": samples})
        got = np.concatenate([np.asarray(session.run(["logits"], {"image": sample[None]})[0]) for sample in samples])
        drifts.append(measure({"logits": np.asarray(wanted)}, {"logits": got}, Classes(5)))
    counts = {word: list(layers.values()).count(word) for word in layers.values()}
    return Candidate(
        "onnxruntime",
        precision,
        "cpu",
        "passed",
        file=f"graphs/{graph.name}",
        coverage=Coverage(counts, {word: count / len(layers) for word, count in counts.items()}),
        drift=drifts[0],
        verdicts=judge(drifts[0], LIMITS[precision]),
        golden=drifts[1],
    )


def quantize(fp32: Path, to: Path, kept: Sequence[str], scaled: Mapping[str, float]) -> Path:
    """Write the Q/DQ form of a graph: the data input and the weight of each heavy node that is not kept."""
    model = onnx.load(fp32)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    seen = activations(model)
    nodes, more, gone = list[onnx.NodeProto](), list[onnx.TensorProto](), set[str]()
    for node in model.graph.node:
        if node.name in HEAVY and node.name not in kept:
            data, weight, bias = node.input
            scale, step = np.abs(seen[data]).max() / 127, np.abs(weights[weight]).max() / 127
            grid = np.clip(np.round(weights[weight] / step), -127, 127).astype(np.int8)
            more += [
                scalar(f"{node.name}/s", scale),
                scalar(f"{node.name}/ws", step * scaled.get(node.name, 1.0)),
                numpy_helper.from_array(np.array(0, np.int8), f"{node.name}/z"),
                numpy_helper.from_array(grid, f"{node.name}/w"),
            ]
            s, ws, z, w = (f"{node.name}/{word}" for word in ("s", "ws", "z", "w"))
            nodes += [
                helper.make_node("QuantizeLinear", [data, s, z], [f"{node.name}/q"]),
                helper.make_node("DequantizeLinear", [f"{node.name}/q", s, z], [f"{node.name}/x"]),
                helper.make_node("DequantizeLinear", [w, ws, z], [f"{node.name}/v"]),
            ]
            node.input[:] = [f"{node.name}/x", f"{node.name}/v", bias]
            gone.add(weight)
        nodes.append(node)
    return toys.save(
        to,
        nodes,
        [*(tensor for tensor in model.graph.initializer if tensor.name not in gone), *more],
        inputs=[("image", ["batch", 3, 16, 16])],
        outputs=[("logits", ["batch", 5])],
    )


def scalar(name: str, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32), name)


def activations(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return every tensor that a heavy node reads, over some samples."""
    names = [node.input[0] for node in model.graph.node if node.name in HEAVY and node.input[0] != "image"]
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    open_model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    samples = images(HELD_OUT, 7)
    values = onnx.reference.ReferenceEvaluator(open_model).run(names, {"image": samples})
    return {"image": samples, **{name: np.asarray(value) for name, value in zip(names, values, strict=True)}}
