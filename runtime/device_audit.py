"""Whether the engine that this device built computes in the precisions that its graph says.

The bundle's layer tables say what each heavy ONNX node became where TensorRT-RTX compiled the same graph; the device's
own inspector says what it became here. A node that is wider here is a breach; what the inspector does not tell stays
"not told", and is no pass.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from deploy_runtime import backend_tensorrt, engine_key
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.result import Outcome, Row
from deploy_runtime.tensorrt_layers import UNKNOWN

WIDTH = {"int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}  # bits


def expected(bundle: Path, precision: str) -> Mapping[str, str]:
    """Return the precision of each heavy ONNX node in the bundle's TensorRT-RTX engine of a precision.

    Where it ships none, the nodes of any other engine with the precision that the name says. Raises DeployError.
    """
    try:
        tables = json.loads((bundle / "layers.json").read_text())
        found = {name: {one["node"]: str(one["precision"]) for one in layers} for name, layers in tables.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeployError(f"{bundle / 'layers.json'} cannot be read: {error}", "Copy the bundle again.") from error
    own = found.get(f"tensorrt_rtx {precision}")
    if own:
        return own
    nodes = next((layers for layers in found.values() if layers), {})
    return dict.fromkeys(nodes, precision.partition("_")[0])


def audit(bundle: Path, found: Manifest, row: Candidate) -> Row:
    """Compare the engine of a candidate that stands on this device with what its graph says."""
    name = f"audit: {row.name}"
    if reason := backend_tensorrt.missing():
        return Row(name, "not run", f"the device audits the engine that it builds: {reason}", candidate=row.name)
    engine = engine_key.place(bundle / str(row.file), backend_tensorrt.version(), found.batch)
    made = engine_key.made(engine)
    if made is None:
        return Row(name, "not run", "no engine was built here", candidate=row.name)
    return judged(name, row, expected(bundle, row.precision), made.layers)


def judged(name: str, row: Candidate, wanted: Mapping[str, str], got: Mapping[str, str]) -> Row:
    """Judge the precisions of nodes: `wanted` by the graph, `got` on the device, UNKNOWN or absent where not told."""
    told = {node: got[node] for node in wanted if got.get(node, UNKNOWN) != UNKNOWN}
    wider = [node for node, precision in told.items() if WIDTH[precision] > WIDTH[wanted[node]]]
    counts = ", ".join(f"{count} in {precision}" for precision, count in sorted(Counter(told.values()).items()))
    silent = len(wanted) - len(told)
    text = f"heavy layers: {counts or 'none told'}" + (f"; not told: {silent} of {len(wanted)}" if silent else "")
    if wider:
        shown = ", ".join(wider[:10])
        return Row(name, "failed", f"in a wider precision than the graph says: {shown}. {text}", candidate=row.name)
    outcome: Outcome = "passed" if told else "not run"
    return Row(name, outcome, text, candidate=row.name, notice=bool(silent))
