"""Where an engine will run: each target names its backends, the precisions each backend offers there, and its limits.

A target is a value; adding one is one more line in `TARGETS`, and a `build_*` module where its backend is new. The
traps: `fp32` and `bf16` cost nothing to try and are always candidates, the others only when asked for; and an engine of
full TensorRT belongs to the very device, so targets that are devices ship graphs, and the device builds.
Sources of the versions: NVIDIA's JetPack release notes and TensorRT support matrices (10.3 to 11.4.1).
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deploy_compile.results import Form
from deploy_runtime import cuda
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.evidence import Backend, Precision

ALWAYS: frozenset[Precision] = frozenset({"fp32", "bf16"})
FP16: frozenset[Precision] = frozenset({"fp16"})
INT8: frozenset[Precision] = frozenset({"int8", "int8_bf16", "int8_fp16"})
# The typed graph a candidate is built from, where it is not of its own name: bf16 is a way to run, not a graph.
GRAPH_OF: Mapping[Precision, Precision] = {"bf16": "fp32", "int8_bf16": "int8"}
BUILT_HERE = "built here, not run on hardware"
BUILT_THERE = "the device builds it: not run on hardware"
ON_DEVICE: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8_fp16")


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    `precisions` lists, per backend, what it offers there, the likely fastest last. `compute_capabilities` are those
    of the NVIDIA GPUs that one engine serves. `executed` says whether an engine is run on the machine that builds it;
    where it is not, `note` says so to whoever reads the report. `needs_driver`: built only beside an NVIDIA driver.
    `built_there`: the graph ships and the device builds its engine from it. `form` is that of its INT8 graph.
    `python` and `library` are what the device has; `remarks` what is known to go wrong there.
    """

    name: str
    about: str
    precisions: Mapping[Backend, tuple[Precision, ...]]
    compute_capabilities: tuple[str, ...] = ()
    executed: bool = True
    needs_driver: bool = False
    note: str = ""
    form: Form = ""
    built_there: bool = False
    python: str = ""
    library: str = ""
    remarks: tuple[str, ...] = ()

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
        note=BUILT_HERE,
    ),
    Target(
        name="rtx-turing",
        about="an NVIDIA RTX 20 or T4 GPU (Turing), through TensorRT-RTX, in fp16 only",
        precisions={"tensorrt_rtx": ("fp16",)},
        compute_capabilities=("sm75",),
        executed=False,
        note=BUILT_HERE,
        remarks=(
            "no INT8: for Turing TensorRT-RTX compiles a quantized graph in float, or refuses it",
            "no fp32: it knows no fp32 3-D convolutions and matrix products for Turing",
        ),
    ),
    Target(
        name="cuda",
        about="an NVIDIA GPU through ONNX Runtime's CUDA provider",
        precisions={"onnxruntime": ("fp32", "fp16")},
        needs_driver=True,
    ),
    Target(
        name="tensorrt",
        about="the NVIDIA GPU of this machine through full TensorRT, 10.3 to 11.4",
        precisions={"tensorrt": ON_DEVICE},
        needs_driver=True,
        library="TensorRT 10.3 to 11.4",
    ),
    Target(
        name="jetson-jp6",
        about="a Jetson Orin with JetPack 6.1 or 6.2: Ubuntu 22.04, CUDA 12.6, TensorRT 10.3",
        precisions={"tensorrt": ON_DEVICE},
        compute_capabilities=("sm87",),
        executed=False,
        note=BUILT_THERE,
        built_there=True,
        python="3.10",
        library="TensorRT 10.3",
        remarks=("JetPack 6 stays on TensorRT 10: version 11 does not support it",),
    ),
    Target(
        name="jetson-jp7-orin",
        about="a Jetson Orin with JetPack 7.2: Ubuntu 24.04, CUDA 13.2, TensorRT 10.16.2",
        precisions={"tensorrt": ON_DEVICE},
        compute_capabilities=("sm87",),
        executed=False,
        note=BUILT_THERE,
        built_there=True,
        python="3.12",
        library="TensorRT 10.16.2",
        remarks=(
            "TensorRT 10.16.2 refuses Q/DQ nodes with fp16 scales here (NVIDIA/TensorRT issue 4832, open): "
            "the form with fp32 scales is tried next",
        ),
    ),
    Target(
        name="jetson-jp7-thor",
        about="a Jetson Thor with JetPack 7: Ubuntu 24.04, CUDA 13, TensorRT 10.13 to 11.4.1",
        precisions={"tensorrt": ON_DEVICE},
        compute_capabilities=("sm110",),
        executed=False,
        note=BUILT_THERE,
        built_there=True,
        python="3.12",
        library="TensorRT 10.13 to 11.4.1",
        remarks=("TensorRT 11.0 to 11.4.0 support no Jetson: 10.13, 10.16 or 11.4.1",),
    ),
    Target(
        name="igx",
        about="an NVIDIA IGX Orin, its own GPU or a discrete Ampere or Ada one, through TensorRT 10.3 or later",
        precisions={"tensorrt": ON_DEVICE},
        compute_capabilities=("sm87", "sm86", "sm89"),
        executed=False,
        note=BUILT_THERE,
        built_there=True,
        python="3.10",
        library="TensorRT 10.3 to 11.4",
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
        missing = cuda.driver() if target.needs_driver else None
        if missing:
            raise DeployError(
                f"target {target.name} is built and measured on an NVIDIA GPU: {missing}",
                "Run the command on a machine with the GPU, or ask for --target rtx, whose engines are built anywhere.",
            )
        for backend, offered in target.precisions.items():
            # What offers one thing only was asked for that; on a device each precision is another's fallback.
            wanted = frozenset(offered) if len(offered) == 1 or (target.built_there and int8) else asked
            found.extend((target, backend, precision) for precision in offered if precision in wanted)
    return tuple(found)
