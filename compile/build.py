"""From a typed graph to an engine, each in a process of its own: a crash or a refusal is a row, not the end.

The backend's `build_*` module compiles the graph and says, for every heavy node of the fp32 graph, which precision it
got. On a CPU the engine *is* a graph, which the device compiles on first load; `passed` means built so far, and the
audit and parity still judge it. The trap: one process builds one engine, or one library's state spoils the next.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy_compile.results import Built, Graph
from deploy_compile.results_int8 import Ranges
from deploy_compile.targets import Target
from deploy_compile.worker import Crashed, call
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Backend, Precision, Status
from deploy_runtime.spec import Batch, Tensor

BUILD_S = 1800.0  # the longest one build may take; the largest networks need a few minutes
THREADS = 1  # of the processes that build: engines are built side by side


class Refused(DeployError):  # noqa: N818 - named as the status that it becomes
    """The backend does not take this graph; the message says why, with the ONNX nodes where it knows them."""


class Unauditable(DeployError):  # noqa: N818 - as above
    """It was built, and which precision its layers got cannot be read: it could be anything, so it is rejected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "Report it with the versions that `deploy-compile doctor` prints.")

    def __reduce__(self) -> tuple[type["Unauditable"], tuple[str]]:  # type: ignore[override]
        return type(self), (self.message,)


def build(
    out: Path,
    graph: Graph,
    fp32: Graph,
    backend: Backend,
    precision: Precision,
    target: Target,
    batch: Batch,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    ranges: Ranges | None = None,
    compute_capabilities: Sequence[str] = (),
) -> Built:
    """Build one candidate into `out`; what stopped it is told in its status and reason, never raised.

    `compute_capabilities` replace the target's where given. `ranges` are needed where ONNX Runtime runs INT8.
    Raises DeployError where the command itself cannot be carried out (a compute capability that does not exist).
    """
    begun = time.monotonic()
    if target.built_there:
        return Built(backend, precision, target.name, "to_build", target.note, graph.path, (), 0.0)
    try:
        function, args = _builder(
            out, graph, fp32, backend, precision, target, batch, inputs, outputs, ranges, compute_capabilities
        )
        file, layers = call(function, *args, timeout_s=BUILD_S, threads=THREADS)
    except Refused as refusal:
        return _unbuilt(backend, precision, target, "refused", refusal.message, begun)
    except Unauditable as unread:
        return _unbuilt(backend, precision, target, "rejected", unread.message, begun)
    except Crashed as crash:
        (out / "crash.log").write_text(crash.log)
        return _unbuilt(backend, precision, target, "crashed", crash.reason, begun)
    status: Status = "passed" if target.executed else "built_not_run"
    return Built(backend, precision, target.name, status, target.note, file, layers, time.monotonic() - begun)


def _builder(
    out: Path,
    graph: Graph,
    fp32: Graph,
    backend: Backend,
    precision: Precision,
    target: Target,
    batch: Batch,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    ranges: Ranges | None,
    compute_capabilities: Sequence[str],
) -> tuple[str, tuple[Any, ...]]:
    """Return the function that builds for a backend, as a worker is told it, and its arguments."""
    if backend == "openvino":
        args = (out, graph.path, fp32.path, precision, inputs, outputs, batch, THREADS)
        return "deploy_compile.build_openvino:build", args
    if backend == "tensorrt_rtx":
        capabilities = tuple(compute_capabilities) or target.compute_capabilities
        return "deploy_compile.build_tensorrt_rtx:build", (out, graph.path, fp32.path, inputs, batch, capabilities)
    if backend == "tensorrt":
        return "deploy_compile.build_tensorrt:build", (out, graph.path, fp32.path, inputs, batch)
    provider = "CUDAExecutionProvider" if target.needs_driver else "CPUExecutionProvider"
    given = (out, graph.path, fp32.path, precision, ranges, provider, inputs, batch)
    return "deploy_compile.build_onnxruntime:build", given


def _unbuilt(
    backend: Backend, precision: Precision, target: Target, status: Status, reason: str, begun: float
) -> Built:
    return Built(backend, precision, target.name, status, reason, None, (), time.monotonic() - begun)
