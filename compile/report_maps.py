"""The picture of a dense map in the report: what went in, PyTorch's map, the engine's, and where they differ.

Of the golden samples, which are synthetic unless the user asked for real ones to ship, the one whose map lies furthest
off. The trap: two maps on scales of their own look alike whatever they hold; both are drawn on PyTorch's range here,
and the difference on a scale of its own, which is written beside it.
"""

import base64
import io
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from deploy_compile import report_parts as parts
from deploy_compile.markup import el
from deploy_recipes.recipe import Recipe
from deploy_runtime.evidence import Manifest
from deploy_runtime.spec import DenseMap, Tensor

NAME = "maps.png"  # in the bundle
INCHES, DPI = 2.4, 110  # a panel's side

Array = np.ndarray[Any, Any]


def picture(
    recipe: Recipe, inputs: Mapping[str, Array], wanted: Mapping[str, Array], got: Mapping[str, Array]
) -> bytes | None:
    """Return a PNG of the golden sample whose map is furthest off, `[n, ...]` arrays by name; None without maps."""
    if not isinstance(recipe.task, DenseMap):
        return None
    output = next((tensor for tensor in recipe.data_outputs if _is_map(wanted[tensor.name])), None)
    if output is None or not np.all(np.isfinite(got[output.name])):
        return None
    truth, found = wanted[output.name][:, 0], got[output.name][:, 0]
    sample = int(np.abs(found - truth).reshape(len(truth), -1).max(axis=1).argmax())
    images = [(tensor.name, _image(inputs[tensor.name][sample])) for tensor in recipe.data_inputs if _is_image(tensor)]
    return _drawn(images, output.name, truth[sample], found[sample])


def section(manifest: Manifest, png: bytes) -> Element:
    """Return the report's section with the picture."""
    row = manifest.candidates[manifest.chosen]
    whose = "synthetic" if manifest.golden.synthetic else "real"
    told = (
        f"Of the {manifest.golden.samples} golden samples, which are {whose}, the one whose map of {row.name} lies "
        "furthest from PyTorch's. Both maps are on PyTorch's range; the difference is on its own, which stands beside "
        "it."
    )
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return parts.section(
        "maps",
        "Maps side by side",
        el("p", told),
        el("img", src=source, alt=told, style="max-width: 100%; height: auto"),
    )


def _is_map(values: Array) -> bool:
    return values.ndim == 4 and min(values.shape[2:]) > 1


def _is_image(tensor: Tensor) -> bool:
    return tensor.layout == "NCHW" and tensor.shape[1] in (1, 3)


def _image(values: Array) -> Array:
    """Return [H, W] or [H, W, 3] in 0..1, by its own least and largest value."""
    least, most = float(values.min()), float(values.max())
    scaled = (values - least) / (most - least if most > least else 1.0)
    return scaled[0] if len(scaled) == 1 else np.moveaxis(scaled, 0, -1)


def _drawn(images: list[tuple[str, Array]], name: str, truth: Array, found: Array) -> bytes:
    from matplotlib.figure import Figure

    count = len(images) + 3
    figure = Figure(figsize=(INCHES * count, INCHES * 1.15), layout="constrained", facecolor="white")
    axes: Any = figure.subplots(1, count)
    for place, (title, image) in zip(axes, images, strict=False):
        place.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
        place.set_title(title, fontsize=9)
    span = {"vmin": float(truth.min()), "vmax": float(truth.max())}
    error = found - truth
    most = float(np.abs(error).max()) or 1.0
    panels = (
        (f"{name}, PyTorch", truth, {"cmap": "viridis", **span}),
        (f"{name}, engine", found, {"cmap": "viridis", **span}),
        ("engine - PyTorch", error, {"cmap": "coolwarm", "vmin": -most, "vmax": most}),
    )
    for place, (title, values, options) in zip(axes[len(images) :], panels, strict=True):
        drawn = place.imshow(values, **options)
        place.set_title(title, fontsize=9)
        figure.colorbar(drawn, ax=place, shrink=0.8).ax.tick_params(labelsize=7)
    for place in axes:
        place.set_xticks([])
        place.set_yticks([])
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()
