"""OpenVINO on the CPU: fp32, bf16, and the Q/DQ graph with its float rest in either.

The trap: OpenVINO runs fp32 graphs in bf16 where the processor has it, and bf16 requests in fp32 where it has not,
both without a word. So the precision hint is always set, and read back once the engine stands.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deploy_runtime.errors import DeployError
from deploy_runtime.machine import takes_every_core
from deploy_runtime.session import Array, NotHereError, Session, cannot_open, cannot_run, check_names
from deploy_runtime.spec import Batch, Tensor

INSTALL = "pip install 'openvino>=2026.1,<2027'"
HINT = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "int8_bf16": "bf16"}  # what floats are computed in


def missing() -> str | None:
    """Return why OpenVINO cannot be used here."""
    return None if find_spec("openvino") else f"OpenVINO is not installed: {INSTALL}"


def version() -> str:
    """Return OpenVINO's version."""
    return str(_library().__version__)


def open(
    file: Path,
    precision: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    batch: Batch,
    threads: int,
    cache: Path | None,
    target: str = "cpu",
) -> Session:
    """Compile a graph for this processor, or take it from `cache`. See `backends.Backend`."""
    library = _library()
    if precision not in HINT or target != "cpu":
        raise DeployError(
            f"OpenVINO runs {', '.join(HINT)} on cpu here, not {precision} on {target}", "Ask for another candidate."
        )
    chosen = settings(precision, threads)
    if cache is not None:
        chosen["CACHE_DIR"] = str(cache)
    try:
        core = library.Core()
        graph = core.read_model(file)
        check_names(file, (name for port in graph.inputs for name in port.get_names()), inputs)
        check_names(file, (name for port in graph.outputs for name in port.get_names()), outputs)
        graph.reshape({tensor.name: _shape(library, tensor, batch) for tensor in inputs})
        compiled = core.compile_model(graph, "CPU", chosen)
        said = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    except RuntimeError as error:
        raise cannot_open(file, "OpenVINO", error) from error
    if said != HINT[precision]:
        raise NotHereError(
            f"this processor has no {HINT[precision]}: OpenVINO would run {precision} in {said}",
            "Use another candidate of the bundle; a processor with AVX512-BF16, AMX or ARMv8.6 has it.",
        )
    return _Opened(compiled, [tensor.name for tensor in outputs])


def settings(precision: str, threads: int) -> dict[str, Any]:
    """Return what every engine here is compiled with."""
    return {
        "INFERENCE_PRECISION_HINT": HINT[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Woken beside other programs, threads that may run anywhere often begin on one core, and a run of milliseconds
        # is over before they part. Where they leave cores free, two programs pinned to the same ones would share these.
        "ENABLE_CPU_PINNING": takes_every_core(threads),
    }


class _Opened(Session):
    def __init__(self, compiled: Any, outputs: Sequence[str]) -> None:
        self._request: Any = compiled.create_infer_request()
        self._outputs = {name: compiled.output(name) for name in outputs}

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        answers = self._answers(inputs)
        return {name: np.array(answers[port]) for name, port in self._outputs.items()}

    def run_into(self, inputs: dict[str, Array], answers: Mapping[str, Array]) -> None:
        found = self._answers(inputs)
        for name, port in self._outputs.items():
            np.copyto(answers[name], found[port])

    def _answers(self, inputs: dict[str, Array]) -> Any:
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:  # share_inputs spares a copy, and is safe because `infer` returns after the last read of them
            return self._request.infer(arrays, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise cannot_run("OpenVINO", error) from error

    def close(self) -> None:
        self._request, self._outputs = None, {}


def _shape(library: Any, tensor: Tensor, batch: Batch) -> Any:
    """Return the static shape for a fixed batch (a dynamic axis costs 15 %), else with the axis bounded."""
    if batch.fixed:
        return list(tensor.at(batch.best))
    axis = library.Dimension(batch.least, batch.most)
    return library.PartialShape([axis if isinstance(dim, str) else dim for dim in tensor.shape])


def _library() -> Any:
    if reason := missing():
        raise NotHereError(reason.split(":")[0], f"Install it: {INSTALL}")
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError as error:
        raise DeployError(f"OpenVINO is installed and cannot be loaded: {error}", f"Repair it: {INSTALL}") from error
    return openvino
