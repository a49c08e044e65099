"""A model of a Triton model repository, from a bundle: the graph, its configuration, what to know about it.

    REPO/<model>/config.pbtxt           what Triton is told (triton_config)
    REPO/<model>/1/model.onnx           the graph, byte for byte; *.data beside it where its weights are outside
    REPO/<model>/labels.txt             where the bundle has class names
    REPO/<model>/initial_state/         where a stream does not begin at zero
    REPO/<model>/README.md              how to start it, what Triton does not do, what was never run

For full TensorRT `1/` is empty: the device makes `model.plan`, and the README holds the command. Other models of the
same repository are left alone. Nothing was ever run in Triton itself: see docs/triton.md for what was checked.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from deploy_compile import pbtxt, triton_config, triton_readme
from deploy_compile.disk import replacing_folder
from deploy_compile.reproduce import command
from deploy_compile.targets import Target, get
from deploy_compile.triton_config import PLATFORMS, VERSION, Port, served
from deploy_runtime import manifest as manifests
from deploy_runtime.device_build import TRIED_FIRST
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.selection import runnable

CONFIG = "config.pbtxt"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a model, which is that of a folder
Content = bytes | Path  # of a file: itself, or where it is copied from


def write_repository(bundle: Path, out: Path, target: str, force: bool) -> Path:
    """Write the model of a bundle into the repository `out`, whole or not at all; return the model's folder.

    What stands there already and is the same is left alone. Raises DeployError where it differs and `force` is not
    given, where the bundle is damaged or ships nothing for the target, and where Triton could not serve what it ships.
    """
    wanted = get(target)
    found = manifests.read(bundle)
    manifests.verify_files(bundle, found)
    if not NAME.fullmatch(found.name):
        raise DeployError(f"{found.name!r} cannot be the name of a folder everywhere", "Rename the recipe.")
    row = graph_of(found, wanted)
    files = contents(bundle, found, row, wanted)
    place = out / found.name
    if _same(place, files):
        return place
    _check_place(place, force)
    with replacing_folder(place) as partial:
        for path, content in files.items():
            _write(partial / path, content)
    return place


def graph_of(manifest: Manifest, target: Target) -> Candidate:
    """Return the candidate that Triton is to serve: the best that ships, or on a device the one to try first.

    Raises UsageError where Triton has no backend for the target, DeployError where nothing ships for it.
    """
    if not PLATFORMS.keys() & set(target.backends):
        raise UsageError(
            f"Triton has no backend for what runs on {target.name}: {' and '.join(target.backends)}",
            f"It serves {', '.join(served())}.",
        )
    rows = [row for row in runnable(manifest) if row.target == target.name and row.backend in PLATFORMS]
    if not rows:
        raise DeployError(
            f"{manifest.name} ships nothing that Triton could serve on {target.name}",
            f"Build it for that: {' '.join(command(manifest))} --target {target.name}",
        )
    if rows[0].backend == "tensorrt":
        rows.sort(key=lambda row: TRIED_FIRST.index(row.precision))
    return rows[0]


def contents(bundle: Path, manifest: Manifest, row: Candidate, target: Target) -> dict[str, Content]:
    """Return every file of the model by its path in the model's folder; a path that ends in `/` is an empty folder."""
    assert row.file is not None
    graph = bundle / row.file
    ports, outside, quantized_products = read_graph(graph)
    digest = manifests.digest(bundle)
    said = triton_config.config(manifest, row, ports, digest)
    told = triton_readme.page(manifest, row, target, digest, quantized_products)
    files: dict[str, Content] = {CONFIG: pbtxt.text(said).encode(), "README.md": told.encode()}
    if row.backend == "onnxruntime":
        files[f"{VERSION}/model.onnx"] = graph
        files |= {f"{VERSION}/{name}": _beside(manifest, bundle, row.file, name) for name in outside}
    else:
        files[f"{VERSION}/"] = b""
    if any(triton_config.labelled(manifest, tensor) for tensor in manifest.data_outputs):
        files[triton_config.LABELS] = "".join(f"{label}\n" for label in manifest.labels).encode()
    tensors = {tensor.name: tensor for tensor in manifest.inputs}
    for state in manifest.state:
        if state.initial:
            values = np.full(tensors[state.input].at(1), state.initial, tensors[state.input].dtype)
            files[f"initial_state/{triton_config.data_file(manifest, state)}"] = values.tobytes()
    return files


def read_graph(path: Path) -> tuple[tuple[dict[str, Port], dict[str, Port]], tuple[str, ...], bool]:
    """Return a graph's inputs and outputs, the names of the files that hold its weights, and whether it has products
    of quantized matrices.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    ports = (
        {value.name: _port(value) for value in model.graph.input if value.name not in weights},
        {value.name: _port(value) for value in model.graph.output},
    )
    outside = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    products = any(node.op_type == "MatMul" and set(node.input) <= dequantized for node in model.graph.node)
    return ports, tuple(sorted(outside)), products


def _port(value: object) -> Port:
    import onnx

    assert isinstance(value, onnx.ValueInfoProto)
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else triton_config.OPEN for dim in kind.shape.dim)
    return Port(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)


def _beside(manifest: Manifest, bundle: Path, graph: str, name: str) -> Path:
    """Return a file of weights beside a graph, one that the manifest lists: a graph may name any path it likes."""
    path = (PurePosixPath(graph).parent / name).as_posix()
    if PurePosixPath(name).name != name or path not in {file.path for file in manifest.files}:
        raise DeployError(f"{graph} reads its weights from {name!r}, which is no file of the bundle", "Build it again.")
    return bundle / path


def _same(place: Path, files: Mapping[str, Content]) -> bool:
    if place.is_symlink() or not place.is_dir():
        return False
    wanted = {PurePosixPath(path) for path in files}
    wanted |= {parent for path in wanted for parent in path.parents if parent.parts}
    there = {PurePosixPath(path.relative_to(place).as_posix()) for path in place.rglob("*")}
    return wanted == there and all(_equal(place / path, content) for path, content in files.items())


def _equal(path: Path, content: Content) -> bool:
    if content == b"" or path.is_dir():
        return content == b"" and path.is_dir()
    if isinstance(content, bytes):
        return path.read_bytes() == content
    return path.stat().st_size == content.stat().st_size and manifests.sha256(path) == manifests.sha256(content)


def _check_place(place: Path, force: bool) -> None:
    if not place.exists() and not place.is_symlink():
        return
    if not (place / CONFIG).is_file():
        raise DeployError(
            f"{place} holds something else than a model of Triton's",
            "Give --out another folder; not even --force replaces what is no model.",
        )
    if not force:
        raise DeployError(
            f"{place} holds another model than this command writes",
            "Give --force to replace it, with a model.plan that was made in it, or --out for another repository.",
        )


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes) and content:
        path.write_bytes(content)
    elif isinstance(content, bytes):
        path.mkdir(exist_ok=True)
    else:
        shutil.copyfile(content, path)
