"""Which layers of a bundle's INT8 graph cause the output's error, from the bundle alone.

The graphs, the golden samples and the manifest are all it needs: no PyTorch, no weights, no GPU. Real samples say
more than the golden ones, which are synthetic unless the user shipped his own: `samples` names a folder of them.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from deploy_compile import media
from deploy_compile.made_from import fitted
from deploy_compile.module_path import module_path
from deploy_compile.results_int8 import Diagnosis
from deploy_compile.samples import images, spread
from deploy_compile.sensitivity import sensitivity
from deploy_compile.switches import Sample
from deploy_runtime import manifest
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Manifest
from deploy_runtime.golden import read as golden

MOST_SAMPLES = 8  # of a folder; an error is a sum over many values of each
CHARTED = 40  # layers that a chart shows
COLOUR = "#3b6ea5"


def diagnose(bundle: Path, samples: Path | None, ref: str | None, threads: int) -> Diagnosis:
    """Rank the quantized layers of a bundle, the most harmful first.

    `samples` is a folder of images, videos, DICOM or arrays as `recipe --calibration` takes it; None: the golden set.
    `ref` names the recipe where it stands in a file of the user's. Raises DeployError where the bundle is damaged or
    ships no INT8 graph.
    """
    found = manifest.read(bundle)
    manifest.verify_files(bundle, found)
    given = _golden(bundle, found) if samples is None else _read(samples, found, ref)
    fp32, int8 = (bundle / _graph(found, precision) for precision in ("fp32", "int8"))
    return Diagnosis(
        found.name,
        sensitivity(fp32, int8, given, threads),
        found.golden.synthetic if samples is None else False,
    )


def chart(diagnosis: Diagnosis, path: Path) -> None:
    """Draw the worst layers as bars into a PNG, SVG or PDF: each one's share of the error, with what it alone leaves.

    Raises DeployError where the file cannot be written or has another suffix.
    """
    from matplotlib.figure import Figure

    found = diagnosis.sensitivity
    worst = found.layers[:CHARTED]
    powers = [10.0 ** (-layer.alone_db / 10.0) for layer in found.layers]
    shares = [100.0 * power / (sum(powers) or 1.0) for power in powers[: len(worst)]]
    figure = Figure(figsize=(9.0, 1.4 + 0.24 * len(worst)), layout="constrained")
    axes: Any = figure.subplots()
    bars = axes.barh(range(len(worst)), shares, color=COLOUR)
    axes.bar_label(bars, [f"{layer.alone_db:.1f} dB" for layer in worst], padding=3, fontsize=7)
    axes.set_yticks(range(len(worst)), [module_path(layer) for layer in worst], fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.set_xlabel("share of the error that the layers cause one by one, % (beside it: the output with only this one)")
    axes.set_title(f"{diagnosis.bundle}: {found.whole_db:.1f} dB with all {len(found.layers)} layers in INT8")
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DeployError(f"the chart cannot be written to {path}: {error}", "Give a .png, .svg or .pdf.") from error


def _graph(found: Manifest, precision: str) -> str:
    """Return the typed graph of a precision that the bundle ships."""
    rows = [row for row in found.candidates if row.precision == precision and row.file and row.backend == "openvino"]
    shipped = {file.path for file in found.files}
    names = [*(row.file for row in rows if row.file), f"graphs/{precision}.onnx"]
    for name in names:
        if name in shipped:
            return name
    raise DeployError(
        f"{found.name} ships no {precision} graph to diagnose",
        "Compile it with --int8 and --target cpu; where no layer may stay in INT8, the verdict says so.",
    )


def _golden(bundle: Path, found: Manifest) -> list[Sample]:
    stacked = golden(bundle, "inputs", found.inputs, found.golden.samples)
    return [
        {name: array[place : place + 1] for name, array in stacked.items()} for place in range(found.golden.samples)
    ]


def _read(folder: Path, found: Manifest, ref: str | None) -> Sequence[Sample]:
    recipe = fitted(found, ref)
    return list(islice(spread(media.sources(folder, images(recipe)), recipe, MOST_SAMPLES), MOST_SAMPLES))
