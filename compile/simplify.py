"""onnxsim over an exported graph: constants folded, batch norms fused, node names unique, the answers the same.

Attention nets lose half of their nodes here, plain CNNs none. Trap: above 2 GiB the model that onnxsim returns can be
neither saved nor measured in Python; it must write the file itself.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import onnxsim  # type: ignore[import-untyped]
from onnx import TensorProto

from deploy_compile import onnx_graph, synthetic
from deploy_compile.export import name_nodes, save
from deploy_compile.results import Graph
from deploy_compile.split_means import split_means
from deploy_compile.split_norms import split_norms
from deploy_compile.split_qkv import split_qkv
from deploy_recipes.recipe import Recipe

CHECK_SEED = 2002
# max |simplified - raw| / max |raw|: folding a batch normalisation rounds each weight once more. resnet152 with
# undamped gammas moved 4e-4 by rounding alone (its answer moves as much for an input change of 1e-7).
MOST_RELATIVE = 1e-3
# Where long normalisations were split it is the raw graph that is off: 2.8e-4 each time in ONNX Runtime, 4.3e-3 at the
# end of a network of twenty.
MOST_RELATIVE_NORMS = 2e-2
# Not wanted: the first turns the linear layers of transformers into Reshape, Gemm, Reshape, without their names; the
# second makes one node of attention with separate q, k and v, from com.microsoft, which only ONNX Runtime knows.
SKIPPED = ["fuse_matmul_add_bias_into_gemm_batched", "fuse_attention"]


def simplify(out: Path, graph: Graph, recipe: Recipe) -> Graph:
    """Simplify a float graph into `out/fp32.onnx` and check it against the given one on a synthetic sample.

    Raises ValueError where the answers differ: the stage broke its promise. The sample is one of what the network is
    for: on white noise masked_reconstruction's answer moves by 5e-3 of its scale with rounding in PyTorch alone.
    """
    path = out / "fp32.onnx"
    if graph.path.with_name(f"{graph.path.name}.data").exists():
        norms = _simplify_large(graph.path, path)
    else:
        raw = onnx.load(graph.path)
        model, _ = onnxsim.simplify(raw, skipped_optimizers=SKIPPED)
        norms = _tidy(model, raw)
        save(model, path)
    feed = synthetic.sample(recipe, CHECK_SEED, 0, carried=True)
    _same_answers(graph.path, path, feed, MOST_RELATIVE_NORMS if norms else MOST_RELATIVE)
    nodes = onnx.load(path, load_external_data=False).graph.node
    return Graph(
        path=path,
        precision=graph.precision,
        nodes=len(nodes),
        heavy=sum(node.op_type in onnx_graph.HEAVY for node in nodes),
        quantized=0,
        kept_float={},
    )


def _simplify_large(raw: Path, path: Path) -> int:
    """Have onnxsim write the weights, then tidy what it wrote; return how many norms were split."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / "graph.onnx"
        onnxsim.simplify(str(raw), output_path=str(written), skipped_optimizers=SKIPPED)
        model = onnx.load(written)
    norms = _tidy(model, onnx.load(raw, load_external_data=False))
    save(model, path)
    return norms


def _tidy(model: onnx.ModelProto, raw: onnx.ModelProto) -> int:
    """Turn Constant nodes that hold tensors into initializers, put back what `raw` noted instead of onnxsim, name every
    node, and run our own passes; return how many norms were split."""
    del model.metadata_props[:]
    model.metadata_props.extend(raw.metadata_props)
    kept = []
    for node in model.graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    name_nodes(model)
    split_means(model)
    split_qkv(model)
    return split_norms(model)  # after split_means: it writes means that need no splitting


def _same_answers(raw: Path, simplified: Path, feed: Mapping[str, np.ndarray], most: float) -> None:
    wanted, found = _run(raw, feed), _run(simplified, feed)
    for name, value in wanted.items():
        scale = max(float(np.abs(value).max()), float(np.finfo(np.float32).tiny))
        error = float(np.abs(found[name] - value).max()) / scale
        if not error <= most:
            raise ValueError(f"simplifying changed {name} by {error:.2g} of its scale, more than {most}")


def _run(path: Path, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return {name: np.asarray(value) for name, value in zip(names, session.run(names, dict(feed)), strict=True)}
