"""From a typed ONNX graph to an engine, by TensorRT 10.3 to 11.4 or TensorRT-RTX: one way for all of them.

The network is strongly typed, always: the graph alone decides precision, and no precision flag is ever set (version 11
has none left). What only some versions have stands behind `hasattr`; tests/runtime/test_tensorrt_api.py holds every
name that this module touches against the names of the five releases. `trt` is the module, `tensorrt` or `tensorrt_rtx`.

The trap: a failed build leaves the library in a state in which the next build of the same process succeeds with every
quantized layer in float. Build in a process of its own, one engine each (`device_build`, `deploy_compile.build`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Batch, Tensor

SHOWN_ERRORS = 3  # told in full; the rest are counted
TABLE = "Layers:\nName: "  # how the message begins that holds the layer table, at detailed verbosity
Said = Callable[[str], None]
Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]  # least, best, largest, by input name


class RefusedError(DeployError):
    """The parser or the compiler does not take this graph; the message names ONNX nodes where the library does."""


@dataclass(frozen=True)
class Settings:
    """How to build. What is left out is the library's own default.

    `compute_capabilities` are those of TensorRT-RTX (`sm86`, ...); full TensorRT builds for the GPU that is there.
    `level` is the optimisation level, 0 to 5. `hardware_compatible`: for every GPU from Ampere on, slower; not on a
    Jetson. `version_compatible`: later versions run it too, slower. `timing_cache` is the content of an earlier one.
    """

    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    level: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    timing_cache: bytes = b""


@dataclass(frozen=True)
class Plan:
    """A serialized engine, the messages that hold its layer table, and the timing cache to keep (empty: none)."""

    content: bytes
    tables: tuple[str, ...]
    timing_cache: bytes


def build(
    trt: Any, graph: Path, inputs: Sequence[Tensor], batch: Batch, settings: Settings, said: Said | None = None
) -> Plan:
    """Compile a graph for the batch sizes it will serve; `said` hears each phase as it begins.

    Raises RefusedError where the library does not take the graph, DeployError for settings that it does not have.
    """
    log, recorder = _log(trt), _recorder(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise _refusal(trt, [parser.get_error(index) for index in range(parser.num_errors)])
    config = builder.create_builder_config()
    _configure(trt, config, settings)
    for sizes in profiles(_opened(network, inputs), batch):
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in sizes.items():
            profile.set_shape(name, least, best, most)
        config.add_optimization_profile(profile)
    if said is not None:
        config.progress_monitor = _monitor(trt, said)
    builder.error_recorder = recorder  # not before: a parser made after it kills the process as it is destroyed
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _uncompiled(trt, network, recorder.told or log.errors)
    kept = b""
    if not hasattr(config, "set_compute_capability"):  # TensorRT-RTX times nothing, its cache is empty
        kept = bytes(memoryview(config.get_timing_cache().serialize()))
    return Plan(bytes(memoryview(plan)), tuple(log.tables), kept)


def _configure(trt: Any, config: Any, settings: Settings) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # what the audit reads
    if hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = len(settings.compute_capabilities)
        for index, name in enumerate(settings.compute_capabilities):
            config.set_compute_capability(_compute_capability(trt, name), index)
    else:
        config.set_timing_cache(config.create_timing_cache(settings.timing_cache), False)
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _opened(network: Any, inputs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return each input as the smallest that the graph takes, a stream's step of one frame, and as a whole clip."""
    found = [network.get_input(index) for index in range(network.num_inputs)]
    frames_open = {tensor.name for tensor in found if -1 in tuple(tensor.shape)[1:]}
    return [(wanted.of_frames(1) if wanted.name in frames_open else wanted, wanted) for wanted in inputs]


def profiles(inputs: Sequence[tuple[Tensor, Tensor]], batch: Batch) -> list[Profile]:
    """Return the optimization profiles of an engine, from each input at its smallest and as a whole clip.

    The first serves all that the bundle serves. Where its best is not its least, a second one serves exactly the least:
    the single image or the step of a live stream, for which kernels of a fixed shape are faster.
    """
    everything: Profile = {
        one.name: (one.at(batch.least), whole.at(batch.best), whole.at(batch.most)) for one, whole in inputs
    }
    least: Profile = {name: (shapes[0], shapes[0], shapes[0]) for name, shapes in everything.items()}
    same = all(best == least for least, best, _ in everything.values())
    return [everything] if same else [everything, least]


def _compute_capability(trt: Any, name: str) -> Any:
    known = trt.ComputeCapability.__members__ if hasattr(trt, "ComputeCapability") else {}
    if name.upper() not in known:
        offered = ", ".join(member.lower() for member in known if member.startswith("SM"))
        raise DeployError(f"TensorRT-RTX builds for no compute capability {name!r}", f"It knows {offered}.")
    return known[name.upper()]


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the layer table and the errors; prints nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.tables: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if TABLE in message:
                self.tables.append(message)
            elif severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Log()


def _recorder(trt: Any) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        """Keeps what the library reports as errors, in its words without the log's prefixes."""

        def __init__(self) -> None:
            super().__init__()
            self.told: list[str] = []
            self.codes: list[Any] = []

        def report_error(self, code: Any, text: str) -> bool:
            self.codes.append(code)
            self.told.append(text.strip())
            return False  # whether it ends the process

        def num_errors(self) -> int:
            return len(self.told)

        def get_error_code(self, index: int) -> Any:
            return self.codes[index]

        def get_error_desc(self, index: int) -> str:
            return self.told[index]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.told.clear()
            self.codes.clear()

    return Recorder()


def _monitor(trt: Any, said: Said) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells each outer phase of a build as it begins; never cancels."""

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if not parent:
                said(f"{name} ({steps} steps)")

        def step_complete(self, _name: str, _step: int) -> bool:
            return True

        def phase_finish(self, _name: str) -> None:
            return None

    return Monitor()


def _refusal(trt: Any, errors: Sequence[Any]) -> RefusedError:
    told = [f"{error.node_operator()} {error.node_name() or '(no name)'}: {_reason(error.desc())}" for error in errors]
    return RefusedError(
        f"{library(trt)}'s parser refuses the graph: {_some(told)}",
        "Replace these operators in the network, or leave this target out.",
    )


def _uncompiled(trt: Any, network: Any, told: Sequence[str]) -> RefusedError:
    """Say why the compiler gave nothing, with the ONNX nodes that its words name."""
    unique = list(dict.fromkeys(told)) or ["it gave no reason"]
    layers = [network.get_layer(index).name for index in range(network.num_layers)]
    words = {word.strip(".,:;()[]{}'\"") for text in unique for word in text.split()}
    nodes = [name for name in layers if name in words]
    at = f" (at {', '.join(nodes[:SHOWN_ERRORS])})" if nodes else ""
    return RefusedError(
        f"{library(trt)} could not compile the graph{at}: {_some(unique)}",
        "Another precision, or another backend, may take it.",
    )


def library(trt: Any) -> str:
    """Return what a person calls this library, with its version."""
    return f"{'TensorRT-RTX' if trt.__name__ == 'tensorrt_rtx' else 'TensorRT'} {trt.__version__}"


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - SHOWN_ERRORS} more" if len(texts) > SHOWN_ERRORS else ""
    return "; ".join(texts[:SHOWN_ERRORS]) + more


def _reason(text: str) -> str:
    """Say what the parser says; for some operators that is only the word "false"."""
    plain = " ".join(text.split()).strip('"')
    return "it is not supported" if plain in ("", "false") else plain
