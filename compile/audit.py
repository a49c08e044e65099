"""Which precision every convolution and matrix product really got, and what share of the arithmetic that is.

Promise: every heavy node of the fp32 graph is counted exactly once, whatever the backend fused or renamed, or it is a
breach. A breach is a node whose precision is not the candidate's and that is not declared `keep_float`; one of them
rejects the candidate. The trap this exists for: builders compile a quantized graph in float, and report success.

What counts as the candidate's precision:

    fp32, bf16, fp16      that precision; a wider one is a breach too, since the speed would be another's;
                          fp16 also fp32 where declared: a value that fp16 cannot hold
    int8                  int8; float (fp32) where declared
    int8_bf16, int8_fp16  int8; the float type of the name where declared
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from deploy_compile.heavy import heavy_nodes
from deploy_compile.macs import macs
from deploy_compile.results import Audited, Built, Graph
from deploy_runtime.evidence import Coverage

UNFOUND = "not found in the layer table"


def audit(out: Path, fp32: Graph, built: Built, kept_float: Mapping[str, str]) -> Audited:  # noqa: ARG001
    """Count the layers of a built engine. A candidate that was not built has nothing to count.

    `kept_float` names the heavy nodes that stay float on purpose, with the reason. `out` is the stage's folder, unused.
    """
    if built.file is None:
        return Audited(Coverage({}, {}))
    return Audited(coverage(heavy_nodes(fp32.path), built, kept_float, macs(fp32.path)))


def coverage(
    nodes: Mapping[str, str], built: Built, kept_float: Mapping[str, str], cost: Mapping[str, int]
) -> Coverage:
    """Compare an engine's layer table with the heavy `nodes` (name -> operator), whose multiply-adds are `cost`."""
    got: dict[str, str] = {}
    for layer in built.layers:
        if layer.node not in nodes or layer.node in got:
            raise ValueError(
                f"the layer table of {built.backend} {built.precision} lists {layer.node!r} twice or for nothing"
            )
        got[layer.node] = layer.precision
    breaches = tuple(
        node if node in got else f"{node} ({UNFOUND})"
        for node in nodes
        if got.get(node) not in expected(built.precision, node in kept_float)
    )
    counted = {node: got.get(node, "unknown") for node in nodes}
    whole = sum(cost[node] for node in nodes) or 1
    shares = Counter[str]()
    for node, precision in counted.items():
        shares[precision] += cost[node]
    return Coverage(
        layers=dict(Counter(counted.values())),
        macs={precision: share / whole for precision, share in shares.items()},
        breaches=breaches,
    )


def expected(precision: str, kept: bool) -> tuple[str, ...]:
    """Return the precisions that a heavy node may get in a candidate of `precision`."""
    quantized, _, rest = precision.partition("_")
    wide = ("fp32",) if kept and "fp16" in precision else ()  # a value beyond fp16 keeps its node fp32
    if quantized != "int8":
        return (precision, *wide)
    return ("int8", rest or "fp32", *wide) if kept else ("int8",)
