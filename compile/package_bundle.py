"""The bundle inside a package: only the candidates, and the files, that one target opens; a bundle of its own.

Its manifest is new, so its digest is too; `provenance.options` says which bundle it was taken from. The trap: what
never ran must not lead by accident. Where the target's rows were judged by emulation only, the first one stands as
chosen and the verdict says that nothing was run on hardware.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deploy_compile.bundle import report, write_json
from deploy_compile.choose import choose
from deploy_compile.report_html import page
from deploy_compile.report_maps import NAME as MAPS
from deploy_compile.reproduce import command
from deploy_compile.results import Choice, Layer
from deploy_compile.targets import BUILT_THERE, Target
from deploy_runtime import manifest as manifests
from deploy_runtime.data import encode
from deploy_runtime.device_build import TRIED_FIRST
from deploy_runtime.errors import DeployError, GateError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.judge import passed

FROM, FOR = "packaged_from", "packaged_for"  # in provenance.options: digest of the whole bundle, the target


def rows_for(found: Manifest, target: Target) -> tuple[Candidate, ...]:
    """Return the rows of a bundle that a target opens, best first. Raises DeployError where there is none."""
    if "tensorrt" in target.backends:
        rows = to_build(found, target)
    else:
        rows = [row for row in found.candidates if row.target == target.name and row.file and _good(row)]
    if not rows:
        raise _nothing(found, target)
    return tuple(sorted(rows, key=_tried) if any(row.unrun for row in rows) else rows)


def choice_of(found: Manifest, rows: Sequence[Candidate], files: Mapping[str, int]) -> Choice:
    """Return which row stands as chosen: the bundle's own where the target has it, else by what was measured.

    `files` are the sizes in bytes of the bundle's files, for a bundle made for size.
    """
    if any(row.unrun for row in rows):
        return Choice(0, 1 if len(rows) > 1 else None, _said_of_unrun(rows))
    names = {row.name: place for place, row in enumerate(rows)}
    first = found.candidates[found.chosen].name
    if first in names:
        second = None if found.fallback is None else names.get(found.candidates[found.fallback].name)
        return Choice(names[first], second, found.verdict)
    sizes = {row.name: files[row.file] for row in rows if row.file} if found.objective == "size" else None
    try:
        return choose(rows, None, (), sizes=sizes)
    except GateError:  # nothing of it was timed
        return Choice(0, 1 if len(rows) > 1 else None, f"{rows[0].name} passes, and was not timed")


def write(folder: Path, bundle: Path, found: Manifest, target: Target) -> Manifest:
    """Write the bundle of one target into `folder`, from a bundle whose files were verified; return its manifest."""
    rows = rows_for(found, target)
    listed = {file.path: file.bytes for file in found.files}
    choice = choice_of(found, rows, listed)
    opened = {path for row in rows for path in (row.file, *row.also) if path}
    kept = [path for path in listed if path.startswith("golden/") or path == "ranges.json"]
    kept += [path for path in listed if path.removesuffix(".data") in opened]
    for path in kept:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / path, folder / path)
    tables = _tables(bundle, rows)
    names = {row.name for row in rows}
    evaluation = found.evaluation if found.evaluation and found.evaluation.candidate in names else None
    repaired = [found.repairs[name] for name in _sources(found, target) if name in found.repairs]
    options = {**found.provenance.options, FROM: manifests.digest(bundle), FOR: target.name}
    made = replace(
        found,
        name=f"{found.name}-{target.name}",
        limits={row.precision: found.limits[row.precision] for row in rows},
        candidates=rows,
        chosen=choice.chosen,
        fallback=choice.fallback,
        verdict=choice.sentence,
        provenance=replace(found.provenance, options=options),
        repairs={target.name: repaired[-1]} if repaired else {},
        evaluation=evaluation,
        files=(),
    )
    write_json(folder / "layers.json", encode(tables))
    write_json(folder / "report.json", report(found.recipe, rows, choice, evaluation))
    maps = _maps(folder, bundle, found, rows[choice.chosen])
    (folder / "report.html").write_text(page(made, tables, maps), encoding="utf-8")
    return manifests.write(folder, made)


def _maps(folder: Path, bundle: Path, found: Manifest, chosen: Candidate) -> bytes | None:
    """Take over the picture of the maps, where it is of the candidate that this package chooses."""
    if chosen.name != found.candidates[found.chosen].name or not (bundle / MAPS).is_file():
        return None
    shutil.copyfile(bundle / MAPS, folder / MAPS)
    return (folder / MAPS).read_bytes()


def to_build(found: Manifest, target: Target) -> list[Candidate]:
    """Return a row for each typed graph that the device may build from: the target's own, else another GPU's."""
    sources = [row for row in found.candidates if row.backend.startswith("tensorrt")]
    sources.sort(key=lambda row: (row.target != target.name, row.target != "rtx"))
    first = {row.precision: row for row in reversed(sources)}  # a precision that failed for the target is not another's
    shipped = {file.path for file in found.files}
    forms = {row.precision: row.also for row in reversed(sources) if row.also}
    return [
        _on_device(row, target, graph, forms.get(precision, ()))
        for precision, row in first.items()
        if precision in target.precisions["tensorrt"] and _good(row) and (graph := _graph(row)) in shipped
    ]


def _graph(row: Candidate) -> str:
    """The typed graph of a row: what TensorRT builds from is the file itself, an engine was built from one beside."""
    return row.file if row.backend == "tensorrt" and row.file else f"graphs/{row.precision}.onnx"


def _on_device(row: Candidate, target: Target, graph: str, also: tuple[str, ...]) -> Candidate:
    """The row for a device of its own: what was measured of the graph stays, what belongs to an engine goes."""
    return replace(
        row,
        backend="tensorrt",
        target=target.name,
        status="to_build",
        reason=BUILT_THERE,
        file=graph,
        coverage=None,
        speed=None,
        also=also,
    )


def _sources(found: Manifest, target: Target) -> tuple[str, ...]:
    """The targets whose INT8 graph a package may hold, that of the target itself last, which counts."""
    others = {row.target for row in found.candidates if row.backend.startswith("tensorrt")} - {target.name}
    return (*(sorted(others) if "tensorrt" in target.backends else ()), target.name)


def _good(row: Candidate) -> bool:
    return (row.status == "passed" or row.unrun) and passed(row.verdicts)


def _tried(row: Candidate) -> int:
    return TRIED_FIRST.index(row.precision) if row.precision in TRIED_FIRST else len(TRIED_FIRST)


def _said_of_unrun(rows: Sequence[Candidate]) -> str:
    """Say what is tried, and that nothing was run. The report sets the first sentence above the others."""
    order = ", ".join(row.precision for row in rows)
    tried = f" It tries {order} in this order." if len(rows) > 1 else ""
    drift = "Drift is emulated on the CPU." if all(row.emulated for row in rows) else "Drift is another engine's."
    first = f"{rows[0].name} comes first, and nothing of this package was run on hardware"
    if rows[0].status == "to_build":
        return f"{first}. The device builds its engines from the graphs.{tried} {drift}"
    return f"{first}. The engines were built and audited by the real compiler.{tried.replace('It', 'A device')} {drift}"


def _tables(bundle: Path, rows: Sequence[Candidate]) -> dict[str, tuple[Layer, ...]]:
    """Read which precision each layer got, of what was built; for a device, of what its own engine is held against.

    Those are TensorRT-RTX's engines of the same graphs; without any, another table tells which layers count.
    """
    path = bundle / "layers.json"
    stored = json.loads(path.read_bytes()) if path.is_file() else {}
    tables = {name: tuple(Layer(**one) for one in table) for name, table in stored.items()}
    if any(row.status != "to_build" for row in rows):
        return {row.name: tables.get(row.name, ()) for row in rows}
    beside = [name for row in rows if tables.get(name := f"tensorrt_rtx {row.precision}")]
    beside = beside or [name for name, table in tables.items() if table][:1]
    return {**dict.fromkeys((row.name for row in rows), ()), **{name: tables[name] for name in beside}}


def _nothing(found: Manifest, target: Target) -> DeployError:
    """Say what the bundle has for the target, and the command that would make more."""
    words = command(found)
    own = [row for row in found.candidates if row.target == target.name]
    if own:
        told = "; ".join(f"{row.name}: {row.reason or row.status}" for row in own)
        return DeployError(
            f"nothing that passed ships in {found.name} for {target.name} ({told})",
            f"See the report for what failed, or compile another precision, `--fp16` or `--int8`: {' '.join(words)}",
        )
    words += ["--target", target.name]
    where = ", on a machine with the GPU" if target.needs_driver else ""
    targets = ", ".join(dict.fromkeys(row.target for row in found.candidates))
    return DeployError(
        f"{found.name} has nothing for {target.name}: it was compiled for {targets}",
        f"Compile it for that target too{where}: {' '.join(words)}",
    )
