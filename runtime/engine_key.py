"""Where this device keeps the engine that it built from a graph, under a name that says all the engine depends on.

The name follows Holoscan's own convention (`<model>.<GPU>.<compute capability>.<SM count>.trt.<version>.engine`), with
the graph's digest in place of the model's name and the batch sizes beside it: another GPU, TensorRT, graph or batch is
another engine, which is then built, never taken for this one.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy_runtime import cuda, device_cache
from deploy_runtime.data import decode
from deploy_runtime.errors import DeployError
from deploy_runtime.manifest import sha256
from deploy_runtime.spec import Batch

FOLDER = "engines"


@dataclass(frozen=True)
class Made:
    """What stands beside an engine: the form of the graph it was built from, its own digest, how long it took.

    `layers` holds the precision that each heavy ONNX node got, where the inspector tells.
    """

    graph: str
    engine_sha256: str
    seconds: float
    layers: Mapping[str, str]


def place(graph: Path, version: str, batch: Batch) -> Path:
    """Return the path of the engine of `graph` for this GPU and a TensorRT `version`; nothing need stand there."""
    gpu = re.sub(r"[^A-Za-z0-9_-]", "", cuda.gpu().replace(" ", "")) or "no-gpu"
    capability = ".".join(str(part) for part in cuda.compute_capability() or ("none",))
    sizes = f"b{batch.least}-{batch.best}-{batch.most}"
    name = f"{sha256(graph)[:32]}.{gpu}.{capability}.{cuda.multiprocessors()}.trt.{version}.{sizes}.engine"
    return device_cache.folder() / FOLDER / name


def made(engine: Path) -> Made | None:
    """Return what is known of an engine that stands whole in the cache; None where there is none."""
    try:
        return decode(Made, json.loads(engine.with_suffix(".json").read_bytes())) if engine.is_file() else None
    except (OSError, ValueError, DeployError):
        return None
