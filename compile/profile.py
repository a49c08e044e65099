"""How long each heavy layer takes on this processor, in float and in INT8, from OpenVINO's own counters.

For weighing layers against each other, not for figures that anybody reads: counting costs time, and a layer's time
contains what was fused into it. Both graphs run in one process, in turns.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from deploy_compile.build_openvino import facts, heavy_of
from deploy_compile.heavy import heavy_aliases, heavy_nodes
from deploy_compile.results import Graph
from deploy_compile.rewrite_openvino import rewrite
from deploy_compile.worker import call
from deploy_runtime import backend_openvino
from deploy_runtime.spec import Tensor

TURNS = 7
PROFILE_S = 900.0  # the longest that it may take


def profile(out: Path, fp32: Graph, int8: Graph, inputs: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
    """Return milliseconds of each heavy node in float and in INT8, on one thread at batch 1.

    `out` takes what OpenVINO needs rewritten. Raises Crashed where OpenVINO does not survive it.
    """
    function = "deploy_compile.profile:run"
    found: dict[str, tuple[float, float]] = call(
        function, out, fp32.path, int8.path, tuple(inputs), timeout_s=PROFILE_S, threads=1
    )
    return found


def run(out: Path, fp32: Path, int8: Path, inputs: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
    """Run in the worker."""
    rng = np.random.default_rng(0)
    given = {tensor.name: rng.standard_normal(tensor.at(1)).astype(tensor.dtype) for tensor in inputs}
    nodes, aliases = heavy_nodes(fp32), heavy_aliases(fp32)
    both = [_Counted(path, inputs, nodes, aliases) for path in (fp32, rewrite(int8, out / "profiled.onnx"))]
    for _ in range(TURNS):
        for graph in both:
            graph.turn(given)
    times = [graph.milliseconds() for graph in both]
    return {node: (times[0][node], times[1][node]) for node in nodes if all(node in time for time in times)}


class _Counted:
    """A compiled graph whose layers are counted, and to which heavy nodes each of them belongs."""

    def __init__(
        self, path: Path, inputs: Sequence[Tensor], nodes: Mapping[str, str], aliases: Mapping[str, str]
    ) -> None:
        import openvino  # type: ignore[import-untyped]

        core: Any = openvino.Core()
        model = core.read_model(path)
        model.reshape({tensor.name: list(tensor.at(1)) for tensor in inputs})
        compiled = core.compile_model(model, "CPU", {**backend_openvino.settings("fp32", 1), "PERF_COUNT": True})
        self._request = compiled.create_infer_request()
        self._heavy = {
            operator.get_friendly_name(): heavy_of(facts(operator), nodes, aliases)
            for operator in compiled.get_runtime_model().get_ordered_ops()
        }
        self._seen: dict[str, list[float]] = defaultdict(list)

    def turn(self, given: dict[str, np.ndarray]) -> None:
        self._request.infer(given)
        spent: dict[str, float] = defaultdict(float)
        for counted in self._request.profiling_info:
            heavy = self._heavy.get(counted.node_name, ())
            for node in heavy:
                spent[node] += counted.real_time.total_seconds() * 1e3 / len(heavy)
        for node, milliseconds in spent.items():
            self._seen[node].append(milliseconds)

    def milliseconds(self) -> dict[str, float]:
        return {node: median(seen) for node, seen in self._seen.items()}
