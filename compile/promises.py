"""What a stage that writes a graph promises, checked where it hands the graph over: a breach names the stage.

The graph passes onnx.checker, has the names, shapes and dtypes of the graph (or the recipe) it was made from, opset 19
or newer, IR 10 or older, uniquely named nodes, and for INT8 the Q/DQ nodes it says it has. A breach is our bug and so
no DeployError.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy_compile.results import Graph
from deploy_recipes.recipe import Recipe

LEAST_OPSET = 19  # the first with fp16 scales in QuantizeLinear and DequantizeLinear
MOST_IR = 10  # what ONNX Runtime 1.19 to 1.31 and the TensorRT 10.3 parser read


class BrokenPromiseError(Exception):
    """A stage made something else than it promised."""


def check(stage: str, args: Sequence[Any], result: Any) -> None:
    """Check a stage's result, when it is or has a graph, against the recipe or the graph that the stage was given."""
    graph = result if isinstance(result, Graph) else getattr(result, "graph", None)
    if not isinstance(graph, Graph):
        return
    faults = [*_faults(graph), *_interface_faults(args, graph)]
    if faults:
        raise BrokenPromiseError(f"stage {stage} broke its promise: {'; '.join(faults)}")


def _faults(result: Graph) -> list[str]:
    import onnx

    onnx.checker.check_model(str(result.path))
    model = onnx.load(result.path, load_external_data=False)
    names = [node.name for node in model.graph.node]
    counted = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    return [
        text
        for broken, text in (
            (opset < LEAST_OPSET, f"opset {opset} is older than {LEAST_OPSET}"),
            (model.ir_version > MOST_IR, f"IR {model.ir_version} is newer than {MOST_IR}"),
            (len(set(names)) != len(names) or "" in names, "node names are not unique"),
            (bool(counted) != result.precision.startswith("int8"), f"{counted} QuantizeLinear at {result.precision}"),
            (len(model.graph.node) != result.nodes, f"{len(model.graph.node)} nodes, {result.nodes} said"),
        )
        if broken
    ]


def _interface_faults(args: Sequence[Any], result: Graph) -> list[str]:
    found = interface(result.path)
    for given in args:
        if isinstance(given, Recipe):
            tensors = (*given.inputs, *given.outputs)
            wanted = tuple((tensor.name, tensor.dtype, given.graph_shape(tensor)) for tensor in tensors)
            return [] if found == wanted else [f"inputs and outputs are {found}, the recipe says {wanted}"]
        if isinstance(given, Graph):
            wanted = interface(given.path)
            return [] if found == wanted else [f"inputs and outputs are {found}, were {wanted}"]
    return []


def interface(path: Path) -> tuple[tuple[str, str, tuple[int | str, ...]], ...]:
    """Return name, dtype and shape of a graph's inputs and outputs, in order."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    found = []
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        dims = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
        found.append((value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, dims))
    return tuple(found)
