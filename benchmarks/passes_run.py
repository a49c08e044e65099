"""Engines of ONNX Runtime and OpenVINO with single passes left out, and their times: each in a process of its own."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deploy_compile import build_onnxruntime, lower_onnxruntime, rewrite_onnxruntime, rewrite_openvino
from deploy_compile.results_int8 import Ranges
from deploy_compile.sample_files import save
from deploy_runtime import backends
from deploy_runtime.spec import Batch, Tensor

FRAMES, VECTORS, BLOCKS, MEANS, UNSIGNED = "clips as frames", "whole vectors", "blocks", "pooled means", "U8"
NESTED, BYTES = "nested Concats", "pools in bytes"  # these are OpenVINO's


def build(
    out: Path,
    graph: Path,
    fp32: Path,
    precision: str,
    ranges: Ranges,
    inputs: Sequence[Tensor],
    off: Sequence[str],
) -> Path:
    """Build the engine that ships, without the passes named in `off`."""
    insert = rewrite_onnxruntime._insert
    without: dict[str, tuple[ModuleType, str, Callable[..., Any]]] = {
        FRAMES: (lower_onnxruntime, "lower", lambda *_: {}),
        VECTORS: (lower_onnxruntime, "pad_channels", lambda *_, **__: 0),
        BLOCKS: (lower_onnxruntime, "fold_strides", lambda *_: {}),
        MEANS: (rewrite_onnxruntime, "_pool_means", lambda *_: None),
        UNSIGNED: (rewrite_onnxruntime, "_insert", lambda model, grids, _: insert(model, grids, np.int8)),
    }
    for one in off:
        setattr(*without[one])
    file, _ = build_onnxruntime.build(out, graph, fp32, precision, ranges, "CPUExecutionProvider", inputs, Batch())
    return file


def build_openvino(out: Path, graph: Path, off: Sequence[str]) -> Path:
    """Write the INT8 graph for OpenVINO without the passes named in `off`; `graph` itself where none changes it."""
    without = {NESTED: ("nest_concats", lambda _: 0), BYTES: ("_quantized_before_pools", lambda _: False)}
    for one in off:
        setattr(rewrite_openvino, *without[one])
    return rewrite_openvino.rewrite(graph, out / "model.onnx")


class Engine:
    """An engine opened through the runtime that ships, on one thread."""

    def __init__(
        self,
        backend: str,
        file: Path,
        precision: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        samples: Sequence[Path],
    ) -> None:
        self._session = backends.get(backend).open(file, precision, inputs, outputs, Batch(), 1, None)
        self._samples = [dict(np.load(path)) for path in samples]

    def turn(self) -> float:
        """Run once to warm up, then once more; return the seconds of processor time of that, whoever else computes."""
        self._session.run(self._samples[0])
        begun = time.process_time()
        self._session.run(self._samples[0])
        return time.process_time() - begun

    def answers(self, out: Path) -> None:
        """Write the answers to all samples, stacked on axis 0."""
        found = [self._session.run(sample) for sample in self._samples]
        save(out, {name: np.concatenate([one[name] for one in found]) for name in found[0]})
