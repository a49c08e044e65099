"""What was built and measured, as a manifest carries it. Frozen, plain, JSON-able.

Nothing here computes; `data.encode` and `data.decode` turn each value into JSON and back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from deploy_runtime import spec
from deploy_runtime.drift import Drift, PairDrift, StreamDrift, Verdict
from deploy_runtime.spec import Batch, Limit, Preprocess, State, Task, Tensor, data_inputs, data_outputs

Backend = Literal["openvino", "onnxruntime", "tensorrt_rtx", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8", "int8_bf16", "int8_fp16"]
# What a candidate is chosen for: one answer's time on all cores; one core's, with an engine a core; the engine's bytes.
Objective = Literal["latency", "throughput", "size"]
# `to_build`: its graph ships, and the device builds the engine. Like `built_not_run` it was judged by emulation only.
Status = Literal["passed", "failed", "rejected", "crashed", "refused", "built_not_run", "to_build"]


@dataclass(frozen=True)
class Speed:
    """Latency of one candidate beside PyTorch eager, interleaved in one run, in milliseconds for one batch.

    `ratio` is PyTorch's median over the candidate's, `low` and `high` its bootstrap 95 % interval. `lag` is the
    candidate's median over that of the fastest candidate of the run, with its own interval: noise of PyTorch is not
    in it. `p99_ms` only from 1,000 runs on.
    """

    ratio: float
    low: float
    high: float
    p50_ms: float
    p90_ms: float
    torch_p50_ms: float
    runs: int
    threads: int
    p99_ms: float | None = None
    lag: float = 1.0
    lag_low: float = 1.0
    lag_high: float = 1.0


@dataclass(frozen=True)
class Coverage:
    """What the audit found: how many heavy layers of the graph ran in which precision.

    `layers` counts convolutions, matmuls and gemms by precision; `macs` gives the share of multiply-adds in each;
    `breaches` names the ONNX nodes that got another precision than asked and are not declared `keep_float`.
    """

    layers: Mapping[str, int]
    macs: Mapping[str, float]
    breaches: tuple[str, ...] = ()


def candidate_name(backend: str, precision: str, target: str) -> str:
    """The word people see: `openvino int8`; with its target where a backend serves several: `tensorrt int8 on igx`."""
    plain = ("cpu", "rtx", "tensorrt")
    return f"{backend} {precision}" + ("" if target in plain else f" on {target}")


@dataclass(frozen=True)
class Candidate:
    """One backend at one precision for one target, with all that was measured of it: a row of the manifest.

    `file` is what the backend opens, relative to the bundle; None where it is not shipped; `also` are other forms of a
    graph that the device builds, for where its builder refuses the first. `drift` was measured on held-out samples and
    judged by `verdicts`; `golden` on the golden samples, for devices to compare with.
    """

    backend: Backend
    precision: Precision
    target: str
    status: Status
    reason: str = ""
    file: str | None = None
    coverage: Coverage | None = None
    drift: tuple[Drift, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    speed: Speed | None = None
    emulated: bool = False
    golden: tuple[Drift, ...] = ()
    stream: tuple[StreamDrift, ...] = ()
    pair: tuple[PairDrift, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def unrun(self) -> bool:
        """Whether it was judged by emulation only, since the machine that made it has no such hardware."""
        return self.status in ("built_not_run", "to_build")

    @property
    def name(self) -> str:
        """The word people see: `openvino int8`."""
        return candidate_name(self.backend, self.precision, self.target)


@dataclass(frozen=True)
class File:
    """One file of a bundle: its path relative to the bundle, with `/`, its digest and its size in bytes."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Calibration:
    """Where the INT8 ranges come from. Never a file name. `warnings` says what is doubtful about the samples."""

    synthetic: bool
    samples: int
    sources: int
    algorithm: str
    digest: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repair:
    """What it took to make the INT8 graph pass on the calibration samples: layers taken back to float.

    `corrected` counts the layers whose biases give back what quantizing adds to their outputs on average.
    `taken` names their ONNX nodes, the most error per millisecond first, out of `heavy` that were quantized.
    `before_db` and `after_db` are the output's SQNR there. `slower` estimates the repaired graph's time over that of
    the fully quantized one, from a profile of the building machine. `residuals` counts the sums of a convolution's
    result and a residual that are in INT8 too.
    """

    taken: tuple[str, ...]
    heavy: int
    before_db: float
    after_db: float
    slower: float
    corrected: int = 0
    residuals: int = 0


@dataclass(frozen=True)
class Interval:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassRecall:
    """Of the `samples` decisions of one class or label, the share that was found; None where there are none."""

    samples: int
    recall: Interval | None


@dataclass(frozen=True)
class Accuracy:
    """How often a model is right on labelled samples.

    `accuracy` is the share of right decisions, `recall` that of each class in the order of the outputs. `auroc` is one
    against the rest, averaged; None where only one class was there. `calibration_error` is the expected one, 15 bins.
    """

    accuracy: Interval
    recall: tuple[ClassRecall, ...]
    auroc: Interval | None
    calibration_error: Interval | None


@dataclass(frozen=True)
class Difference:
    """The change of accuracy from one model to another on the same samples.

    Of the decisions on which they differ, `lost` were right before only and `gained` after only; `p_value` is that of
    McNemar's exact test: how likely so uneven a split is where nothing changed.
    """

    change: Interval
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on the user's labelled samples, of PyTorch and of the candidate called `candidate`.

    `samples` files with `decisions` decisions; `digest` is over the decoded samples and their labels, never names.
    `max_drop` is the most that accuracy was allowed to fall, in percentage points; None: not a gate.
    """

    candidate: str
    samples: int
    decisions: int
    digest: str
    torch: Accuracy
    engine: Accuracy
    difference: Difference
    max_drop: float | None = None


@dataclass(frozen=True)
class Provenance:
    """What the bundle was made from and with. `weights` is `seeded`, `pretrained` or `file`."""

    weights: str
    weights_sha256: str
    parameters: int
    calibration: Calibration | None
    held_out: str
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    options: Mapping[str, str]
    created: str


@dataclass(frozen=True)
class Golden:
    """The small set of inputs and PyTorch fp32 outputs that ships: `golden/inputs.npz`, `golden/outputs.npz`.

    `fp64_distance` is, per output, PyTorch fp32's own largest distance from an fp64 run of the module.
    """

    samples: int
    synthetic: bool
    fp64_distance: Mapping[str, float]


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`: all that a bundle says of itself. docs/bundle.md documents each field."""

    format: int
    name: str
    recipe: str
    family: str
    params: Mapping[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    task: Task
    preprocess: Preprocess | None
    labels: tuple[str, ...]
    batch: Batch
    limits: Mapping[str, Limit]
    candidates: tuple[Candidate, ...]
    chosen: int
    fallback: int | None
    verdict: str
    golden: Golden
    provenance: Provenance
    objective: Objective = "latency"
    state: tuple[State, ...] = ()
    repairs: Mapping[str, Repair] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    files: tuple[File, ...] = field(default=())

    @property
    def data_inputs(self) -> tuple[Tensor, ...]:
        """The inputs that whoever runs it gives: all but the state of a stream."""
        return data_inputs(self.inputs, self.state)

    @property
    def data_outputs(self) -> tuple[Tensor, ...]:
        """The outputs but the state."""
        return data_outputs(self.outputs, self.state)

    @property
    def window(self) -> int:
        """How many frames a sliding window has; 0 for a network that reads no later frame, or takes clips only."""
        return spec.window(self.state)
