"""ONNX Runtime: fp32 and re-based INT8 graphs on the CPU; fp32 and fp16 on an NVIDIA GPU through its CUDA provider.

The optimised graph is kept in the device's cache, so that the next start skips the optimiser. The trap: it holds
layouts of this very processor and is opened with the optimiser off, so its name carries the graph's digest, the
library's version and the machine. Another: where the CUDA provider fails to load, ONNX Runtime goes on with the CPU
and only prints so; here that is an error.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deploy_runtime import cuda, device_cache, machine
from deploy_runtime.errors import DeployError
from deploy_runtime.manifest import sha256
from deploy_runtime.session import Array, NotHereError, Session, cannot_open, cannot_run, check_names
from deploy_runtime.spec import Batch, Tensor

INSTALL = "pip install 'onnxruntime>=1.23,<2'"
INSTALL_GPU = "pip install 'onnxruntime-gpu>=1.23,<2'"
PRECISIONS = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16")}
# What is left out of the optimiser for INT8: it writes MatMul and Add over more than two axes as Reshape and Gemm, and
# so parts the product from its quantized operands; it is then computed in float without a word.
LEFT_OUT = {"int8": ["MatMulAddFusion"]}
FATAL = 4  # ONNX Runtime's severities: 0 verbose to 4 fatal; what goes wrong also comes as an exception
MOST_CACHED_BYTES = 1 << 30  # larger graphs may keep weights beside them, which the saved graph could not hold


def missing() -> str | None:
    """Return why ONNX Runtime cannot be used here."""
    return None if find_spec("onnxruntime") else f"ONNX Runtime is not installed: {INSTALL}"


def version() -> str:
    """Return ONNX Runtime's version."""
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
    """Open a graph, optimised for this machine or taken so from `cache`. See `backends.Backend`."""
    library = _library()
    if precision not in PRECISIONS.get(target, ()):
        raise DeployError(f"ONNX Runtime does not run {precision} on {target} here", "Ask for another candidate.")
    provider = _cuda_provider(library, file) if target == "cuda" else "CPUExecutionProvider"
    kept = None if cache is None or target != "cpu" else _kept(library, file, inputs, batch, cache)
    session = _create(library, file, options(library, inputs, batch, threads), provider, kept, LEFT_OUT.get(precision))
    if provider not in session.get_providers():
        raise NotHereError(
            "ONNX Runtime's CUDA provider does not load: the CUDA libraries it needs are not all here",
            f"Install CUDA 13 and cuDNN 9, or {INSTALL_GPU.replace('gpu', 'gpu[cuda,cudnn]')}",
        )
    check_names(file, (port.name for port in session.get_inputs()), inputs)
    check_names(file, (port.name for port in session.get_outputs()), outputs)
    return _Opened(session, [tensor.name for tensor in outputs], _errors(library))


class _Opened(Session):
    def __init__(self, session: Any, outputs: Sequence[str], errors: tuple[type[Exception], ...]) -> None:
        self._session: Any = session
        self._outputs, self._errors = list(outputs), errors

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        try:
            answers = self._session.run(self._outputs, inputs)  # fresh arrays, the caller's to keep
        except self._errors as error:
            raise cannot_run("ONNX Runtime", error) from error
        return {name: np.asarray(answer) for name, answer in zip(self._outputs, answers, strict=True)}

    def run_into(self, inputs: dict[str, Array], answers: Mapping[str, Array]) -> None:
        try:
            binding = self._session.io_binding()
            for name, array in inputs.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name, array in answers.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)
        except self._errors as error:
            raise cannot_run("ONNX Runtime", error) from error

    def close(self) -> None:
        self._session = None


def _create(
    library: Any, file: Path, options: Any, provider: str, kept: Path | None, left_out: Sequence[str] | None
) -> Any:
    """Open `file`, through the optimised graph `kept` where there is one. A cache that fails costs time only."""
    settings = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}  # TF32 is not fp32
    providers, errors = [(provider, settings)], _errors(library)
    if kept is not None and kept.exists():
        optimiser = options.graph_optimization_level
        options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
        with suppress(OSError, *errors):
            return library.InferenceSession(str(kept), options, providers=providers)
        options.graph_optimization_level = optimiser  # it is damaged: make it again
    if kept is not None:
        with suppress(OSError, *errors), device_cache.replacing(kept) as partial:
            options.optimized_model_filepath = str(partial)
            return library.InferenceSession(str(file), options, providers=providers, disabled_optimizers=left_out)
        options.optimized_model_filepath = ""
    try:
        return library.InferenceSession(str(file), options, providers=providers, disabled_optimizers=left_out)
    except errors as error:
        raise cannot_open(file, "ONNX Runtime", error) from error


def options(library: Any, inputs: Sequence[Tensor], batch: Batch, threads: int) -> Any:
    """Return the SessionOptions that every engine here is opened with."""
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = FATAL
    options.add_session_config_entry("session.force_spinning_stop", "1")  # threads sleep between two runs
    if batch.fixed:
        for axis in sorted({dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}):
            options.add_free_dimension_override_by_name(axis, batch.best)
    timed = next((tensor for tensor in inputs if "T" in tensor.layout), None)
    if timed is not None:  # the open time axis of a stream; a graph of clips has none of this name
        options.add_free_dimension_override_by_name("time", timed.at(1)[timed.layout.index("T")])
    return options


def _kept(library: Any, file: Path, inputs: Sequence[Tensor], batch: Batch, cache: Path) -> Path | None:
    """Return where the optimised graph is kept; None for one that is too large to be."""
    if not file.exists() or file.stat().st_size > MOST_CACHED_BYTES or file.with_name(f"{file.name}.data").exists():
        return None
    facts = (sha256(file), library.__version__, machine.fingerprint(), repr(tuple(inputs)), repr(batch))
    return cache / f"{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:32]}.onnx"


def _cuda_provider(library: Any, file: Path) -> str:
    name = "CUDAExecutionProvider"
    if reason := cuda.driver():
        raise NotHereError(f"{reason}: {file.name} runs on an NVIDIA GPU", "Use another candidate of the bundle.")
    if name not in library.get_available_providers():
        raise NotHereError("this ONNX Runtime is built without CUDA", f"Install the one with it: {INSTALL_GPU}")
    return name


def _errors(library: Any) -> tuple[type[Exception], ...]:
    """Return ONNX Runtime's exceptions, which share no parent but Exception."""
    state = library.capi.onnxruntime_pybind11_state
    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)


def _library() -> Any:
    if reason := missing():
        raise NotHereError(reason.split(":")[0], f"Install it: {INSTALL}")
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise DeployError(
            f"ONNX Runtime is installed and cannot be loaded: {error}", f"Repair it: {INSTALL}"
        ) from error
    onnxruntime.set_default_logger_severity(FATAL)
    return onnxruntime
