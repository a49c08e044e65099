"""The command that made a bundle, from what its manifest records. Words in capitals stand for the user's own files."""

import shlex

import deploy_recipes
from deploy_compile import uncertainty
from deploy_compile.options import MOST_CALIBRATION
from deploy_runtime.evidence import Manifest


def command(manifest: Manifest) -> list[str]:
    """Return the words of the `deploy-compile recipe` line, quoted for a shell; paths, never recorded, are DIR, ..."""
    said = manifest.provenance.options
    words = ["deploy-compile", "recipe", _recipe(manifest)]
    for name, value in sorted(manifest.params.items()):
        words += ["--param", f"{name}={value}"]
    words += _weights(said.get("weights", manifest.provenance.weights), said.get("uncertainty", "none"))
    words += [f"--{precision}" for precision in ("fp16", "int8") if precision in said.get("precisions", "").split()]
    words += _given("--require", said.get("require", ""))
    if said.get("calibration") == "folder":
        words += ["--calibration", "DIR"]
    words += _given("--calibration-algorithm", said.get("calibration_algorithm", "auto"), "auto")
    words += _given("--calibration-samples", said.get("calibration_samples", ""), str(MOST_CALIBRATION))
    if not manifest.golden.synthetic:
        words.append("--ship-samples")
    if manifest.labels and manifest.labels != _own_labels(manifest):
        words += ["--labels", "NAMES.txt"]
    if said.get("evaluate") == "folder":
        words += ["--evaluate", "LABELLED", "--labels", "TRUTH.csv", *_given("--max-drop", said.get("max_drop", ""))]
    for target in said.get("targets", "").split():
        words += ["--target", target]
    for capability in said.get("compute_capabilities", "").split():
        words += ["--compute-capability", capability]
    batch = manifest.batch
    words += _given("--batch", str(batch.best) if batch.fixed else f"{batch.least}:{batch.best}:{batch.most}", "1")
    words += _given("--exporter", said.get("exporter", ""), "the recipe's")
    words += _given("--threads", said.get("threads", ""))
    words += _given("--objective", manifest.objective, "latency")
    return [shlex.quote(word) for word in words]


def _recipe(manifest: Manifest) -> str:
    return manifest.recipe if manifest.recipe in deploy_recipes.names() else f"FILE.py:{manifest.recipe}"


def _own_labels(manifest: Manifest) -> tuple[str, ...]:
    """Return the labels that the recipe itself states; none of one that is not ours, where naming them does no harm."""
    return deploy_recipes.get(manifest.recipe).labels if manifest.recipe in deploy_recipes.names() else ()


def _weights(weights: str, how: str) -> list[str]:
    options = uncertainty.options(how)
    if "--ensemble" in options:
        return options
    return [*_given("--weights", "WEIGHTS.pt" if weights == "file" else weights, "seeded"), *options]


def _given(option: str, value: str, usual: str = "") -> list[str]:
    return [] if value in ("", usual) else [option, value]
