"""The frozen results of the stages that make an INT8 graph and look into it: ranges, errors, what it took to pass.

Kept and handed on as those of `results` are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy_compile.results import Graph
from deploy_runtime.evidence import Repair


@dataclass(frozen=True)
class Range:
    """What calibration saw of one tensor, in its own units: the least and the largest value, and the chosen
    clipping threshold of |x| with the share of values it saturates. `non_negative`: no value was below zero."""

    least: float
    largest: float
    threshold: float
    saturated: float
    algorithm: str

    @property
    def non_negative(self) -> bool:
        """Whether no value below zero was seen."""
        return self.least >= 0.0


@dataclass(frozen=True)
class Ranges:
    """The ranges of every float tensor of the fp32 graph, over `samples` samples."""

    tensors: Mapping[str, Range]
    samples: int


@dataclass(frozen=True)
class Saturation:
    """What calibrated ranges do to `samples` held-out samples.

    Of the `tensors` that become INT8, `dead` were zero throughout calibration, and `saturated` have a noticeable share
    of their values beyond their range; `worst` is the largest such share.
    """

    tensors: int
    dead: int
    saturated: int
    worst: float
    samples: int


@dataclass(frozen=True)
class LayerError:
    """What quantizing one heavy node does, as signal-to-noise ratios in dB.

    `own_db` at its own output, on float inputs; `alone_db` at the network's output with only it in INT8; `without_db`
    there with every other layer in INT8.
    """

    node: str
    op: str
    own_db: float
    alone_db: float
    without_db: float


@dataclass(frozen=True)
class Sensitivity:
    """Every quantized layer, the most harmful first, and the output's ratio in dB with all of them in INT8."""

    layers: tuple[LayerError, ...]
    whole_db: float
    samples: int


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` finds in a bundle; `synthetic` says that no real sample was looked at."""

    bundle: str
    sensitivity: Sensitivity
    synthetic: bool


@dataclass(frozen=True)
class Corrected:
    """An INT8 graph whose biases were corrected, or the one given where that does not help.

    `means` is an `.npz` with, by quantized node, what was taken out of its bias [channels] (`biases.read`); `layers`
    how many those are. `before_db` and `after_db` are the output's ratios on calibration samples that judged it.
    """

    graph: Graph
    means: Path | None = None
    layers: int = 0
    before_db: float | None = None
    after_db: float | None = None


@dataclass(frozen=True)
class Reached:
    """How an INT8 graph does as it is on calibration samples: the output's ratio in dB, the largest margin by which it
    passes (None: by none that was asked for), and how many of its layers are quantized. `floats` and `whole` hold the
    outputs with no layer and with every layer in INT8, all samples stacked."""

    sqnr_db: float
    margin_db: float | None
    layers: int
    floats: Path
    whole: Path


@dataclass(frozen=True)
class Joined:
    """An INT8 graph with `sums` of residuals in INT8, or the one given where they are 0.

    `gain` is the time with float sums over that with INT8 ones, as OpenVINO was timed; None where it was not.
    `sqnr_db` is the output's ratio with INT8 sums, on the samples that repair goes by.
    """

    graph: Graph
    sums: int = 0
    gain: float | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Ranked:
    """By quantized node: the output's noise over signal with only it in INT8; and milliseconds in float and INT8."""

    errors: Mapping[str, float]
    times: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Repaired:
    """The INT8 graph after repair, None where no layer may stay in INT8, and what it took (see evidence.Repair)."""

    graph: Graph | None
    repair: Repair
