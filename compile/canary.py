"""Batch canaries: what the batch axis promises, tried on the fp32 graph at batch 3 before anything is built on it.

Permuting the batch must permute the outputs, and a batch of three must give what three single runs give. A network
that mixes samples (a batch statistic, a reshape that folds the batch into another axis, a batch size frozen by the
trace) fails here, by name, and not in a theatre. The trap: three equal samples would prove nothing, so they differ.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy_compile import synthetic
from deploy_compile.results import Graph
from deploy_recipes.recipe import Recipe
from deploy_runtime.errors import GateError

BATCH = 3
ORDER = [2, 0, 1]
SEED = 3001
# max |difference| / max |output|: other batch sizes block their sums differently. Mixed samples differ by about 1.
MOST_RELATIVE = 1e-3


@dataclass(frozen=True)
class Canaries:
    """Largest relative differences found, over all outputs; both are judged by MOST_RELATIVE."""

    permuted: float
    alone: float


def canaries(out: Path, graph: Graph, recipe: Recipe) -> Canaries:  # noqa: ARG001 - a stage; it writes nothing
    """Run the canaries. Raises GateError where a sample's answer depends on its neighbours or its place."""
    samples = [synthetic.sample(recipe, SEED, i, carried=True) for i in range(BATCH)]
    session = _session(graph.path)
    together = _run(session, samples)
    for tensor in recipe.outputs:
        if together[tensor.name].shape != tensor.at(BATCH):
            raise GateError(
                f"{recipe.name}: {tensor.name} has the shape {list(together[tensor.name].shape)} at batch {BATCH} and "
                f"should have {list(tensor.at(BATCH))}",
                "Correct the outputs of the recipe, or look for reshapes that fold the batch into another axis.",
            )
    permuted = _run(session, [samples[i] for i in ORDER])
    alone = {name: np.concatenate([_run(session, [s])[name] for s in samples]) for name in together}
    found = Canaries(
        permuted=max(_relative(together[name][ORDER], permuted[name]) for name in together),
        alone=max(_relative(together[name], alone[name]) for name in together),
    )
    for what, value in (("permuting the batch", found.permuted), ("running samples one by one", found.alone)):
        if not value <= MOST_RELATIVE:
            raise GateError(
                f"{recipe.name}: {what} changes the answers by {value:.2g} of their scale",
                "A sample's answer must not depend on its batch: look for reshapes and statistics over the batch axis.",
            )
    return found


def _session(path: Path):  # type: ignore[no-untyped-def]
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session, samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]
    feed = {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def _relative(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return float("inf")
    scale = max(float(np.abs(one).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(one - other).max()) / scale
