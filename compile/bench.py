"""Time a finished bundle's candidates beside PyTorch eager, on the machine at hand.

PyTorch is built from the recipe that the manifest names, with seeded weights: the time does not depend on their values,
and a bundle does not carry PyTorch's. A recipe of the user's own is named again with --recipe.
"""

import tempfile
from pathlib import Path

import deploy_recipes
from deploy_compile import synthetic
from deploy_compile.cache import Stages
from deploy_compile.load import load
from deploy_compile.made_from import fitted, reference
from deploy_compile.results import Benched, Built
from deploy_compile.sample_files import write
from deploy_compile.speed import time_engines
from deploy_runtime import backends, device_cache, manifest
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate

SEED = 4001


def bench_bundle(bundle: Path, ref: str | None, threads: int, budget_s: float) -> Benched:
    """Time every shipped candidate that passed and whose library is here. Raises DeployError where none can be."""
    found = manifest.read(bundle)
    manifest.verify_files(bundle, found)
    name = reference(found, ref)
    rows = [row for row in found.candidates if row.file and row.status == "passed" and not _missing(row)]
    if not rows:
        raise DeployError(f"no engine library of {bundle} is installed here", "Run `deploy-compile doctor`.")
    run = Stages(device_cache.folder(), lambda *_: None, lambda *_: None)
    loaded = run(load, deploy_recipes.resolve(name), name, found.params, "seeded", None)
    engines = [
        Built(row.backend, row.precision, row.target, "passed", "", bundle / (row.file or ""), (), 0.0) for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), [synthetic.sample(fitted(found, ref), SEED, 0)])
        speeds = time_engines(
            engines, loaded, found.inputs, found.outputs, found.batch, Path(folder), threads, budget_s
        )
    return Benched(bundle.name, found.candidates[found.chosen].name, speeds)


def _missing(row: Candidate) -> bool:
    return backends.get(row.backend).missing() is not None
