"""Where an engine will run: each target names its backends, the precisions each backend offers there, and its limits.

A target is a value; adding one (full TensorRT, a Jetson) is one more line in `TARGETS` and a `build_*` module for its
backend. The trap: `fp32` and `bf16` cost nothing to try and are always candidates, the others only when asked for.
"""

import ctypes
import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from deploy_compile.results import Form
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.evidence import Backend, Precision

ALWAYS: frozenset[Precision] = frozenset({"fp32", "bf16"})
FP16: frozenset[Precision] = frozenset({"fp16"})
INT8: frozenset[Precision] = frozenset({"int8", "int8_bf16", "int8_fp16"})
CUDA_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    `precisions` lists, per backend, what it offers there, the likely fastest last. `compute_capabilities` are those
    of the NVIDIA GPUs that one engine serves. `executed` says whether an engine is run on the machine that builds it;
    where it is not, `note` says so to whoever reads the report. `needs_driver`: built only beside an NVIDIA driver.
    `form` is that of its INT8 graph.
    """

    name: str
    about: str
    precisions: Mapping[Backend, tuple[Precision, ...]]
    compute_capabilities: tuple[str, ...] = ()
    executed: bool = True
    needs_driver: bool = False
    note: str = ""
    form: Form = ""

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The inference libraries that serve this target."""
        return tuple(self.precisions)


TARGETS = (
    Target(
        name="cpu",
        about="an x86-64 or ARM processor, through OpenVINO and ONNX Runtime",
        precisions={"openvino": ("fp32", "bf16", "int8", "int8_bf16"), "onnxruntime": ("fp32", "int8")},
        form="cpu",
    ),
    Target(
        name="rtx",
        about="an NVIDIA RTX GPU (Ampere, Ada, Blackwell), through TensorRT-RTX: one engine for all of them",
        precisions={"tensorrt_rtx": ("fp32", "fp16", "int8", "int8_fp16")},
        compute_capabilities=("sm86", "sm89", "sm120"),
        executed=False,
        note="built here, not run on hardware",
    ),
    Target(
        name="cuda",
        about="an NVIDIA GPU through ONNX Runtime's CUDA provider",
        precisions={"onnxruntime": ("fp32", "fp16")},
        needs_driver=True,
    ),
)


def names() -> tuple[str, ...]:
    """Return the names of all targets."""
    return tuple(target.name for target in TARGETS)


def get(name: str) -> Target:
    """Return the target called `name`. Raises UsageError with the nearest names."""
    for target in TARGETS:
        if target.name == name:
            return target
    near = difflib.get_close_matches(name.lower(), names(), n=2)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"there is no target {name!r}", f"{hint}The targets: {', '.join(names())}.")


def candidates(targets: Iterable[str], fp16: bool, int8: bool) -> tuple[tuple[Target, Backend, Precision], ...]:
    """Return what to build for the targets named: fp32 and bf16 always, fp16 where asked, the int8 kinds where asked.

    Raises UsageError for an unknown target, DeployError when one needs an NVIDIA driver and this machine has none.
    """
    asked = ALWAYS | (FP16 if fp16 else frozenset()) | (INT8 if int8 else frozenset())
    found: list[tuple[Target, Backend, Precision]] = []
    for target in map(get, dict.fromkeys(targets)):
        if target.needs_driver and not driver_found():
            raise DeployError(
                f"target {target.name} is built and measured beside an NVIDIA driver, and this machine has none",
                "Run the command on a machine with the GPU, or ask for --target rtx, whose engines are built anywhere.",
            )
        for backend, offered in target.precisions.items():
            found.extend((target, backend, precision) for precision in offered if precision in asked)
    return tuple(found)


@cache
def driver_found() -> bool:
    """Whether an NVIDIA driver is installed and starts: `cuInit` is the only proof."""
    try:
        driver = ctypes.CDLL(CUDA_LIBRARY)
    except OSError:
        return False
    return int(driver.cuInit(0)) == 0
