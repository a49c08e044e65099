"""The model card of a package, in Markdown, from its manifest: what is known, measured, and not known.

Every figure stands beside its limit, or says that there is none. The trap: a card is read instead of the report, so
what speaks against using the model comes first, and what only the signer can know is left open and said to be.
"""

from collections.abc import Iterator, Mapping, Sequence

from deploy_compile import report_parts as parts
from deploy_compile.package_bundle import FROM
from deploy_compile.report_origin import ORIGIN
from deploy_compile.targets import Target
from deploy_compile.terminal import changed, notes
from deploy_runtime.evidence import Accuracy, Candidate, Evaluation, Manifest
from deploy_runtime.spec import Classes, MultiLabel, Preprocess, Tensor

MOST_LABELS = 40  # listed; more are counted
SIGNER = (
    "Left to whoever signs: which patients or procedures, which decision it supports, who reads its answer, and what "
    "it must not be used for. Nothing here was tested for that."
)


def card(made: Manifest, digest: str, evaluation: Evaluation | None, target: Target) -> str:
    """Return the card of a package. `digest` is its bundle's; `evaluation` that of the bundle it was taken from."""
    sections = (
        ("Intended use", [SIGNER]),
        ("Inputs and outputs", list(_interface(made))),
        ("Preprocessing", list(_preprocess(made))),
        ("Weights", list(_weights(made))),
        ("Calibration", list(_calibration(made))),
        ("Parity with PyTorch", list(_parity(made))),
        ("Accuracy on labelled data", list(_accuracy(made, evaluation))),
        ("Speed", list(_speed(made))),
        ("Not run on hardware", list(_not_run(made, target))),
        ("Where it comes from", list(_origin(made, digest))),
    )
    given = made.provenance.calibration
    warnings = notes(
        made.candidates,
        seeded=False,  # said above
        synthetic=given is not None and given.synthetic,
        int8=any(row.precision.startswith("int8") for row in made.candidates),
        doubts=() if given is None else given.warnings,
    )
    seeded = ["**Seeded weights: random, an architecture check and not a model to ship.**", ""]
    lines = [f"# {_plain(made.name)}", "", *(seeded if made.provenance.weights == "seeded" else [])]
    lines += [f"{_plain(made.recipe)} for {target.name}: {target.about}.", "", _plain(made.verdict), ""]
    lines += [f"- {_plain(one)}" for one in warnings]
    for title, body in sections:
        lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


def _interface(made: Manifest) -> Iterator[str]:
    rows = [("input", one) for one in made.data_inputs] + [("output", one) for one in made.data_outputs]
    yield from _table(
        ("", "name", "shape", "dtype", "layout", "unit"),
        [
            (kind, one.name, str(list(one.shape)), one.dtype, one.layout or parts.NONE, _unit(made, kind, one))
            for kind, one in rows
        ],
    )
    batch = made.batch
    yield ""
    yield f"Batch sizes: {batch.best if batch.fixed else f'{batch.least} to {batch.most}, best at {batch.best}'}."
    if made.state:
        carried = f"{parts.plural(len(made.state), 'state')} go from one chunk of frames to the next"
        yield f"It answers for a sliding window of {made.window} frames." if made.window else f"It streams: {carried}."
    if isinstance(made.task, (Classes, MultiLabel)):
        said = "one of" if isinstance(made.task, Classes) else f"each from {made.task.threshold:g} on, of"
        named = ", ".join(_plain(label) for label in made.labels[:MOST_LABELS])
        more = f" and {len(made.labels) - MOST_LABELS} more" if len(made.labels) > MOST_LABELS else ""
        yield f"Decisions: {said} {made.task.count} classes; {f'{named}{more}' if named else 'without names'}."


def _unit(made: Manifest, kind: str, tensor: Tensor) -> str:
    if kind == "input":
        return "normalised as below" if made.preprocess else "as in training: not recorded"
    deciding = isinstance(made.task, (Classes, MultiLabel)) and tensor.shape[-1] == made.task.count
    return "score of each class" if deciding else "the network's own"


def _preprocess(made: Manifest) -> Iterator[str]:
    found = made.preprocess
    if found is None:
        yield "None is recorded: give the arrays that the network was trained on."
        return
    yield "`model.prepare(frames)` does all of it, from 8-bit frames:"
    yield ""
    yield from (f"- {step}" for step in _steps(found))


def _steps(found: Preprocess) -> Iterator[str]:
    if found.frames is not None:
        yield f"{parts.plural(found.frames, 'frame')}, evenly spread over the clip"
    yield from (f"{name}: {parts.plural(count, 'of them')}" for name, count in sorted(found.pathways.items()))
    how = f"{found.interpolation}{', with antialiasing' if found.antialias else ''}"
    if found.stretch is not None:
        yield f"squeezed to {found.stretch[0]} x {found.stretch[1]} pixels, {how}"
    elif found.short_side is not None:
        yield f"the short side resized to {found.short_side} pixels, {how}"
    yield f"the centre {found.crop[0]} x {found.crop[1]} pixels cut out"
    yield f"values divided by 255, minus {_list(found.mean)}, over {_list(found.std)}, by channel"
    yield f"laid out as {found.layout}"


def _weights(made: Manifest) -> Iterator[str]:
    said = made.provenance
    yield f"- {ORIGIN.get(said.weights, said.weights)}"
    yield f"- {parts.plural(said.parameters, 'parameter')}"
    yield f"- sha256 `{said.weights_sha256}`"


def _calibration(made: Manifest) -> Iterator[str]:
    found = made.provenance.calibration
    if found is None:
        yield "Nothing was quantized: none."
        return
    source = "synthetic, no real one among them" if found.synthetic else f"from {parts.plural(found.sources, 'source')}"
    yield f"- {parts.plural(found.samples, 'sample')}, {source}; algorithm {found.algorithm}"
    yield f"- digest `{found.digest}`"
    yield from (f"- doubtful: {_plain(one)}" for one in found.warnings)


def _parity(made: Manifest) -> Iterator[str]:
    yield f"Over held-out samples: {_plain(made.provenance.held_out)}. Every measured value beside its limit:"
    yield ""
    rows = [
        (
            row.name, "emulated" if row.emulated else "run", one.output, parts.METRICS.get(one.metric, one.metric),
            parts.with_unit(one.metric, one.value), parts.allowed(one), "passed" if one.passed else "FAILED",
        )
        for row in made.candidates for one in row.verdicts
    ]  # fmt: skip
    yield from _table(("engine", "how", "output", "metric", "measured", "limit", "verdict"), rows)
    reasons = {one.reason: None for limit in made.limits.values() for one in (limit, *limit.outputs.values())}
    if told := [_plain(reason) for reason in reasons if reason]:
        yield ""
        yield f"Limits of their own, with the reason: {'; '.join(told)}."


def _accuracy(made: Manifest, found: Evaluation | None) -> Iterator[str]:
    if found is None:
        yield "Not measured: parity says that it answers as PyTorch does, not that PyTorch is right."
        return
    here = found.candidate in {row.name for row in made.candidates}
    where = "" if here else ", which is not in this package: no engine here was measured on labelled data"
    yield f"{parts.plural(found.samples, 'sample')}, {parts.plural(found.decisions, 'decision')}."
    yield f"The engine is {found.candidate}{where}. The {changed(found)}."
    yield ""
    rows = [
        ("accuracy", *(parts.percent(one.accuracy) for one in (found.torch, found.engine))),
        ("AUROC, one against the rest", *(parts.plain(one.auroc) for one in (found.torch, found.engine))),
        ("expected calibration error", *(parts.plain(one.calibration_error) for one in (found.torch, found.engine))),
        *_recalls(found.torch, found.engine, made.labels),
    ]
    yield from _table(("measure (95 % interval)", "PyTorch", found.candidate), rows)


def _recalls(torch: Accuracy, engine: Accuracy, labels: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for place, (before, after) in enumerate(zip(torch.recall[:MOST_LABELS], engine.recall, strict=False)):
        name = labels[place] if labels else f"class {place}"
        counted = parts.plural(before.samples, "decision")
        yield f"recall of {name} ({counted})", parts.percent(before.recall), parts.percent(after.recall)


def _speed(made: Manifest) -> Iterator[str]:
    timed = [(row, row.speed) for row in made.candidates if row.speed is not None]
    if not timed:
        yield "Not measured for this target: `reselect` on the device times what passes there."
        return
    machine: Mapping[str, str] = made.provenance.machine
    first = timed[0][1]
    where = _plain(machine.get("cpu", "a processor that is not named"))
    yield f"Measured with a batch of {made.batch.best} and {parts.plural(first.threads, 'thread')}, interleaved with"
    yield f"PyTorch eager, on the machine that built the bundle: {where}. Another one has other times."
    yield ""
    rows = [
        (row.name, parts.milliseconds(speed.p50_ms), parts.milliseconds(speed.p90_ms),
         f"{speed.ratio:.2f} ({speed.low:.2f} to {speed.high:.2f})")
        for row, speed in timed
    ]  # fmt: skip
    yield from _table(("engine", "median", "90 % below", "x PyTorch (95 %)"), rows)


def _not_run(made: Manifest, target: Target) -> Iterator[str]:
    rows = [row for row in made.candidates if row.unrun]
    if not rows:
        yield "Nothing: every engine here was run on the machine that built the bundle."
        return
    yield from (f"- {_open(row)}" for row in rows)
    yield from (f"- {remark}" for remark in target.remarks)


def _open(row: Candidate) -> str:
    what = "the device builds it" if row.status == "to_build" else "built and audited by the real compiler"
    return f"{row.name}: {what}; drift {'emulated on the CPU' if row.emulated else 'of another engine'}, speed unknown"


def _origin(made: Manifest, digest: str) -> Iterator[str]:
    said = made.provenance
    params = ", ".join(f"{name}={value}" for name, value in sorted(made.params.items()))
    yield f"- recipe {_plain(made.recipe)}, {_plain(made.family)} family{f', {_plain(params)}' if params else ''}"
    yield f"- made {said.created} with deploy-compile {said.versions.get('deploy-compile', 'of an unknown version')}"
    yield f"- sha256 of the manifest `{digest}`, taken from the bundle `{said.options[FROM]}`"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"| {' | '.join('---' for _ in headings)} |"
    yield from (f"| {' | '.join(_plain(cell) for cell in row)} |" for row in rows)


def _plain(words: str) -> str:
    """Keep words of a manifest on one line and out of Markdown's and HTML's own signs."""
    one_line = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    return one_line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
