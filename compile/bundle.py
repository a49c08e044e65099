"""Write the bundle: manifest, graphs, engines, golden set, layer tables, report. Written once, never changed.

The stage writes into the cache; `deliver` copies it to where the user wants it, whole or not at all. A CPU backend
ships the portable graph, which the device compiles on first load; every candidate of a CPU target that passed ships,
so that another machine can choose again. A GPU target ships the asked precisions' engines and their typed graphs.
"""

import contextlib
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from deploy_compile.disk import replacing_folder
from deploy_compile.fingerprint import LIBRARIES
from deploy_compile.machine import facts, versions
from deploy_compile.options import Options
from deploy_compile.report_html import page
from deploy_compile.report_maps import NAME, picture
from deploy_compile.results import Built, Bundled, Choice, Graph, Loaded, Reference, Samples
from deploy_compile.results_int8 import Ranges
from deploy_compile.sample_files import load, save, stacked
from deploy_compile.targets import GRAPH_OF, get
from deploy_recipes.recipe import Recipe
from deploy_runtime import manifest as manifests
from deploy_runtime.data import encode
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Calibration, Candidate, Evaluation, Golden, Manifest, Provenance, Repair


def bundle(
    out: Path,
    options: Options,
    recipe: Recipe,
    loaded: Loaded,
    samples: Samples,
    reference: Reference,
    graphs: Sequence[Graph],
    ranges: Ranges | None,
    engines: Sequence[Built],
    rows: Sequence[Candidate],
    repairs: Mapping[str, Repair],
    evaluation: Evaluation | None,
    choice: Choice,
    answers: Path | None,
) -> Bundled:
    """Write a bundle of everything measured. `engines` and `rows` are in the same order.

    `answers` are those of the chosen candidate to the golden samples, for the picture of a map.
    """
    folder = out / "bundle"
    folder.mkdir()
    rows = tuple(
        _shipped(folder, row, engine, graphs) if _ships(row, options) else row
        for row, engine in zip(rows, engines, strict=True)
    )
    _write_golden(folder, samples, reference)
    tables = {row.name: engine.layers for row, engine in zip(rows, engines, strict=True)}
    write_json(folder / "layers.json", encode(tables))
    write_json(folder / "report.json", report(recipe.name, rows, choice, evaluation))
    if ranges is not None and options.int8:
        write_json(folder / "ranges.json", encode(ranges.tensors))
    calibrated = options.int8
    manifest = Manifest(
        format=manifests.FORMAT,
        name=options.folder_name,
        recipe=recipe.name,
        family=recipe.family,
        params=dict(options.params),
        inputs=recipe.inputs,
        outputs=recipe.outputs,
        task=recipe.task,
        preprocess=recipe.preprocess,
        labels=recipe.labels,
        batch=options.batch,
        limits={row.precision: recipe.limit(row.precision) for row in rows},
        candidates=rows,
        chosen=choice.chosen,
        fallback=choice.fallback,
        verdict=choice.sentence,
        golden=Golden(_count(samples.golden), samples.golden_synthetic, reference.fp64_distance),
        provenance=_provenance(options, loaded, samples, samples.provenance if calibrated else None),
        objective=options.objective,
        state=recipe.state,
        repairs=repairs,
        evaluation=evaluation,
    )
    maps = None
    if answers is not None:
        maps = picture(recipe, stacked(samples.golden), stacked(reference.golden), load(answers))
    if maps is not None:
        (folder / NAME).write_bytes(maps)
    (folder / "report.html").write_text(page(manifest, tables, maps), encoding="utf-8")  # before its digest is taken
    manifests.write(folder, manifest)
    return Bundled(folder, manifests.digest(folder))


def deliver(bundled: Bundled, target: Path, force: bool) -> bool:
    """Copy the bundle to `target`, whole or not at all; False where it already stands there.

    Raises DeployError where another bundle stands there and `force` does not allow to replace it.
    """
    if _same(bundled, target):
        return False
    if _occupied(target) and not force:
        raise DeployError(
            f"{target} holds another bundle than this command makes",
            "Give --force to replace it, or --out for another folder: a bundle is never changed once written.",
        )
    with replacing_folder(target) as partial:
        shutil.copytree(bundled.folder, partial, dirs_exist_ok=True)
    return True


def check_target(target: Path) -> None:
    """Refuse an output folder before hours of work, not after: one that cannot be written or holds something else."""
    if _occupied(target) and not (target / manifests.NAME).is_file():
        raise DeployError(
            f"{target} holds something else than a bundle",
            "Give --out a folder that does not exist yet; not even --force replaces what is no bundle.",
        )
    parent = next(place for place in target.absolute().parents if place.exists())
    probe = parent / f".deploy-compile-{secrets.token_hex(4)}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise DeployError(
            f"the bundle cannot be written to {target}: {error.strerror}", "Give --out a folder that can be written."
        ) from error


def _occupied(target: Path) -> bool:
    return target.exists() and (not target.is_dir() or any(target.iterdir()))


def _same(bundled: Bundled, target: Path) -> bool:
    with contextlib.suppress(DeployError, OSError):
        manifests.verify_files(target, manifests.read(target))
        return manifests.digest(target) == bundled.digest
    return False


def report(name: str, rows: Sequence[Candidate], choice: Choice, evaluation: Evaluation | None) -> dict[str, object]:
    """The facts of a run as one plain object: what `recipe --json` prints and `report.json` holds.

    Accuracy on labelled samples comes first, where there are any: it is what a signer reads first.
    """
    chosen = rows[choice.chosen]
    return {
        **({} if evaluation is None else {"accuracy": encode(evaluation)}),
        "recipe": name,
        "verdict": choice.sentence,
        "chosen": {"backend": chosen.backend, "precision": chosen.precision, "why": choice.sentence},
        "candidates": [encode(row) for row in rows],
    }


def _ships(row: Candidate, options: Options) -> bool:
    if row.status == "passed":
        return True
    if not row.unrun or (not any(v.passed for v in row.verdicts or ()) and row.emulated):
        return False
    if row.status == "to_build":
        return True  # each is the next one's fallback on the device
    wanted = {"fp16": options.fp16, "int8_fp16": options.int8, "fp32": not (options.fp16 or options.int8)}
    alone = len(get(row.target).precisions[row.backend]) == 1  # what a target has one of was asked for with it
    return alone or wanted.get(row.precision, False) or row.precision == options.require


def _shipped(folder: Path, row: Candidate, engine: Built, graphs: Sequence[Graph]) -> Candidate:
    """Copy what a candidate is opened from, and for a device to build also the other forms of its graph."""
    file = _ship(folder, engine, graphs)
    if row.status != "to_build":
        return replace(row, file=file)
    other = [graph for graph in graphs if graph.precision == row.precision and graph.form == "fp32_scales"]
    names = tuple(f"graphs/{graph.precision}.{graph.form}.onnx" for graph in other)
    for name, graph in zip(names, other, strict=True):
        _copy(graph.path, folder / name)
    return replace(row, file=file, also=names)


def _ship(folder: Path, engine: Built, graphs: Sequence[Graph]) -> str:
    """Copy what the backend opens, and for a GPU its typed graph, into the bundle; the relative path of the first."""
    assert engine.file is not None
    on_gpu = engine.target != "cpu"
    if on_gpu:
        graph = next(graph for graph in graphs if graph.precision == engine.precision and not graph.form)
        typed = f"graphs/{graph.precision}.onnx"
        _copy(graph.path, folder / typed)
        if engine.backend == "tensorrt":
            return typed  # the device builds its engine from it
    same = next((g for g in graphs if g.path == engine.file or _equal(g.path, engine.file)), None)
    if on_gpu:  # two targets of one backend have engines of their own
        of = "" if engine.target in ("rtx", "cuda") else f".{engine.target}"
        name = f"engines/{engine.precision}.{engine.backend}{of}.engine"
    elif same:
        name = f"graphs/{same.precision}{'.' if same.form else ''}{same.form}.onnx"
    else:
        name = f"graphs/{GRAPH_OF.get(engine.precision, engine.precision)}.{engine.backend}.onnx"
    _copy(engine.file, folder / name)
    return name


def _equal(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    data = source.with_name(f"{source.name}.data")  # the weights of a graph above 2 GiB
    if data.exists():
        shutil.copyfile(data, target.parent / data.name)


def _write_golden(folder: Path, samples: Samples, reference: Reference) -> None:
    (folder / "golden").mkdir()
    save(folder / "golden" / "inputs.npz", stacked(samples.golden))
    save(folder / "golden" / "outputs.npz", stacked(reference.golden))


def write_json(path: Path, data: object) -> None:
    """Write JSON as a bundle holds it: keys sorted, no NaN."""
    path.write_text(json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _count(folder: Path) -> int:
    return len(list(folder.glob("*.npz")))


def _provenance(options: Options, loaded: Loaded, samples: Samples, calibration: Calibration | None) -> Provenance:
    return Provenance(
        weights=loaded.origin,
        weights_sha256=loaded.sha256,
        parameters=loaded.parameters,
        calibration=calibration,
        held_out=samples.held_out_note,
        versions=versions("deploy-compile", *LIBRARIES),
        machine=facts(),
        options=options.said(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
