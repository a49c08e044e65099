"""Which precision each heavy ONNX node got in an engine of full TensorRT, as its inspector tells on the device.

Written after NVIDIA's documentation of the inspector's JSON in version 10 (`Format/Datatype`) and 11 (`DataType`) and
published engines; not run on hardware. So what cannot be read is told as `unknown`, never guessed and never a pass.
The trap: a fused layer names every ONNX node in it, and reformatting and pointwise layers name their neighbours too;
only a layer that multiplies says anything about a convolution or matrix product.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from deploy_runtime.errors import DeployError

UNKNOWN = "unknown"
BESIDE = ("Reformat", "kgen", "NoOp", "Constant", "Shuffle", "PointWise", "PointWiseV2", "Signal", "Wait", "Cast")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TYPES = (  # of the words that a format may say; bf16 first, since its name holds another's
    (re.compile(r"BF16|BFloat16", re.IGNORECASE), "bf16"),
    (re.compile(r"Int8", re.IGNORECASE), "int8"),
    (re.compile(r"FP16|Half", re.IGNORECASE), "fp16"),
    (re.compile(r"FP32|Float\b", re.IGNORECASE), "fp32"),
)


def inspected(trt: Any, content: bytes) -> str:
    """Return what the inspector tells of all layers of a serialized engine, built at detailed verbosity, as JSON.

    Raises DeployError where it does not load on this device.
    """
    loader = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = loader.deserialize_cuda_engine(content)
    if engine is None:
        raise DeployError("the engine that was built does not load", "Build it again; report it with the versions.")
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def precisions(told: str, nodes: Iterable[str]) -> dict[str, str]:
    """Return the precision of each of the ONNX `nodes` that a layer names; `unknown` where it does not say which.

    Raises DeployError where the text is not the inspector's detailed JSON.
    """
    layers = _layers(told)
    wanted = set(nodes)
    found: dict[str, str] = {}
    for layer in layers:
        if layer.get("LayerType") in BESIDE:
            continue
        for node in wanted.intersection(_nodes(layer)):
            precision = _precision(layer)
            found[node] = precision if found.get(node, precision) == precision else UNKNOWN
    return found


def _layers(told: str) -> list[Mapping[str, Any]]:
    try:
        layers = json.loads(told)["Layers"]
    except (ValueError, TypeError, KeyError) as error:
        raise DeployError("the engine's inspector gave no table of layers", "Report it with the log.") from error
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise DeployError(
            "the engine's inspector gave names of layers only", "Build the engine again with this runtime."
        )
    return layers


def _nodes(layer: Mapping[str, Any]) -> list[str]:
    """Return the ONNX nodes of a layer: by its metadata, else by its own name, where fused ones stand with ` + `."""
    return _NODE.findall(str(layer.get("Metadata", ""))) or str(layer.get("Name", "")).split(" + ")


def _precision(layer: Mapping[str, Any]) -> str:
    """Return the type that a layer reads; int8 only where its weights are not told to be of another."""
    inputs = layer.get("Inputs")
    first = inputs[0] if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) else {}
    read = _type(first.get("DataType") or first.get("Format/Datatype") or "")
    weights = layer.get("Weights")
    held = _type(weights.get("Type", "")) if isinstance(weights, dict) else read
    return UNKNOWN if read == "int8" and held != "int8" else read


def _type(text: object) -> str:
    return next((name for pattern, name in _TYPES if pattern.search(str(text))), UNKNOWN)
