"""What is written for Triton, read with Google's parser and Triton's own schema, and bundles of the pipeline served.

`tritonclient` pins another protobuf than ONNX may need, so that it gets an environment of its own.
"""

import json
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy_compile import pbtxt
from deploy_compile.__main__ import main
from deploy_compile.triton import write_repository
from deploy_runtime import load
from deploy_runtime import manifest as manifests
from deploy_runtime.spec import Batch, State
from tests.compile.triton_served import Served
from tests.runtime import tiny_bundle, tiny_stream

pytestmark = pytest.mark.slow
NETS = Path(__file__).parents[1] / "tiny_nets.py"
PARSE = """
import json, pathlib, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
found = []
for path in sys.argv[1:]:
    config = text_format.Parse(pathlib.Path(path).read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    found.append(json_format.MessageToDict(config, preserving_proto_field_name=True))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has Triton's schema."""
    place = tmp_path_factory.mktemp("triton")
    venv.create(place, with_pip=True)
    found = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run([found, "-m", "pip", "install", "--quiet", "tritonclient[grpc]>=2.50,<3"], check=True, timeout=500)
    return found


def parsed(python: Path, *configs: Path) -> list[dict[str, Any]]:
    done = subprocess.run([python, "-c", PARSE, *configs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_triton_reads_every_config_as_it_was_meant(python: Path, tmp_path: Path) -> None:
    whole = tiny_bundle.write(tmp_path / "whole", batch=Batch(1, 2, 4))
    stream = tiny_stream.write(tmp_path / "stream")
    begun = tiny_bundle.changed(
        tiny_stream.write(tmp_path / "begun", Batch(1, 1, 4)), state=(State("h", "h_next", 0.5),)
    )
    device = tiny_bundle.for_device(tiny_bundle.write(tmp_path / "device"))
    cuda = tiny_bundle.write(tmp_path / "cuda")
    rows = manifests.read(cuda).candidates
    tiny_bundle.changed(cuda, candidates=(*rows, replace(rows[1], target="cuda")))
    written = [
        write_repository(bundle, tmp_path / f"repo{number}", target, force=False) / "config.pbtxt"
        for number, (bundle, target) in enumerate(
            ((whole, "cpu"), (stream, "cpu"), (begun, "cpu"), (device, "jetson-jp6"), (cuda, "cuda"))
        )
    ]
    for_whole, for_stream, for_begun, for_jetson, for_cuda = parsed(python, *written)

    assert for_whole["platform"] == "onnxruntime_onnx"
    assert for_whole["max_batch_size"] == 4
    assert for_whole["version_policy"] == {"specific": {"versions": ["1"]}}
    assert for_whole["input"] == [{"name": "image", "data_type": "TYPE_FP32", "dims": ["3", "16", "16"]}]
    assert for_whole["output"] == [
        {"name": "logits", "data_type": "TYPE_FP32", "dims": ["5"], "label_filename": "labels.txt"}
    ]
    assert for_whole["dynamic_batching"] == {"preferred_batch_size": [2, 4], "max_queue_delay_microseconds": "1000"}
    assert [one["batch_size"] for one in for_whole["model_warmup"]] == [1, 2, 4]
    zeros = {"image": {"data_type": "TYPE_FP32", "dims": ["3", "16", "16"], "zero_data": True}}
    assert all(one["inputs"] == zeros for one in for_whole["model_warmup"])
    assert for_whole["parameters"]["intra_op_thread_count"] == {"string_value": "0"}

    assert for_stream["max_batch_size"] == 1
    assert for_stream["input"] == [{"name": "frames", "data_type": "TYPE_FP32", "dims": ["-1", "3", "8", "8"]}]
    assert for_stream["output"] == [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["-1", "4"]}]
    assert not for_stream.keys() & {"dynamic_batching", "model_warmup"}
    assert for_stream["sequence_batching"]["oldest"] == {"max_candidate_sequences": 64}
    (state,) = for_stream["sequence_batching"]["state"]
    assert (state["input_name"], state["output_name"], state["dims"]) == ("h", "h_next", ["1", "8"])
    assert state["initial_state"][0]["zero_data"] is True
    assert state["initial_state"][0]["dims"] == ["1", "8"]
    assert state["initial_state"][0]["data_type"] == "TYPE_FP32"

    assert for_begun["sequence_batching"]["oldest"]["preferred_batch_size"] == [4]
    (begins,) = for_begun["sequence_batching"]["state"][0]["initial_state"]
    assert begins["data_file"] == "state_0.bin"
    assert "zero_data" not in begins

    assert for_jetson["platform"] == "tensorrt_plan"
    assert for_jetson["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]

    assert for_cuda["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]
    (accelerator,) = for_cuda["optimization"]["execution_accelerators"]["gpu_execution_accelerator"]
    assert accelerator == {"name": "cuda", "parameters": {"use_tf32": "0"}}


def test_every_string_comes_back(python: Path, tmp_path: Path) -> None:
    strings = ['a "quoted" \\ word', "two\nlines\tand\r", "bell \x07 and \x7f1", "Ünïcode 日本", ""]
    files = []
    for number, string in enumerate(strings):
        files.append(tmp_path / f"{number}.pbtxt")
        files[-1].write_text(pbtxt.text({"name": string}), encoding="utf-8")
    assert [found.get("name", "") for found in parsed(python, *files)] == strings


@pytest.mark.parametrize("name", ["tiny", "tiny_stream"])
def test_a_bundle_of_the_pipeline_is_served_as_it_is_loaded(
    python: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_CACHE", str(tmp_path / "cache"))
    bundle = tmp_path / "bundle"
    words = ["deploy-compile", "recipe", f"{NETS}:{name}", "--int8", "--target", "cpu", "--target", "jetson-jp7-orin"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(bundle)])
    main()
    model = write_repository(bundle, tmp_path / "repo", "cpu", force=False)
    device = write_repository(bundle, tmp_path / "device", "jetson-jp7-orin", force=False)
    assert [one["platform"] for one in parsed(python, model / "config.pbtxt", device / "config.pbtxt")] == [
        "onnxruntime_onnx", "tensorrt_plan",
    ]  # fmt: skip
    served, golden = Served(model), np.load(bundle / "golden" / "inputs.npz")
    with load(bundle, backend="onnxruntime") as opened:
        assert opened.precision in (model / "README.md").read_text()
        count = len(golden[opened.inputs[0].name])
        samples = [{t.name: golden[t.name][i : i + 1] for t in opened.inputs} for i in range(count)]
        for inputs in samples:
            wanted = opened.run(inputs)
            got = served.infer(inputs, start=True)
            assert all(np.array_equal(got[key], wanted[key]) for key in wanted)
        if served.states:
            film = samples[0]["frames"]
            stream = opened.stream()
            for frame in range(film.shape[1]):
                chunk = {"frames": film[:, frame : frame + 1]}
                got = served.infer(chunk, sequence=1, start=frame == 0)
                assert np.array_equal(got["logits"], stream.step(chunk)["logits"])
