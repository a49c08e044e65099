"""The report on layers: which precision each got in what ships, and which ones INT8 had to give back to float."""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from deploy_compile import report_charts as charts
from deploy_compile import report_parts as parts
from deploy_compile.markup import Child, el
from deploy_compile.module_path import module_path
from deploy_compile.results import Layer
from deploy_runtime.evidence import Candidate, Manifest, Repair

Layers = Mapping[str, Sequence[Layer]]
FEW = 12  # layers that a list shows without being opened


def precisions(manifest: Manifest, layers: Layers) -> Element:
    """Which precision every heavy layer really got in what ships: a cell a layer, and a list."""
    groups = _groups(manifest, layers)
    title = "Precision of every layer"
    if not groups:
        return parts.section("layers", title, el("p", "No layer table was read from what ships."))
    maps: list[Child] = []
    for rows, found in groups:
        names, taken = _names(rows), _taken(manifest, rows[0])
        said = _counted(rows[0], found)
        back = next((layer.precision for layer in found if layer.node in taken), "")
        kinds = sorted({layer.precision for layer in found})
        cells = charts.layer_map(found, taken, f"{names}: {said}")
        maps += [el("h3", names), el("p", said, class_="small"), cells, charts.key(kinds, back)]
    by_node = [{layer.node: layer.precision for layer in found} for _, found in groups]
    listed: list[list[Child]] = [
        [
            el("span", module_path(layer), el("span", layer.node, class_="reason small")),
            layer.op,
            *(table.get(layer.node, parts.NONE) for table in by_node),
        ]
        for layer in groups[0][1]
    ]
    headings = ("layer", "op", *(_names(rows) for rows, _ in groups))
    return parts.section(
        "layers",
        title,
        el(
            "p",
            "Convolutions, matrix products and gemms in the order of the graph, with the precision read back from the "
            "built engine: what it runs, not what was asked for.",
        ),
        *maps,
        parts.folded(
            f"All {len(listed)} layers by name",
            parts.table(headings, listed, "By PyTorch module, with the ONNX node below"),
        ),
    )


def repairs(manifest: Manifest, layers: Layers) -> Element:
    """Which layers INT8 gave back to float to pass, the worst first, and what that cost."""
    known = {layer.node: layer for found in layers.values() for layer in found}
    title = "Worst layers, taken back to float"
    if not manifest.repairs:
        return parts.section("repairs", title, el("p", "None: INT8 was not asked for, or no target takes it."))
    ranked = "For the error that each layer causes by itself: "
    return parts.section(
        "repairs",
        title,
        *(part for target, repair in sorted(manifest.repairs.items()) for part in _repaired(target, repair, known)),
        el("p", ranked, el("code", "deploy-compile diagnose BUNDLE"), class_="dim small"),
    )


def _repaired(target: str, repair: Repair, known: Mapping[str, Layer]) -> list[Child]:
    mended = f" The biases of {parts.plural(repair.corrected, 'layer')} give back what INT8 adds on average."
    mended = mended if repair.corrected else ""
    summed = f" {parts.plural(repair.residuals, 'sum')} of a residual in INT8 too: OpenVINO was faster so."
    mended += summed if repair.residuals else ""
    if not repair.taken:
        told = (
            f"with all {repair.heavy} layers in INT8 the output has {repair.after_db:.1f} dB on the calibration samples"
        )
        return [el("p", f"Target {target}: none; {told}, which passes.{mended}")]
    change = 100 * (repair.slower - 1)
    cost = f"made INT8 {change:.0f} % slower" if change >= 0.5 else "cost INT8 no time"
    told = (
        f"Target {target}: {len(repair.taken)} of {repair.heavy} layers, since INT8 missed a limit with them or passed "
        f"by too little. It took the output from {repair.before_db:.1f} to {repair.after_db:.1f} dB on the calibration "
        f"samples and, by the layers' profile, {cost}. The most error for each millisecond that INT8 saves went first."
        f"{mended}"
    )
    rows: list[list[Child]] = [
        [str(place), module_path(known[node]) if node in known else node, el("code", node)]
        for place, node in enumerate(repair.taken, 1)
    ]
    listed = parts.table(("rank", "layer", "ONNX node"), rows, "In the order in which they went back, the worst first")
    return [
        el("p", told),
        parts.folded(f"{parts.plural(len(rows), 'layer')} of {target}", listed, shown=len(rows) <= FEW),
    ]


def _groups(manifest: Manifest, layers: Layers) -> list[tuple[list[Candidate], Sequence[Layer]]]:
    """Return what ships with its layers, the chosen one first; candidates whose layers are all alike stand together."""
    order = sorted(range(len(manifest.candidates)), key=lambda place: place != manifest.chosen)
    groups: dict[tuple[tuple[Layer, ...], frozenset[str]], list[Candidate]] = {}
    for row in (manifest.candidates[place] for place in order):
        found = tuple(layers.get(row.name, ()))
        if row.file is not None and found:
            groups.setdefault((found, _taken(manifest, row)), []).append(row)
    return [(rows, found) for (found, _), rows in groups.items()]


def _names(rows: Sequence[Candidate]) -> str:
    return ", ".join(row.name for row in rows)


def _taken(manifest: Manifest, row: Candidate) -> frozenset[str]:
    repair = manifest.repairs.get(row.target) if row.precision.startswith("int8") else None
    return frozenset(() if repair is None else repair.taken)


def _counted(row: Candidate, found: Sequence[Layer]) -> str:
    """Say how many layers are in which precision, and how much of the arithmetic."""
    shares = {} if row.coverage is None else row.coverage.macs
    told = []
    for one in sorted({layer.precision for layer in found}):
        count = parts.plural(sum(layer.precision == one for layer in found), "layer")
        share = f", {100 * shares[one]:.1f} % of the multiply-adds" if one in shares else ""
        told.append(f"{count} in {one}{share}")
    return "; ".join(told)
