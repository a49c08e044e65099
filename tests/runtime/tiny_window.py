"""A whole bundle of a tiny network that reads later frames too: every frame's features beside the mean of a window."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
from onnx import helper

from deploy_runtime import manifest as manifests
from deploy_runtime.evidence import Golden
from deploy_runtime.spec import State, Tensor
from tests.runtime import tiny_stream
from tests.runtime.tiny_stream import CLASSES, MAPS

WINDOW = 6
INPUTS = (tiny_stream.INPUTS[0], Tensor("seen", ("batch", WINDOW - 1, MAPS), layout="NFC"))
OUTPUTS = (
    Tensor("logits", ("batch", WINDOW, CLASSES), layout="NFC"),
    Tensor("seen_next", ("batch", WINDOW - 1, MAPS), layout="NFC"),
)


def graph(path: Path) -> Path:
    """Write frames [batch, time, 3, 8, 8] and seen [batch, 5, 4] -> logits [batch, 6, 4] and seen_next."""
    rng = np.random.default_rng(0)
    nodes, constants = tiny_stream.encoder(rng)
    number = tiny_stream.numbers
    constants += [
        tiny_stream.weights(rng, "head", MAPS, CLASSES), number("first", -WINDOW), number("second", 1 - WINDOW),
        number("end", 2**31), number("time_axis", 1),
    ]  # fmt: skip
    nodes += [
        helper.make_node("Concat", ["seen", "features"], ["known"], "/known", axis=1),
        helper.make_node("Slice", ["known", "first", "end", "time_axis"], ["window"], "/window"),
        helper.make_node("Slice", ["known", "second", "end", "time_axis"], ["seen_next"], "/seen"),
        helper.make_node("ReduceMean", ["window", "time_axis"], ["mean"], "/over_time"),
        helper.make_node("Sub", ["window", "mean"], ["centred"], "/centred"),
        helper.make_node("MatMul", ["centred", "head"], ["logits"], "/head/MatMul"),
    ]
    return tiny_stream.save(path, INPUTS, OUTPUTS, nodes, constants)


def reference(path: Path, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return what onnx's reference evaluator gives of a whole window."""
    seen = np.zeros((len(frames), WINDOW - 1, MAPS), np.float32)
    found = onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, {"frames": frames, "seen": seen})
    assert isinstance(found, list)
    return dict(zip(("logits", "seen_next"), map(np.asarray, found), strict=True))


def write(folder: Path) -> Path:
    """Write a bundle that ships the graph for OpenVINO and ONNX Runtime."""
    tiny_stream.write(folder)
    path = graph(folder / "graphs" / "fp32.onnx")
    clips = np.load(folder / "golden" / "inputs.npz")["frames"]
    seen = np.zeros((len(clips), WINDOW - 1, MAPS), np.float32)
    np.savez(folder / "golden" / "inputs.npz", frames=clips, seen=seen)
    np.savez(folder / "golden" / "outputs.npz", **reference(path, clips))  # type: ignore[arg-type]
    found = replace(
        manifests.read(folder),
        inputs=INPUTS,
        outputs=OUTPUTS,
        state=(State("seen", "seen_next", window=WINDOW),),
        golden=Golden(len(clips), True, {"logits": 1e-7, "seen_next": 1e-7}),
        files=(),
    )
    manifests.write(folder, found)
    return folder
