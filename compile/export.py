"""PyTorch module to ONNX graph: opset 19, symbolic `batch` axis, the recipe's input and output names.

The TorchScript exporter is the default (1.3 to 70 times faster than dynamo at equal parity); a recipe may name dynamo.
Traps: dynamo merges example inputs that are one tensor object and silently wires both names to the last of them; the
TorchScript exporter cannot trace the fast path of nn.MultiheadAttention. Both are ruled out here.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.jit._trace import TracerWarning, TracingCheckError

from deploy_compile import load, onnx_graph, synthetic
from deploy_compile.results import Graph, Loaded
from deploy_recipes.recipe import Recipe
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Tensor

OPSET = 19  # the first whose QuantizeLinear takes fp16 scales, and one that TensorRT 10.3 still reads
IR_VERSION = 10  # the newest that TensorRT 10.3's parser and ONNX Runtime 1.18 read
EXAMPLE_SEED = 2001
# Warnings about what we chose knowingly, or what a later stage sees to.
KNOWN: tuple[tuple[str, type[Warning]], ...] = (
    ("You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
    ("The feature will be removed", DeprecationWarning),  # its own helpers
    (".*torch.jit.*is deprecated", FutureWarning),
    (".*torch.jit.*is deprecated", DeprecationWarning),
    ("Constant folding - Only steps=1", UserWarning),  # of a pad: onnxsim folds it
    ("Exporting a model to ONNX with a batch_size other than 1", UserWarning),  # recurrent nets: the canaries look
    ("# The axis name: (batch|time) will not be used", UserWarning),  # all inputs share it
    ("", TracerWarning),
)
EXPORTERS = ("torchscript", "dynamo")


def export(out: Path, loaded: Loaded, recipe: Recipe, exporter: str = "torchscript") -> Graph:
    """Export a loaded network as `out/fp32.onnx`. Raises DeployError where the network cannot be traced as it is."""
    if exporter not in EXPORTERS:
        raise DeployError(f"there is no exporter {exporter!r}", f"Use one of {', '.join(EXPORTERS)}.")
    if exporter == "dynamo" and find_spec("onnxscript") is None:
        raise DeployError("the dynamo exporter needs onnxscript, which is not installed", "pip install onnxscript")
    net = load.module(loaded)
    examples = _examples(recipe)
    path = out / "fp32.onnx"
    scratch = out / "export"  # above 2 GiB the TorchScript exporter writes a file per weight
    scratch.mkdir()
    with _traceable():
        _check_outputs(net, examples, recipe)
        try:
            _write(net, examples, recipe, exporter, scratch / "raw.onnx")
        except (
            torch.onnx.OnnxExporterError,
            torch.onnx.errors.UnsupportedOperatorError,
            TracingCheckError,
        ) as error:
            raise DeployError(
                f"{recipe.name} cannot be exported with {exporter}: {str(error).strip().splitlines()[0]}",
                f"Set exporter={_other(exporter)!r} in the recipe, or write that layer with other operators.",
            ) from error
    _pack(scratch, path, recipe)
    return describe(path, recipe)


def describe(path: Path, recipe: Recipe, precision: str = "fp32") -> Graph:
    """Check a float graph against its promise and count its nodes. Raises ValueError where the promise is broken."""
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    opset = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if opset != OPSET or model.ir_version > IR_VERSION:
        raise ValueError(f"the graph has opset {opset} and IR {model.ir_version}, not {OPSET} and at most {IR_VERSION}")
    for kind, promised, given in (
        ("inputs", recipe.inputs, model.graph.input),
        ("outputs", recipe.outputs, model.graph.output),
    ):
        wanted = [(tensor.name, recipe.graph_shape(tensor)) for tensor in promised]
        found = [(value.name, _shape(value)) for value in given]
        if wanted != found:
            raise ValueError(f"the graph's {kind} are {found}, not {wanted}")
    return Graph(
        path=path,
        precision=precision,
        nodes=len(model.graph.node),
        heavy=sum(node.op_type in onnx_graph.HEAVY for node in model.graph.node),
        quantized=0,
        kept_float={},
    )


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph in one file, or above 2 GiB with all its weights in one more beside it."""
    name_nodes(model)
    onnx_graph.save(model, path)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node without a name, or with one already taken, a name from its operator and output."""
    taken: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in taken:
            base = name = f"/{node.op_type}/{next(filter(None, node.output))}"
            number = 1
            while name in taken:
                name, number = f"{base}_{number}", number + 1
            node.name = name
        taken.add(node.name)


def _examples(recipe: Recipe) -> tuple[torch.Tensor, ...]:
    """Return one example for each input: distinct objects with distinct contents, none of them zero."""
    sample = synthetic.sample(recipe, EXAMPLE_SEED, 0, carried=True)
    examples = tuple(torch.from_numpy(sample[tensor.name]) for tensor in recipe.inputs)
    if len({id(tensor) for tensor in examples}) != len(examples) or not all(tensor.any() for tensor in examples):
        raise ValueError("example inputs must be distinct tensors with contents other than zero")
    return examples


def _check_outputs(net: nn.Module, examples: Sequence[torch.Tensor], recipe: Recipe) -> None:
    """Raise DeployError where the network does not take or give what the recipe says."""
    try:
        with torch.inference_mode():
            given = net(*examples)
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = ", ".join(f"{tensor.name} {list(tensor.at(1))}" for tensor in recipe.inputs)
        raise DeployError(
            f"{recipe.name} does not take its inputs ({shapes}): {str(error).strip().splitlines()[0]}",
            "Correct the recipe's inputs, or the network's forward.",
        ) from error
    outputs = given if isinstance(given, (tuple, list)) else (given,)
    found = [list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__ for value in outputs]
    wanted = [list(tensor.at(1)) for tensor in recipe.outputs]
    if found != wanted:
        raise DeployError(
            f"{recipe.name} gives {found} where its recipe says {wanted}",
            "Correct the recipe's outputs, or have the network return one tensor, or a tuple, of these shapes.",
        )


def _write(net: nn.Module, examples: tuple[torch.Tensor, ...], recipe: Recipe, exporter: str, path: Path) -> None:
    names = [tensor.name for tensor in recipe.inputs], [tensor.name for tensor in recipe.outputs]
    if exporter == "dynamo":
        two = tuple(torch.cat([tensor, tensor.flip(-1)]) for tensor in examples)  # a batch of 1 is specialised
        dims = tuple(
            {axis: torch.export.Dim(name, min=1) for axis, name in _open(recipe, tensor).items()} or None
            for tensor in recipe.inputs
        )
        torch.onnx.export(
            net, two, path, input_names=names[0], output_names=names[1], opset_version=OPSET, dynamo=True,
            dynamic_shapes=dims, external_data=False, verbose=False,
        )  # fmt: skip
        return
    tensors = (*recipe.inputs, *recipe.outputs)
    axes = {tensor.name: found for tensor in tensors if (found := _open(recipe, tensor))}
    torch.onnx.export(
        net, examples, str(path), input_names=names[0], output_names=names[1], opset_version=OPSET, dynamo=False,
        dynamic_axes=axes, do_constant_folding=True,
    )  # fmt: skip


def _pack(scratch: Path, path: Path, recipe: Recipe) -> None:
    """Move an export and its weight files into one graph file, or two above 2 GiB.

    Sizes of outputs that the exporter could not follow through a reshape are those of the recipe; the canaries see
    whether that is true.
    """
    model = onnx.load(scratch / "raw.onnx")
    for tensor, value in zip(recipe.outputs, model.graph.output, strict=True):
        for promised, dim in zip(recipe.graph_shape(tensor), value.type.tensor_type.shape.dim, strict=False):
            if isinstance(promised, int) and dim.HasField("dim_param"):
                dim.dim_value = promised
            elif isinstance(promised, str):
                dim.dim_param = promised
    for file in scratch.iterdir():
        file.unlink()
    scratch.rmdir()
    model.ir_version = min(model.ir_version, IR_VERSION)
    if recipe.streams:
        onnx_graph.set_clip_frames(model, recipe.frames)
    save(model, path)


@contextmanager
def _traceable() -> Iterator[None]:
    """Switch off what cannot be traced, and the warnings about what we chose knowingly."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            for message, category in KNOWN:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _other(exporter: str) -> str:
    return next(name for name in EXPORTERS if name != exporter)


def _open(recipe: Recipe, tensor: Tensor) -> dict[int, str]:
    """Return the name of each axis of a tensor that has no fixed length in the graph."""
    return {axis: dim for axis, dim in enumerate(recipe.graph_shape(tensor)) if isinstance(dim, str)}


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
