"""Runs a graph in ONNX Runtime as it is written: what the graph stages evaluate graphs with, before there is an engine.

Q/DQ pairs stay the rounding that they are: no integer kernel takes their place (`session.disable_quant_qdq`), so that
weights behind a DQ are folded and everything else is optimised as in a float graph. `optimised=False` also keeps every
Cast, which an optimiser may take away with its rounding.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]

from deploy_compile import onnx_graph

QUIET = 3  # ONNX Runtime's severity from which it speaks: errors; shapes of tapped tensors are open on purpose


@contextmanager
def opened(model: onnx.ModelProto, threads: int, optimised: bool = True, folder: Path | None = None) -> Iterator[Any]:
    """Give an InferenceSession of a model. It goes through a file in `folder`: weights may pass protobuf's 2 GiB."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        yield read(onnx_graph.save(model, Path(place) / "graph.onnx"), threads, optimised)


def read(path: Path, threads: int, optimised: bool = True) -> Any:
    """Return an InferenceSession of a graph that is a file already."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(
    model: onnx.ModelProto, samples: Iterable[Mapping[str, np.ndarray]], threads: int, optimised: bool = True
) -> dict[str, np.ndarray]:
    """Return the outputs of a model for samples of one each, stacked on axis 0."""
    names = [value.name for value in model.graph.output]
    with opened(model, threads, optimised) as session:
        runs = [session.run(names, dict(sample)) for sample in samples]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}
