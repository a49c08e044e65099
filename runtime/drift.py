"""How far answers lie from PyTorch's, as a manifest carries it: sample by sample, as maps, over time, of pairs.

Nothing here computes: `judge`, `maps`, `phases` and the compiler do. Frozen, plain, JSON-able.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MapDrift:
    """How far dense maps lie from PyTorch's as pictures.

    `psnr_db` and the mean structural similarity `ssim` are over the range of the reference's values. `worst_local` is
    the mean error of the worst window of 16 x 16 pixels over that range, whose middle is at `row` and `column` of the
    map of held-out `sample`.
    """

    psnr_db: float
    ssim: float
    worst_local: float
    sample: int
    row: int
    column: int


@dataclass(frozen=True)
class Drift:
    """How far one output lies from PyTorch's over all held-out samples.

    Errors are in the output's own units; relative ones are divided by `scale`, the reference's largest magnitude.
    `sqnr_db` is 10·log10(Σreference² / Σerror²), infinite where the outputs are equal. `worst_cosine` is that of the
    worst single sample. `agreement` is the share of equal decisions, with its Wilson 95 % interval, over `decisions`
    decisions of which `excused` differ within twice PyTorch fp32's own distance from fp64.
    """

    output: str
    samples: int
    max_abs: float
    mean_abs: float
    scale: float
    max_relative: float
    mean_relative: float
    cosine: float
    worst_cosine: float
    sqnr_db: float
    fp64_ratio: float | None = None
    agreement: float | None = None
    agreement_low: float | None = None
    agreement_high: float | None = None
    decisions: int = 0
    excused: int = 0
    finite: bool = True
    map: MapDrift | None = None


@dataclass(frozen=True)
class Segment:
    """Frames one after the other that have one class: the first of them, how many, and the class's number."""

    start: int
    frames: int
    phase: int


@dataclass(frozen=True)
class PhaseDrift:
    """How the classes of `frames` frames, as a sequence, differ from the reference's.

    `agreement` is the share of equal frames; `edit_score` is 1 where the segments follow in the same order, down to 0;
    `boundary_shift` the largest distance in frames of a boundary from the reference's; `false_switches` counts changes
    of class that the reference does not make nearby, `missed_switches` the converse. `reference` and `got` are both.
    """

    frames: int
    agreement: float
    edit_score: float
    boundary_shift: int
    false_switches: int
    missed_switches: int
    reference: tuple[Segment, ...] = ()
    got: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class StreamDrift:
    """How far one output lies from PyTorch's over a film of `frames` frames, the state carried on; ratios in dB.

    `sqnr_db` over all of it, frame by frame; `first_db` and `last_db` over its first and last quarter; `chunks_db`
    between single frames and longer chunks of the same engine; `resumed_db` over a clip from another state than the
    initial one, and `begun_db` over the same clip from the initial one. `phases` where each frame is decided.
    `course_db` are the ratios of up to 16 equal parts of the film, and `begins_db` and `ends_db` lie on the straight
    line through them, the end at the favourable edge of its 95 % interval; both infinite of a film too short for one.
    `afresh_db` is that of `last_db` for a stream that begins near there, beside PyTorch that begins there too: both
    are shown the same frames, so that what differs between the two is age. Infinite in bundles from before.
    """

    output: str
    frames: int
    sqnr_db: float
    first_db: float
    last_db: float
    chunks_db: float
    resumed_db: float
    begun_db: float = math.inf
    phases: PhaseDrift | None = None
    course_db: tuple[float, ...] = ()
    begins_db: float = math.inf
    ends_db: float = math.inf
    afresh_db: float = math.inf


@dataclass(frozen=True)
class PairDrift:
    """How one output of a network that compares two studies behaves beside PyTorch's, over `pairs` held-out pairs.

    `same_db` is its SQNR for the same study twice, `exchanged_db` for the two exchanged. `light_ratio` is how far
    another exposure of both moves it over how far it moves PyTorch's answer, its own noise taken off.
    """

    output: str
    pairs: int
    same_db: float
    exchanged_db: float
    light_ratio: float


@dataclass(frozen=True)
class Verdict:
    """One measured value against one limit."""

    output: str
    metric: str
    value: float
    limit: float
    passed: bool
    note: str = ""
