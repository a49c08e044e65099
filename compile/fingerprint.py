"""What can change a result, as digests: content of files, source of modules, versions of libraries, the machine.

A module's source counts with that of all it imports, however deep, that is ours or lies beside it; nothing is imported
to find out. The trap: a folder counts by names, sizes and times, since hashing hours of video would take minutes.
"""

import ast
import functools
import hashlib
import inspect
import json
import re
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from deploy_compile.disk import told
from deploy_compile.machine import identity, versions

ONE_PARSER = threading.Lock()  # ast.parse of Python 3.11 counts its depth for all threads together, and then fails
CALLED = re.compile(r"[\w.]+:\w+")  # what a worker is told to run, by name; other strings may be named as modules are
PACKAGES = ("deploy_compile", "deploy_recipes", "deploy_runtime")
LIBRARIES = (
    "torch", "torchvision", "timm", "pytorchvideo", "transformers", "onnx", "onnxsim", "onnxscript",
    "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt_rtx_cu13", "numpy", "av", "Pillow", "pydicom",
    "safetensors",
)  # fmt: skip


def fingerprint(path: Path) -> str:
    """Digest a file by content, a folder by names, sizes and times. Raises DeployError where it cannot be read."""
    try:
        if path.is_file():
            return file_digest(path)
        entries = sorted((p.relative_to(path).as_posix(), p.stat()) for p in path.rglob("*") if p.is_file())
    except OSError as error:
        raise told(error, path) from error
    listing = json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in entries])
    return hashlib.sha256(listing.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def environment() -> str:
    """Digest the versions of the libraries and the kind of machine."""
    return hashlib.sha256(json.dumps([versions(*LIBRARIES), identity()], sort_keys=True).encode()).hexdigest()


def source_digest(module: str) -> str:
    """Digest a module's source and that of all it imports, however deep, that is ours or lies in the same folder."""
    with ONE_PARSER:
        return _source_digest(module)


@functools.cache
def _source_digest(module: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(_reach(module)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _reach(module: str) -> set[Path]:
    seen: set[Path] = set()
    first = _ours(module) if module.partition(".")[0] in PACKAGES else inspect.getsourcefile(sys.modules[module])
    todo = [Path(first)] if first else []
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imports(path)
    return seen


@functools.cache
def _imports(path: Path) -> tuple[Path, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and CALLED.fullmatch(node.value):
            names.add(node.value.partition(":")[0])
    found = [_ours(name) if name.partition(".")[0] in PACKAGES else _beside(name, path) for name in names]
    return tuple(source for source in found if source is not None)


def _ours(name: str) -> Path | None:
    """Where a module of ours stands, found without importing it; None for a name in a module, such as a class."""
    package, *inner = name.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None or not all(part.isidentifier() for part in inner):
        return None
    place = Path(spec.origin).parent.joinpath(*inner)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _beside(name: str, path: Path) -> Path | None:
    """A module in the same folder, for a user's own files; ours are imported by their full names."""
    source = path.parent / f"{name.partition('.')[0]}.py"
    return source if source.is_file() else None
