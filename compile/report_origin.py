"""The report on where it all comes from: calibration, weights, machine, the command again, and what nobody has run."""

from xml.etree.ElementTree import Element

from deploy_compile import report_parts as parts
from deploy_compile.markup import Child, el
from deploy_compile.reproduce import command
from deploy_runtime.evidence import Manifest

ORIGIN = {
    "seeded": "seeded: random, an architecture check and not a model to ship",
    "file": "the user's checkpoint",
    "pretrained": "published",
}
BUILT = "Compiled and audited by the real compiler, never run: the machine that built them has no such hardware. "
TO_BUILD = "What belongs to one device is built there, from the graph that ships: nothing of it was run. "
CHECKS = "python -m deploy_runtime verify BUNDLE\npython -m deploy_runtime check BUNDLE\ndeploy-compile bench BUNDLE"


def calibration(manifest: Manifest) -> Element:
    """Where the INT8 ranges come from, and what is doubtful about that."""
    found, golden = manifest.provenance.calibration, manifest.golden
    kind = "synthetic" if golden.synthetic else "real samples, shipped on request"
    rows: list[tuple[str, Child]] = [
        ("held out", manifest.provenance.held_out),
        ("golden set", f"{parts.plural(golden.samples, 'sample')}, {kind}"),
    ]
    rows += [
        (f"fp32 from fp64, {name}", f"at most {distance:.3g} in the output's units: PyTorch's own rounding")
        for name, distance in sorted(golden.fp64_distance.items())
    ]
    if found is None:
        nothing = el("p", "No INT8 was asked for: nothing was calibrated.")
        return parts.section("calibration", "Calibration", nothing, parts.facts(rows))
    source = "synthetic: no real one among them" if found.synthetic else f"from {parts.plural(found.sources, 'source')}"
    given: list[tuple[str, Child]] = [
        ("samples", f"{parts.plural(found.samples, 'sample')}, {source}"),
        ("algorithm", found.algorithm),
        ("digest", el("code", found.digest)),
    ]
    doubts = el("ul", *(el("li", one) for one in found.warnings), class_="notes") if found.warnings else None
    return parts.section("calibration", "Calibration", doubts, parts.facts([*given, *rows]))


def provenance(manifest: Manifest) -> Element:
    """What the bundle was made from and with."""
    made = manifest.provenance
    params = ", ".join(f"{name}={value}" for name, value in sorted(manifest.params.items()))
    rows: list[tuple[str, Child]] = [
        ("recipe", f"{manifest.recipe}, {manifest.family} family"),
        ("its parameters", params or "as the recipe states"),
        ("weights", f"{ORIGIN.get(made.weights, made.weights)}; {parts.plural(made.parameters, 'parameter')}"),
        ("sha256 of the weights", el("code", made.weights_sha256)),
        ("made", made.created),
    ]
    lists = (("Machine", made.machine), ("Versions", made.versions), ("Options", made.options))
    return parts.section(
        "provenance",
        "Provenance",
        parts.facts(rows),
        *(
            parts.folded(title, parts.facts([(name, value or parts.NONE) for name, value in sorted(found.items())]))
            for title, found in lists
        ),
    )


def reproduce(manifest: Manifest) -> Element:
    """The command that makes it again, and those that check it."""
    line: list[Child] = []
    for word in command(manifest):
        line += [el("span", word, class_="word"), " "]  # a word of its own stays on one line where it fits
    return parts.section(
        "reproduce",
        "How to make it again",
        el("pre", *line[:-1]),
        el(
            "p",
            "Words in capitals stand for your own files: no name of one is recorded, nor ",
            el("code", "--keys"),
            " where the checkpoint needed it. The weights and samples are the same where the digests above are.",
        ),
        el("h3", "How to check it"),
        el(
            "p",
            "The digests, with the golden samples on your machine; all gates, for CI; the times again, beside PyTorch:",
        ),
        el("pre", CHECKS),
    )


def not_run(manifest: Manifest) -> Element:
    """What was built for hardware that was not there."""
    rows = [row for row in manifest.candidates if row.unrun]
    title = "Not run on hardware"
    if not rows:
        return parts.section(
            "not-run", title, el("p", "Nothing: every engine above was run on the machine that built it.")
        )
    body: list[list[Child]] = [
        [
            row.name,
            row.target,
            "emulated on the CPU" if row.emulated else "not measured",
            el("code", row.file, class_="file") if row.file else "not shipped",
        ]
        for row in rows
    ]
    return parts.section(
        "not-run",
        title,
        el(
            "p",
            BUILT if any(row.status == "built_not_run" for row in rows) else None,
            TO_BUILD if any(row.status == "to_build" for row in rows) else None,
            "Their speed is not known; ",
            el("code", "verify"),
            " on the device runs them.",
        ),
        parts.table(("candidate", "target", "drift", "file"), body, "Built or to build, not run"),
    )
