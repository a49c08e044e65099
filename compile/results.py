"""The frozen results that stages hand to each other.

Every path lies in the folder of the stage that wrote it. A result is what the cache keeps as `result.json`, so it
holds plain values only (`deploy_runtime.data` turns it into JSON and back); arrays live in files beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deploy_compile.uncertainty import Uncertainty
from deploy_runtime.drift import Drift, PairDrift, StreamDrift
from deploy_runtime.evidence import (
    Backend,
    Calibration,
    Candidate,
    Coverage,
    Evaluation,
    Precision,
    Repair,
    Speed,
    Status,
    candidate_name,
)

Form = Literal["", "cpu", "fp32_scales"]


@dataclass(frozen=True)
class Loaded:
    """A network with its weights fixed: `ref` and `params` name the architecture, `weights` is a safetensors file.

    With `uncertainty` it is several members in one, or one with its logits divided.
    """

    ref: str
    params: Mapping[str, str]
    weights: Path
    sha256: str
    parameters: int
    origin: str
    uncertainty: Uncertainty = Uncertainty()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Samples:
    """Three folders of numbered `.npz` files, one sample each, every array with a batch axis of 1 and an input's name.

    `calibration` gives the INT8 ranges, parity is measured on `held_out`, `golden` ships and is synthetic unless
    `golden_synthetic` is False. `provenance` says where calibration samples come from, `held_out_note` the others.
    """

    calibration: Path
    held_out: Path
    golden: Path
    provenance: Calibration
    held_out_note: str
    golden_synthetic: bool


@dataclass(frozen=True)
class Reference:
    """PyTorch fp32 answers on held-out and golden samples: folders of `.npz` files numbered as the samples are.

    `fp64` holds the answers of the module in fp64 for the first `fp64_samples` held-out samples;
    `fp64_distance` is, per output, max |fp32 - fp64| over them. `seconds` is one forward pass.
    """

    held_out: Path
    golden: Path
    fp64: Path
    fp64_samples: int
    fp64_distance: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Graph:
    """An ONNX file of one precision. `kept_float` names the heavy nodes that stay float on purpose, with the reason.

    `form` is `cpu` for an INT8 graph with activations on grids that only CPUs take (see `grids`), `fp32_scales` for an
    INT8 graph with an fp16 body whose Q/DQ nodes keep fp32 scales: TensorRT 10.16 on Orin refuses fp16 ones.
    """

    path: Path
    precision: str
    nodes: int
    heavy: int
    quantized: int
    kept_float: Mapping[str, str]
    form: Form = ""


@dataclass(frozen=True)
class Layer:
    """One heavy node of the fp32 graph and the precision that an engine gave it: `fp32`, `bf16`, `fp16` or `int8`."""

    node: str
    op: str
    precision: str


@dataclass(frozen=True)
class Built:
    """An engine, or the reason why there is none. `file` is what the backend opens; `layers` is the layer table."""

    backend: Backend
    precision: Precision
    target: str
    status: Status
    reason: str
    file: Path | None
    layers: tuple[Layer, ...]
    seconds: float

    @property
    def name(self) -> str:
        """The word people see: `openvino int8`."""
        return candidate_name(self.backend, self.precision, self.target)


@dataclass(frozen=True)
class Audited:
    """The layer table of one engine, counted."""

    coverage: Coverage


@dataclass(frozen=True)
class Parity:
    """The drift of one candidate on held-out samples and on the golden ones, or why it could not be measured.

    `answers` are those to the golden samples, an `.npz` by output.
    """

    drift: tuple[Drift, ...]
    status: Status
    reason: str
    emulated: bool = False
    golden: tuple[Drift, ...] = ()
    answers: Path | None = None


@dataclass(frozen=True)
class Streamed:
    """PyTorch carried through a film: its frames, the answers to them, a clip with a state other than the initial one,
    the answers to that clip from this state and from the initial one, and those to the film's last clips without what
    came before them. `.npz` files by tensor name."""

    film: Path
    answers: Path
    carried: Path
    resumed: Path
    begun: Path
    afresh: Path


@dataclass(frozen=True)
class StreamParity:
    """The drift of one candidate as a stream, or why it could not be measured."""

    drift: tuple[StreamDrift, ...]
    status: Status
    reason: str


@dataclass(frozen=True)
class Paired:
    """Held-out pairs in four forms, a folder of `.npz` files each, and PyTorch's answers to all in this order."""

    plain: Path
    same: Path
    exchanged: Path
    brighter: Path
    answers: Path

    @property
    def folders(self) -> tuple[Path, ...]:
        """The pairs as they are, twice the same study, exchanged, and brighter."""
        return self.plain, self.same, self.exchanged, self.brighter


@dataclass(frozen=True)
class PairParity:
    """How one candidate answers about changed pairs, or why it could not be asked."""

    drift: tuple[PairDrift, ...]
    status: Status
    reason: str


@dataclass(frozen=True)
class Speeds:
    """Latency of candidates beside PyTorch, by candidate name (`openvino int8`); `failed` gives reasons by name."""

    measured: Mapping[str, Speed]
    failed: Mapping[str, str]
    threads: int


@dataclass(frozen=True)
class Predicted:
    """An `.npz` with `scores` and `truth` of labelled samples, and a digest over decoded samples and labels."""

    file: Path
    digest: str


@dataclass(frozen=True)
class Evaluated:
    """Accuracy before and after, and whether the gate on it holds."""

    evaluation: Evaluation
    passed: bool


@dataclass(frozen=True)
class Choice:
    """Which candidate ships and which is the fallback, as indices, and the sentence a person reads first."""

    chosen: int
    fallback: int | None
    sentence: str


@dataclass(frozen=True)
class Bundled:
    """A finished bundle folder and the sha256 of its manifest."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class Outcome:
    """A finished compile: the bundle in the cache, every candidate's row, what was chosen and why.

    `repairs` is what making INT8 pass took, by target; `evaluation` the accuracy on labelled samples, None without;
    `warnings` what is doubtful about the calibration samples.
    """

    recipe: str
    rows: tuple[Candidate, ...]
    choice: Choice
    bundled: Bundled
    repairs: Mapping[str, Repair] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benched:
    """The speeds of a finished bundle's candidates, and the name of the chosen one."""

    bundle: str
    chosen: str
    speeds: Speeds
